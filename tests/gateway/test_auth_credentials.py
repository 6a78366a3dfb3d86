"""API keys, passwords, addresses, tenants by host, inheritance and the proof, through a real Envoy."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import jwt
import pytest

from extauthz.core.api_keys import new_key
from extauthz.core.basic import hash_password
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token

pytestmark = pytest.mark.gateway

PEPPER = "kept elsewhere"
KEY = new_key(b"0123456789", b"k" * 32, PEPPER)
NEXT_KEY = new_key(b"abcdefghij", b"n" * 32, PEPPER)
OLD_KEY = new_key(b"xxxxxxxxxx", b"o" * 32, PEPPER)
PROOF = "the gateway's own secret of 32 bytes or more"


def record(key: Any, **more: Any) -> dict[str, Any]:
    return {"client": "robot", "hash": f"hmac-sha256:{key.digest}", **more}


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "gateway": {"defaults": {"auth": {"roles": ["member"]}}},
        "identity": {
            "issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}},
            "api_keys": {"pepper": PEPPER},
            "basic": {"users": {"ann": {"hash": hash_password("a:b c", b"s" * 16, log2_n=10), "roles": ["member"]}}},
            "headers": {"x-user-id": "sub", "x-tenant-id": "tenant_id"},
            "proof": {"secret": PROOF, "lifetime": "30s"},
        },
        "api_keys": {
            KEY.id: record(KEY, tenant="acme", tier="pro", roles=["member"]),
            NEXT_KEY.id: record(NEXT_KEY, roles=["member"]),
            OLD_KEY.id: record(OLD_KEY, disabled=True),
        },
        "services": {"svc": {"endpoints": [origin.address]}},
        "routes": [
            {"path": "/any/**", "service": "svc"},
            {"path": "/keys/**", "service": "svc", "auth": {"accept": "api-key"}},
            {"path": "/tokens/**", "service": "svc", "auth": {"accept": ["jwt"]}},
            {"path": "/more/**", "service": "svc", "auth": {"roles": ["admin"]}},
            {"path": "/less/**", "service": "svc", "auth": {"without": ["roles"]}},
            {"path": "/near/**", "service": "svc", "auth": {"ip": {"allow": ["127.0.0.0/8"]}}},
            {"path": "/far/**", "service": "svc", "auth": {"ip": {"allow": ["10.0.0.0/8"]}}},
            {"path": "/shut/**", "service": "svc", "auth": {"mode": "public", "ip": {"deny": ["127.0.0.1"]}}},
            {"path": "/public/**", "service": "svc", "auth": "public"},
            {"path": "/**", "hosts": ["*.shop.test"], "service": "svc", "auth": {"tenant": "host"}},
            {"path": "/**", "hosts": ["acme.test"], "service": "svc", "auth": {"tenant": "is acme"}},
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


def api_key(text: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", text),)


def basic(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", "Basic " + b64encode(text.encode()).decode()),)


MEMBER = bearer(token())
ROWS: dict[str, tuple[str, str, tuple[tuple[str, str], ...], int, str]] = {
    "an API key": ("gateway.test", "/any/x", api_key(KEY.text), 200, ""),
    "the key that will replace it": ("gateway.test", "/any/x", api_key(NEXT_KEY.text), 200, ""),
    "a key that was disabled": ("gateway.test", "/any/x", api_key(OLD_KEY.text), 401, "revoked"),
    "a key with another secret": ("gateway.test", "/any/x", api_key(KEY.text[:-2] + "aa"), 401, "api_key_invalid"),
    "an unknown key": ("gateway.test", "/any/x", api_key("cw_zzzzzzzz_" + "a" * 52), 401, "api_key_invalid"),
    "a key where tokens are asked for": (
        "gateway.test",
        "/tokens/x",
        api_key(KEY.text),
        401,
        "credentials_not_accepted",
    ),
    "a token where keys are asked for": ("gateway.test", "/keys/x", MEMBER, 401, "credentials_not_accepted"),
    "a key and a token": ("gateway.test", "/any/x", (*api_key(KEY.text), *MEMBER), 401, "credentials_ambiguous"),
    "a password with a colon in it": ("gateway.test", "/any/x", basic("ann:a:b c"), 200, ""),
    "a wrong password": ("gateway.test", "/any/x", basic("ann:a"), 401, "password_invalid"),
    "a user who does not exist": ("gateway.test", "/any/x", basic("bob:a:b c"), 401, "password_invalid"),
    "an inherited role": ("gateway.test", "/any/x", bearer(token(roles=["guest"])), 403, "role_missing"),
    "an own role beside the inherited one": (
        "gateway.test",
        "/more/x",
        bearer(token(roles=["admin"])),
        403,
        "role_missing",
    ),
    "both roles": ("gateway.test", "/more/x", bearer(token(roles=["admin", "member"])), 200, ""),
    "no role, where the word was said": ("gateway.test", "/less/x", bearer(token(roles=[])), 200, ""),
    "an allowed address": ("gateway.test", "/near/x", MEMBER, 200, ""),
    "an address that is not allowed": ("gateway.test", "/far/x", MEMBER, 403, "ip_denied"),
    "an address that says it is another": (
        "gateway.test",
        "/far/x",
        (*MEMBER, ("x-forwarded-for", "10.0.0.1"), ("x-real-ip", "10.0.0.1")),
        403,
        "ip_denied",
    ),
    "a public route and a denied address": ("gateway.test", "/shut/x", (), 403, "ip_denied"),
    "the tenant's host": ("acme.shop.test", "/x", MEMBER, 200, ""),
    "the tenant's host in capitals, with a port": ("ACME.shop.test:8080", "/x", MEMBER, 200, ""),
    "another tenant's host": ("globex.shop.test", "/x", MEMBER, 403, "tenant_mismatch"),
    "a white-label host": ("acme.test", "/x", MEMBER, 200, ""),
    "a white-label host of another tenant": (
        "acme.test",
        "/x",
        bearer(token(tenant_id="globex")),
        403,
        "tenant_mismatch",
    ),
}


@pytest.mark.parametrize("case", ROWS)
async def test_credentials(served: Gateway, origin: Origin, case: str) -> None:
    host, path, headers, status, code = ROWS[case]
    response = await served.request("GET", path, host=host, headers=headers)
    assert response.status == status, response
    if status == 200:
        assert len(origin.requests) == 1
    else:
        assert response.json()["code"] == code
        assert origin.requests == []


async def test_the_gateways_own_credentials_go_no_further(served: Gateway, origin: Origin) -> None:
    """A key or a password is nobody's business behind the gateway; a token is what services may look at themselves."""
    for headers in (api_key(KEY.text), basic("ann:a:b c")):
        assert (await served.request("GET", "/any/x", headers=headers)).status == 200
        assert (origin.last.value("x-api-key"), origin.last.value("authorization")) == (None, None)
    assert (await served.request("GET", "/any/x", headers=MEMBER)).status == 200
    assert origin.last.value("authorization") == MEMBER[0][1]


