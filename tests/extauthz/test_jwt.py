"""Claims: what a token must say, to the second and to the byte."""

from __future__ import annotations

from typing import Any

import jwt as pyjwt
import pytest

from extauthz.core import jwt
from extauthz.core.jwk import secret_key
from extauthz.core.jws import TokenRefused
from extauthz.policy import ClaimNames, Issuer, SharedSecret
from serving.secret import Secret
from tests.extauthz.worlds import NOW, OTHER_SECRET, SECRET, token


def issuers(**changes: Any) -> dict[str, jwt.Issuer]:
    usual: dict[str, Any] = {"issuer": "https://main", "audiences": ("api", "web")}
    main = Issuer(keys=SharedSecret(secret=Secret(SECRET)), **(usual | changes))
    other = Issuer(issuer="https://other", audiences=("api",), keys=SharedSecret(secret=Secret(OTHER_SECRET)))
    return {
        "https://main": jwt.Issuer("main", main, secret_key(SECRET)),
        "https://other": jwt.Issuer("other", other, secret_key(OTHER_SECRET)),
    }


def verify(text: str, now: float = NOW, **issuer: Any) -> jwt.Verified:
    return jwt.verify(text, issuers(**issuer), now)


def test_the_identity_is_what_the_claims_say() -> None:
    found = verify(token(scope="a:read a:write", tier="pro", jti="t-1")).identity
    assert (found.user, found.tenant, found.tier, found.roles) == ("u1", "acme", "pro", ("a", "b"))
    assert (found.scopes, found.token_id, found.issuer) == (("a:read", "a:write"), "t-1", "main")
    assert (found.issued_at, found.not_after) == (NOW - 10, NOW + 600 + 30)


def test_claims_are_found_by_configured_names_and_paths() -> None:
    names = ClaimNames(user="email", tenant="org.id", roles="realm_access.roles", scopes="scp", tier="a.b")
    found = verify(
        token(email="a@b.c", org={"id": 7}, realm_access={"roles": ["x"]}, scp=["s"], **{"a.b": "dotted"}), claims=names
    ).identity
    assert (found.user, found.tenant, found.roles, found.scopes, found.tier) == ("a@b.c", "7", ("x",), ("s",), "dotted")


