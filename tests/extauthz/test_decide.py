"""Decisions: every way in, every way out, and that bytes and reason agree."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from extauthz.core.decide import Decision, PasswordNeeded
from extauthz.core.jwk import secret_key
from extauthz.core.reasons import REFUSALS
from extauthz.core.revocations import Revocation, Revocations
from extauthz.policy import (
    ClaimCondition,
    FromClaim,
    Proof,
    RoutePolicy,
    TenantFixed,
    TenantInHost,
    TenantInPath,
)
from serving.secret import Secret
from tests.extauthz.worlds import (
    ENDED_KEY,
    KEY,
    NOW,
    OTHER_SECRET,
    SECRET,
    answer,
    authorizer,
    check,
    decide,
    document,
    is_allow,
    request,
    token,
    with_policy,
)


def basic(user: str, password: str) -> tuple[bytes, ...]:
    return (b"Basic " + b64encode(f"{user}:{password}".encode()),)


def test_an_allowed_request_gets_each_header_once_and_loses_those_without_a_value() -> None:
    found = answer(decide(document(), request(token())))
    assert found["headers"] == {"x-user-id": "u1", "x-tenant-id": "acme", "x-user-roles": "a,b"}
    assert found["actions"] == {2}  # OVERWRITE_IF_EXISTS_OR_ADD
    assert found["remove"] == ["x-api-key", "x-email"]
    assert found["metadata"] == {
        "user": "u1",
        "tenant": "acme",
        "roles": "a,b",
        "policy": "required",
        "reason": "ok",
    }


def test_an_api_key_has_an_identity_too() -> None:
    found = answer(decide(document(), request(api_key=(KEY.text.encode(),))))
    assert found["headers"] == {"x-user-id": "robot", "x-tenant-id": "acme", "x-user-roles": "reader"}
    assert found["metadata"]["api_key"] == KEY.id
    assert found["metadata"]["tier"] == "pro"


def test_a_password_is_checked_elsewhere_and_then_remembered() -> None:
    one = authorizer()
    asked = request(authorization=basic("ann", "pw"))
    assert isinstance(one.decide(asked, NOW), PasswordNeeded)
    decision = one.decide(asked, NOW, password=True)
    assert isinstance(decision, Decision)
    assert decision.allowed
    assert "authorization" in answer(decision)["remove"]
    again = one.decide(asked, NOW)
    assert isinstance(again, Decision)
    assert again.allowed
    wrong = one.decide(request(authorization=basic("ann", "no")), NOW, password=False)
    assert isinstance(wrong, Decision)
    assert wrong.reason == "password_invalid"


BEARER = b"Bearer " + token().encode()
OTHER = token(OTHER_SECRET, iss="https://other")
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing sent": ({}, {}, "credentials_missing"),
    "two Authorization headers": ({}, {"authorization": (BEARER, BEARER)}, "credentials_ambiguous"),
    "a token and an API key": (
        {},
        {"authorization": (BEARER,), "api_key": (KEY.text.encode(),)},
        "credentials_ambiguous",
    ),
    "two API keys": ({}, {"api_key": (KEY.text.encode(), KEY.text.encode())}, "credentials_ambiguous"),
    "an unknown scheme": ({}, {"authorization": (b"Digest x",)}, "credentials_malformed"),
    "an empty Authorization header": ({}, {"authorization": (b"",)}, "credentials_malformed"),
    "a scheme alone": ({}, {"authorization": (b"Bearer",)}, "token_malformed"),
    "two spaces": ({}, {"authorization": (b"Bearer  " + token().encode(),)}, "token_malformed"),
    "two tokens joined": ({}, {"authorization": (BEARER + b", " + BEARER,)}, "token_malformed"),
    "bytes outside ASCII": ({}, {"authorization": (b"Bearer \xff\xfe",)}, "token_malformed"),
    "an API key that is none": ({}, {"api_key": (b"cw_x_y",)}, "api_key_invalid"),
    "an API key outside ASCII": ({}, {"api_key": (b"\xff" * 70,)}, "api_key_invalid"),
    "an empty API key": ({}, {"api_key": (b"",)}, "api_key_invalid"),
    "an API key with another secret": ({}, {"api_key": ((KEY.text[:-1] + "a").encode(),)}, "api_key_invalid"),
    "an API key that has ended": ({}, {"api_key": (ENDED_KEY.text.encode(),)}, "api_key_expired"),
    "Basic that is not base64": ({}, {"authorization": (b"Basic %%%",)}, "credentials_malformed"),
    "Basic without a colon": ({}, {"authorization": (b"Basic " + b64encode(b"ann"),)}, "credentials_malformed"),
    "a kind that is not accepted": ({"accept": ("api_key",)}, {"authorization": (BEARER,)}, "credentials_not_accepted"),
    "an issuer that is not accepted": (
        {"issuers": ("main",)},
        {"authorization": (b"Bearer " + OTHER.encode(),)},
        "issuer_not_accepted",
    ),
    "a bad token where none is needed": ({"mode": "optional"}, {"authorization": (b"Bearer x",)}, "token_malformed"),
    "a role that is missing": ({"roles": (("admin", "root"),)}, {"authorization": (BEARER,)}, "role_missing"),
    "one group of roles that is missing": (
        {"roles": (("a",), ("admin",))},
        {"authorization": (BEARER,)},
        "role_missing",
    ),
    "a role that is a part of one": ({"roles": (("aa",),)}, {"authorization": (BEARER,)}, "role_missing"),
    "a scope that is missing": ({"scopes": (("s",),)}, {"authorization": (BEARER,)}, "scope_missing"),
    "a claim that is missing": (
        {"claims": ((ClaimCondition(claim="plan", one_of=("pro",)),),)},
        {"authorization": (BEARER,)},
        "claim_mismatch",
    ),
    "a claim that only looks equal": (
        {"claims": ((ClaimCondition(claim="level", one_of=(True,)),),)},
        {"authorization": (b"Bearer " + token(level=1).encode(),)},
        "claim_mismatch",
    ),
    "a claim asked of an API key": (
        {"claims": ((ClaimCondition(claim="sub", one_of=("robot",)),),)},
        {"api_key": (KEY.text.encode(),)},
        "claim_mismatch",
    ),
    "an address that is not allowed": (
        {"ip_allow": (("10.0.0.0/8",),)},
        {"authorization": (BEARER,)},
        "ip_denied",
    ),
    "an address allowed by one rule of two": (
        {"ip_allow": (("192.0.2.0/24",), ("10.0.0.0/8",))},
        {"authorization": (BEARER,)},
        "ip_denied",
    ),
    "an address that is denied": (
        {"ip_allow": (("192.0.2.0/24",),), "ip_deny": ("192.0.2.1/32",)},
        {"authorization": (BEARER,)},
        "ip_denied",
    ),
    "a denied address written as IPv6": (
        {"ip_deny": ("192.0.2.1/32",)},
        {"authorization": (BEARER,), "address": "::ffff:192.0.2.1"},
        "ip_denied",
    ),
    "an address that cannot be read": (
        {"ip_deny": ("10.0.0.0/8",)},
        {"authorization": (BEARER,), "address": "pipe"},
        "ip_denied",
    ),
    "a public route from a denied address": ({"mode": "public", "ip_deny": ("192.0.2.0/24",)}, {}, "ip_denied"),
    "another tenant in the path": (
        {"tenants": (TenantInPath(segment=1),)},
        {"authorization": (BEARER,), "path": "/t/globex/x"},
        "tenant_mismatch",
    ),
    "another tenant in the path, the own in the query": (
        {"tenants": (TenantInPath(segment=1),)},
        {"authorization": (BEARER,), "path": "/t/globex?/acme"},
        "tenant_mismatch",
    ),
    "a path that is too short for a tenant": (
        {"tenants": (TenantInPath(segment=1),)},
        {"authorization": (BEARER,), "path": "/t"},
        "tenant_mismatch",
    ),
    "the own tenant encoded": (
        {"tenants": (TenantInPath(segment=1),)},
        {"authorization": (BEARER,), "path": "/t/%61cme"},
        "tenant_mismatch",
    ),
    "another tenant in the host": (
        {"tenants": (TenantInHost(suffix=".x.test"),)},
        {"authorization": (BEARER,), "host": "globex.x.test"},
        "tenant_mismatch",
    ),
    "the own tenant before another suffix": (
        {"tenants": (TenantInHost(suffix=".x.test"),)},
        {"authorization": (BEARER,), "host": "acme.y.test"},
        "tenant_mismatch",
    ),
    "a host that repeats the suffix": (
        {"tenants": (TenantInHost(suffix=".x.test"),)},
        {"authorization": (BEARER,), "host": "acme.x.test.x.test"},
        "tenant_mismatch",
    ),
    "a route of another tenant": (
        {"tenants": (TenantFixed(tenant="globex"),)},
        {"authorization": (BEARER,)},
        "tenant_mismatch",
    ),
    "an identity without a tenant": (
        {"tenants": (TenantFixed(tenant="acme"),)},
        {"authorization": (b"Bearer " + token(tenant_id=None).encode(),)},
        "tenant_mismatch",
    ),
    "CONNECT": ({}, {"authorization": (BEARER,), "method": "CONNECT"}, "request_refused"),
    "no path": ({}, {"authorization": (BEARER,), "path": ""}, "request_refused"),
    "a path that is no path": ({}, {"authorization": (BEARER,), "path": "*"}, "request_refused"),
    "a fragment": ({}, {"authorization": (BEARER,), "path": "/a#b"}, "request_refused"),
    "a backslash": ({}, {"authorization": (BEARER,), "path": "/a\\..\\b"}, "request_refused"),
    "dots behind a semicolon": ({}, {"authorization": (BEARER,), "path": "/a/..;/b"}, "request_refused"),
    "encoded dots": ({}, {"authorization": (BEARER,), "path": "/a/%2e%2E/b"}, "request_refused"),
    "half encoded dots behind a semicolon": (
        {},
        {"authorization": (BEARER,), "path": "/a/.%2e;x=y/b"},
        "request_refused",
    ),
    "an encoded slash behind dots": ({}, {"authorization": (BEARER,), "path": "/a/..%2fb"}, "request_refused"),
    "dots at the end": ({}, {"authorization": (BEARER,), "path": "/a/.."}, "request_refused"),
    "a control character": ({}, {"authorization": (BEARER,), "path": "/a\x01"}, "request_refused"),
    "a path outside ASCII": ({}, {"authorization": (BEARER,), "path": "/\u00e9"}, "request_refused"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    policy, changes, reason = REFUSED[case]
    decision = decide(with_policy(**policy), request(policy="p", **changes))
    assert (decision.allowed, decision.reason) == (False, reason)
    found = answer(decision)
    refusal = REFUSALS[reason]
    assert found["status"] == refusal.status
    assert found["body"]["code"] == refusal.code
    assert found["body"]["policy"] == "p"
    assert found["body"]["request_id"] == "r1"
    assert found["metadata"] == {"policy": "p", "reason": reason}
    assert bool(found["challenges"]) == (refusal.status == 401 or reason == "scope_missing")


PASSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the scheme in capitals": ({}, {"authorization": (b"BEARER " + token().encode(),)}),
    "no credential where none is needed": ({"mode": "optional"}, {}),
    "rubbish on a public route": ({"mode": "public"}, {"authorization": (b"x",), "api_key": (b"y", b"z")}),
    "one role of a group": ({"roles": (("admin", "b"),)}, {"authorization": (BEARER,)}),
    "a role in each group": ({"roles": (("a",), ("b", "c"))}, {"authorization": (BEARER,)}),
    "a claim in a list": (
        {"claims": ((ClaimCondition(claim="roles", one_of=("b",)),),)},
        {"authorization": (BEARER,)},
    ),
    "an allowed address": ({"ip_allow": (("192.0.2.0/24", "10.0.0.0/8"),)}, {"authorization": (BEARER,)}),
    "the own tenant in the path": (
        {"tenants": (TenantInPath(segment=1),)},
        {"authorization": (BEARER,), "path": "/t/acme/x?y"},
    ),
    "the own tenant in the host": (
        {"tenants": (TenantInHost(suffix=".x.test"),)},
        {"authorization": (BEARER,), "host": "Acme.x.test:8080"},
    ),
    "a semicolon that leads nowhere": ({}, {"authorization": (BEARER,), "path": "/a;v=1/b"}),
    "dots in a name": ({}, {"authorization": (BEARER,), "path": "/a..b/.well-known/...x"}),
    "dots in a query": ({}, {"authorization": (BEARER,), "path": "/a?b=/../c"}),
}


@pytest.mark.parametrize("case", PASSES)
def test_passes(case: str) -> None:
    policy, changes = PASSES[case]
    assert decide(with_policy(**policy), request(policy="p", **changes)).reason == "ok"


@pytest.mark.parametrize("name", ["", "other", "required "])
def test_a_policy_that_is_not_known_is_an_error_of_ours_and_no_pass(name: str) -> None:
    decision = decide(document(), request(token(), policy=name))
    assert decision.reason == "policy_unknown"
    assert answer(decision)["status"] == 503


@pytest.mark.parametrize("reason", REFUSALS)
def test_no_denial_is_an_empty_response(reason: str) -> None:
    """Zero bytes, or a status left at zero, would let the request through."""
    decision = authorizer().refuse(None, reason)
    assert decision.response
    assert not is_allow(decision.response)


def test_what_empty_means_is_known_here() -> None:
    assert is_allow(b"")


def test_what_fails_before_the_signature_looks_the_same_to_a_client() -> None:
    tokens = [token("x" * 32), token(iss="https://evil"), "a.b.c", token(headers={"kid": "k", "crit": ["x"]})]
    bodies = [answer(decide(document(), request(one)))["body"] for one in tokens]
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["code"] == "token_invalid"


def test_a_denial_shows_nothing_of_the_token() -> None:
    decision = decide(with_policy(roles=(("admin",),)), request(token(sub="secret-user", email="x@y.z"), policy="p"))
    for text in (b"secret-user", b"acme", b"x@y.z", b"admin"):
        assert text not in decision.response


def test_the_scope_that_is_missing_is_named_as_rfc_6750_asks() -> None:
    decision = decide(with_policy(scopes=(("a:read", "a:write"),)), request(token(), policy="p"))
    assert answer(decision)["challenges"] == [
        'Bearer realm="causeway", error="insufficient_scope", scope="a:read a:write"'
    ]


def test_each_accepted_kind_has_its_challenge() -> None:
    found = answer(decide(document(), request()))["challenges"]
    assert found == [
        'Bearer realm="causeway"',
        'Basic realm="gateway", charset="UTF-8"',
        'ApiKey realm="causeway", header="x-api-key"',
    ]


def test_a_claim_that_cannot_be_a_header_is_refused() -> None:
    for email in ("a\r\nb", "a,b", "\u00e9", {"a": 1}, ["a", 1], "x" * 300, 1.5):
        assert decide(document(), request(token(email=email))).reason == "claim_invalid", email
    for email, text in (("Ann B", "Ann B"), (7, "7"), (True, "true"), (["a", "b"], "a,b"), ("a@b", "a@b")):
        assert answer(decide(document(), request(token(email=email))))["headers"]["x-email"] == text


def test_an_empty_list_is_no_header() -> None:
    assert "x-user-roles" in answer(decide(document(), request(token(roles=[]))))["remove"]


def test_the_token_in_the_query_is_no_credential_and_is_taken_away() -> None:
    from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

    assert decide(document(), request(path=f"/a?access_token={token()}")).reason == "credentials_missing"
    decision = decide(document(), request(token(), path="/a?access_token=x&b=1"))
    parsed = CheckResponse.FromString(decision.response)
    assert list(parsed.ok_response.query_parameters_to_remove) == ["access_token"]


# Proof --------------------------------------------------------------------------------------------------------------


def test_the_proof_is_a_short_lived_token_of_the_gateway() -> None:
    import jwt

    policy = document(proof=Proof(key=Secret("p" * 32), kid="k1", lifetime_s=60))
    one = authorizer(policy)

    def proof(now: float) -> str:
        decision = one.decide(request(token()), now)
        assert isinstance(decision, Decision)
        return answer(decision)["headers"]["x-gateway-proof"]

    first = proof(NOW)
    claims = jwt.decode(
        first, "p" * 32, algorithms=["HS256"], audience="services", options={"verify_exp": False, "verify_iat": False}
    )
    assert claims == {
        "iss": "causeway",
        "aud": "services",
        "iat": NOW,
        "exp": NOW + 60,
        "sub": "u1",
        "tenant": "acme",
        "policy": "required",
    }
    assert jwt.get_unverified_header(first)["kid"] == "k1"
    assert proof(NOW + 29) == first
    assert proof(NOW + 30) != first


def test_the_proof_names_nobody_where_nobody_is_known() -> None:
    import jwt

    policy = document(proof=Proof(key=Secret("p" * 32)), policies={"public": RoutePolicy(mode="public")})
    headers = answer(decide(policy, request(policy="public")))["headers"]
    assert "sub" not in jwt.decode(headers["x-gateway-proof"], options={"verify_signature": False})


# Revocation, rotation, and what the cache may not do ------------------------------------------------------------------


REVOCATIONS = {
    "the token": ({"kind": "token", "value": "t-1"}, {}, True),
    "the token, though it was issued later": ({"kind": "token", "value": "t-1", "before": 5}, {}, True),
    "another token": ({"kind": "token", "value": "t-2"}, {}, False),
    "the subject": ({"kind": "subject", "value": "u1"}, {}, True),
    "the subject, before the token was issued": ({"kind": "subject", "value": "u1", "before": NOW - 11}, {}, False),
    "the subject, in the second of the issue": ({"kind": "subject", "value": "u1", "before": NOW - 10}, {}, True),
    "the tenant": ({"kind": "tenant", "value": "acme"}, {}, True),
    "another tenant": ({"kind": "tenant", "value": "globex"}, {}, False),
    "everybody": ({"kind": "all"}, {}, True),
    "everybody, before the token was issued": ({"kind": "all", "before": NOW - 11}, {}, False),
    "the subject, until just now": ({"kind": "subject", "value": "u1", "until": NOW}, {}, False),
}


@pytest.mark.parametrize("warm", [False, True], ids=["never seen", "in the cache"])
@pytest.mark.parametrize("case", REVOCATIONS)
def test_revoked(case: str, warm: bool) -> None:
    changes, _, refused = REVOCATIONS[case]
    index = Revocations()
    one = authorizer(revocations=index)
    asked = request(token(jti="t-1"))
    if warm:
        assert one.decide(asked, NOW).allowed  # type: ignore[union-attr]
    index.add([Revocation(**({"before": NOW, "until": NOW + 1000} | changes))], NOW - 1)
    decision = one.decide(asked, NOW)
    assert isinstance(decision, Decision)
    check(decision)
    assert (decision.reason == "revoked") == refused


def test_an_api_key_is_revoked_by_its_id_and_by_its_tenant() -> None:
    for kind, value in (("api_key", KEY.id), ("tenant", "acme"), ("subject", "robot")):
        index = Revocations()
        one = authorizer(revocations=index)
        assert one.decide(request(api_key=(KEY.text.encode(),)), NOW).allowed  # type: ignore[union-attr]
        index.add([Revocation(kind=kind, value=value, before=NOW, until=NOW + 9)], NOW)  # type: ignore[arg-type]
        assert not one.decide(request(api_key=(KEY.text.encode(),)), NOW).allowed  # type: ignore[union-attr]


def test_a_lifted_revocation_is_gone() -> None:
    index = Revocations()
    one = authorizer(revocations=index)
    index.add([Revocation(kind="subject", value="u1", before=NOW, until=NOW + 9)], NOW)
    assert not one.decide(request(token()), NOW).allowed  # type: ignore[union-attr]
    index.add([Revocation(kind="subject", value="u1", before=NOW, until=NOW + 9, lifted=True)], NOW)
    assert one.decide(request(token()), NOW).allowed  # type: ignore[union-attr]


def test_the_cache_never_outlives_the_token() -> None:
    one = authorizer()
    assert one.decide(request(token()), NOW).allowed  # type: ignore[union-attr]
    assert one.decide(request(token()), NOW + 629.9).allowed  # type: ignore[union-attr]
    assert one.decide(request(token()), NOW + 630).reason == "token_expired"  # type: ignore[union-attr]


def test_the_cache_never_outlives_the_key() -> None:
    one = authorizer()
    assert one.decide(request(token()), NOW).allowed  # type: ignore[union-attr]
    one.replace_keys("main", secret_key("n" * 32))
    assert one.decide(request(token()), NOW).reason == "signature_invalid"  # type: ignore[union-attr]
    one.replace_keys("main", None)
    assert one.decide(request(token()), NOW).reason == "keys_unavailable"  # type: ignore[union-attr]
    one.replace_keys("main", secret_key(SECRET))
    assert one.decide(request(token()), NOW).allowed  # type: ignore[union-attr]


def test_one_issuers_key_never_signs_for_another() -> None:
    """Same kid, same claims, only the issuer differs: nothing of one is used for the other."""
    one = authorizer()
    headers = {"kid": "same"}
    assert one.decide(request(token(headers=headers)), NOW).allowed  # type: ignore[union-attr]
    forged = token(SECRET, iss="https://other", headers=headers)
    assert one.decide(request(forged), NOW).reason == "signature_invalid"  # type: ignore[union-attr]


def test_a_cached_decision_of_one_policy_is_not_anothers() -> None:
    policy = document(policies={"easy": RoutePolicy(), "hard": RoutePolicy(roles=(("admin",),))})
    one = authorizer(policy)
    assert one.decide(request(token(), policy="easy"), NOW).allowed  # type: ignore[union-attr]
    assert not one.decide(request(token(), policy="hard"), NOW).allowed  # type: ignore[union-attr]
    assert one.decide(request(token(), policy="easy"), NOW).allowed  # type: ignore[union-attr]


def test_the_tenant_is_compared_each_time() -> None:
    one = authorizer(with_policy(tenants=(TenantInPath(segment=0),)))
    assert one.decide(request(token(), policy="p", path="/acme"), NOW).allowed  # type: ignore[union-attr]
    assert not one.decide(request(token(), policy="p", path="/globex"), NOW).allowed  # type: ignore[union-attr]


def test_the_cache_is_bounded() -> None:
    one = authorizer(cache_bytes=64 * 1024)
    for number in range(200):
        assert one.decide(request(token(sub=f"u{number}")), NOW).allowed  # type: ignore[union-attr]
    assert 0 < len(one.cache) < 20
    assert one.cache.size_bytes <= 64 * 1024


def test_a_second_decision_is_made_of_the_same_bytes() -> None:
    one = authorizer()
    first, second = one.decide(request(token()), NOW), one.decide(request(token(), path="/b"), NOW + 1)
    assert first is second
    assert (one.cache.hits, one.cache.misses) == (1, 1)


def test_unavailable_revocations_refuse_where_that_is_declared() -> None:
    one = authorizer()
    one.revocations_available = False
    decision = one.decide(request(token()), NOW)
    assert isinstance(decision, Decision)
    assert decision.reason == "revocations_unavailable"


def test_a_claim_header_of_a_credential_without_claims_is_absent() -> None:
    policy = document(headers={"x-plan": FromClaim(claim="plan")})
    assert "x-plan" in answer(decide(policy, request(api_key=(KEY.text.encode(),))))["remove"]