async def test_an_api_key_has_a_tenant_and_a_user(served: Gateway, origin: Origin) -> None:
    await served.request("GET", "/any/x", headers=api_key(KEY.text))
    assert (origin.last.value("x-user-id"), origin.last.value("x-tenant-id")) == ("robot", "acme")


@pytest.mark.parametrize("path", ["/any/x", "/public/x"])
async def test_the_service_can_tell_that_a_request_came_through_the_gateway(
    served: Gateway, origin: Origin, path: str
) -> None:
    await served.request("GET", path, headers=(*MEMBER, ("x-gateway-proof", "forged")))
    proof = origin.last.value("x-gateway-proof")
    assert proof is not None
    claims = jwt.decode(proof, PROOF, algorithms=["HS256"], audience="services", issuer="causeway")
    assert claims["exp"] - claims["iat"] == 30
    assert claims.get("sub") == ("user-1" if path == "/any/x" else None)


async def test_a_preflight_is_answered_without_a_credential_and_nothing_else_is(
    gateway: Gateway, origin: Origin
) -> None:
    routes = [{"path": "/any/**", "service": "svc", "cors": {"origins": ["https://app.test"], "methods": ["GET"]}}]
    await gateway.apply(manifest(origin) | {"routes": routes})
    preflight = (("origin", "https://app.test"), ("access-control-request-method", "GET"))
    answered = await gateway.request("OPTIONS", "/any/x", headers=preflight)
    assert answered.status == 200
    assert answered.header("access-control-allow-origin") == "https://app.test"
    foreign = (("origin", "https://evil.test"), ("access-control-request-method", "GET"))
    assert (await gateway.request("OPTIONS", "/any/x", headers=foreign)).header("access-control-allow-origin") is None
    assert (await gateway.request("OPTIONS", "/any/x")).status == 401
    refused = await gateway.request("GET", "/any/x", headers=preflight[:1])
    assert refused.status == 401
    assert refused.header("access-control-allow-origin") == "https://app.test"
    assert origin.requests == []


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "a kind of credential that is not inherited": (
        {"gateway": {"defaults": {"auth": {"accept": ["jwt"]}}}, "auth": {"accept": ["api-key"]}},
        "without: \\[accept\\]",
    ),
    "an issuer that does not exist": ({"auth": {"issuers": ["mian"]}}, 'did you mean "main"'),
    "a parameter that is not in the path": ({"auth": {"tenant": ":tenant"}}, "no parameter"),
    "a third key of one client": (
        {"api_keys": {one.id: record(one) for one in (KEY, NEXT_KEY, OLD_KEY)}},
        "two are enough",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
async def test_a_problem_of_the_edit(gateway: Gateway, origin: Origin, case: str) -> None:
    changes, message = PROBLEMS[case]
    edit = manifest(origin) | {name: value for name, value in changes.items() if name != "auth"}
    edit["routes"] = [{"path": "/x", "service": "svc", "auth": changes.get("auth", "required")}]
    with pytest.raises(AssertionError, match=message):
        await gateway.apply(edit)