BIG = 2**60
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no exp": ({"exp": None}, "claim_missing"),
    "no iat": ({"iat": None}, "claim_missing"),
    "no iss": ({"iss": None}, "issuer_unknown"),
    "no aud": ({"aud": None}, "claim_missing"),
    "no sub": ({"sub": None}, "claim_missing"),
    "exp as text": ({"exp": str(NOW + 600)}, "token_malformed"),
    "exp as a fraction": ({"exp": NOW + 600.5}, "token_malformed"),
    "exp as a whole float": ({"exp": float(NOW + 600)}, "token_malformed"),
    "exp as a boolean": ({"exp": True}, "token_malformed"),
    "exp in a list": ({"exp": [NOW + 600]}, "token_malformed"),
    "exp below zero": ({"exp": -1}, "token_malformed"),
    "exp beyond reason": ({"exp": BIG}, "token_malformed"),
    "iat as a boolean": ({"iat": True}, "token_malformed"),
    "iat as text": ({"iat": str(NOW)}, "token_malformed"),
    "iat after exp": ({"iat": NOW + 700}, "token_malformed"),
    "nbf as text": ({"nbf": "0"}, "token_malformed"),
    "nbf as a fraction": ({"nbf": NOW - 0.5}, "token_malformed"),
    "a lifetime that is too long": ({"exp": NOW + 90_000}, "lifetime_exceeded"),
    "another issuer": ({"iss": "https://evil"}, "issuer_unknown"),
    "an issuer that begins right": ({"iss": "https://main/"}, "issuer_unknown"),
    "a part of an issuer": ({"iss": "https://mai"}, "issuer_unknown"),
    "the other issuer's name with this issuer's key": ({"iss": "https://other"}, "signature_invalid"),
    "another audience": ({"aud": "evil"}, "audience_mismatch"),
    "a part of an audience": ({"aud": "ap"}, "audience_mismatch"),
    "audiences joined as text": ({"aud": "api web"}, "audience_mismatch"),
    "an empty list of audiences": ({"aud": []}, "token_malformed"),
    "a number among audiences": ({"aud": ["api", 1]}, "token_malformed"),
    "an empty audience among others": ({"aud": ["api", ""]}, "token_malformed"),
    "an object as audience": ({"aud": {"api": 1}}, "token_malformed"),
    "an empty subject": ({"sub": ""}, "claim_invalid"),
    "a subject with a comma": ({"sub": "a,b"}, "claim_invalid"),
    "a subject with a line break": ({"sub": "a\r\nx: y"}, "claim_invalid"),
    "a subject with a zero byte": ({"sub": "a\0"}, "claim_invalid"),
    "a subject outside ASCII": ({"sub": "ann\u00e9"}, "claim_invalid"),
    "a subject that is too long": ({"sub": "x" * 257}, "claim_invalid"),
    "a tenant that is a list": ({"tenant_id": ["acme"]}, "claim_invalid"),
    "a tenant that is an object": ({"tenant_id": {"id": "acme"}}, "claim_invalid"),
    "a tenant that is a boolean": ({"tenant_id": True}, "claim_invalid"),
    "a tenant with a space": ({"tenant_id": "ac me"}, "claim_invalid"),
    "an empty tenant": ({"tenant_id": ""}, "claim_invalid"),
    "a role with a comma in a list": ({"roles": ["a,admin"]}, "claim_invalid"),
    "a role with a line break": ({"roles": ["a\nx"]}, "claim_invalid"),
    "a role that is a number": ({"roles": [1]}, "claim_invalid"),
    "roles that are an object": ({"roles": {"admin": True}}, "claim_invalid"),
    "too many roles": ({"roles": [f"r{n}" for n in range(65)]}, "claim_invalid"),
    "a jti that is a number": ({"jti": 1}, "token_malformed"),
    "an empty jti": ({"jti": ""}, "token_malformed"),
    "a refresh token of Keycloak": ({"typ": "Refresh"}, "token_type_mismatch"),
    "an ID token of Keycloak": ({"typ": "ID"}, "token_type_mismatch"),
    "an ID token of Cognito": ({"token_use": "id"}, "token_type_mismatch"),
    "a refresh token by type": ({"type": "refresh"}, "token_type_mismatch"),
    "a kind that is a list": ({"token_type": ["access"]}, "token_type_mismatch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    changes, reason = REFUSED[case]
    text = token(**changes) if not isinstance(changes.get("iss"), int) else ""
    with pytest.raises(TokenRefused) as refused:
        verify(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize("kind", ["access", "Bearer", "access_token", "at+jwt"])
def test_an_access_token_may_say_that_it_is_one(kind: str) -> None:
    assert verify(token(token_use=kind))


EDGES = {
    "the last moment": (NOW + 600 + 30 - 0.001, None),
    "the end": (NOW + 600 + 30, "token_expired"),
    "issued within the leeway ahead": (NOW - 10 - 30, None),
    "issued beyond the leeway ahead": (NOW - 10 - 30.001, "token_not_yet_valid"),
}


@pytest.mark.parametrize("case", EDGES)
def test_the_edges_of_a_life(case: str) -> None:
    now, reason = EDGES[case]
    if reason is None:
        assert verify(token(), now)
        return
    with pytest.raises(TokenRefused, match=reason):
        verify(token(), now)


def test_not_before_has_the_leeway_too() -> None:
    assert verify(token(nbf=NOW + 30))
    with pytest.raises(TokenRefused, match="token_not_yet_valid"):
        verify(token(nbf=NOW + 31))


TYPES = {
    "JWT": (("at+jwt", "jwt"), True),
    "at+jwt": (("at+jwt", "jwt"), True),
    "application/at+jwt": (("at+jwt", "jwt"), True),
    "AT+JWT": (("at+jwt", "jwt"), True),
    "rt+jwt": (("at+jwt", "jwt"), False),
    "logout+jwt": (("at+jwt", "jwt"), False),
    "dpop+jwt": (("at+jwt", "jwt"), False),
    "": (("at+jwt", "jwt"), False),
}


@pytest.mark.parametrize("typ", TYPES)
def test_the_type_is_one_of_a_list(typ: str) -> None:
    types, accepted = TYPES[typ]
    text = token(headers={"typ": typ}) if typ else token(headers={"typ": None})
    if accepted:
        assert verify(text, types=types)
    else:
        with pytest.raises(TokenRefused, match="token_type_mismatch"):
            verify(text, types=types)


def test_no_type_is_accepted_where_the_issuer_is_known_to_send_none() -> None:
    assert verify(token(headers={"typ": None}), types=("",))


@pytest.mark.parametrize("audience", ["api", ["api"], ["evil", "web"]])
def test_one_audience_is_enough(audience: Any) -> None:
    assert verify(token(aud=audience))


def test_an_issuer_without_keys_is_nobodys_fault() -> None:
    main = issuers()["https://main"]
    with pytest.raises(jwt.KeysUnavailable):
        jwt.verify(token(), {"https://main": jwt.Issuer("main", main.policy, None)}, NOW)


PAYLOADS = {
    "a claim twice": b'{"iss":"https://main","sub":"a","sub":"b"}',
    "a list": b"[]",
    "no JSON": b"sub=a",
    "not UTF-8": b'{"iss":"https://main","sub":"\xff"}',
    "half a surrogate pair": b'{"iss":"https://main","sub":"\\ud800"}',
    "nothing": b"",
    "an issuer that is a list": b'{"iss":["https://main"]}',
    "an issuer that is an object": b'{"iss":{}}',
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_a_payload_is_refused(case: str) -> None:
    text = pyjwt.api_jws.encode(PAYLOADS[case], SECRET, algorithm="HS256")
    with pytest.raises(TokenRefused):
        verify(text)
