"""Tokens through a real Envoy: who passes, what the service sees of them, and what the others are told."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.client import Response
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token

pytestmark = pytest.mark.gateway

INJECTED = ("x-user-id", "x-tenant-id", "x-user-roles", "x-user-email")


def identity(**more: Any) -> dict[str, Any]:
    return {
        "issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}},
        "headers": {"x-user-id": "sub", "x-tenant-id": "tenant_id", "x-user-roles": "roles", "x-user-email": "email"},
        **more,
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(
        {
            "identity": identity(),
            "services": {"svc": {"endpoints": [origin.address]}},
            "routes": [
                {"path": "/api/**", "service": "svc"},
                {"path": "/public/**", "service": "svc", "auth": "public"},
                {"path": "/maybe/**", "service": "svc", "auth": "optional"},
                {"path": "/admin/**", "service": "svc", "auth": {"roles": ["admin", "root"]}},
                {"path": "/both/**", "service": "svc", "auth": {"roles": {"all": ["admin", "auditor"]}}},
                {"path": "/scoped/**", "service": "svc", "auth": {"scopes": {"all": ["tickets:write"]}}},
                {
                    "path": "/paid/**",
                    "service": "svc",
                    "auth": {"claims": [{"claim": "plan", "one_of": ["pro", "enterprise"]}]},
                },
                {"path": "/t/:tenant/**", "service": "svc", "auth": {"tenant": ":tenant"}},
            ],
        }
    )
    return gateway


def seen(origin: Origin) -> dict[str, str | None]:
    return {name: origin.last.value(name) for name in INJECTED if origin.last.value(name) is not None}


def assert_refused(response: Response, origin: Origin, status: int, code: str) -> dict[str, Any]:
    """The one error shape, with its code; and the service saw nothing."""
    assert response.status == status, response
    body: dict[str, Any] = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == response.header("x-request-id")
    assert origin.requests == []
    return body


async def test_a_valid_token_passes_and_the_service_sees_its_claims(served: Gateway, origin: Origin) -> None:
    response = await served.request(
        "GET", "/api/x", headers=bearer(token(roles=["member", "admin"], email="ann@example.com"))
    )
    assert response.status == 200
    assert seen(origin) == {
        "x-user-id": "user-1",
        "x-tenant-id": "acme",
        "x-user-roles": "member,admin",
        "x-user-email": "ann@example.com",
    }


async def test_without_a_token_it_is_401_with_a_challenge(served: Gateway, origin: Origin) -> None:
    response = await served.request("GET", "/api/x")
    body = assert_refused(response, origin, 401, "credentials_missing")
    assert body["policy"] == "required"
    assert response.values("www-authenticate") == ['Bearer realm="causeway"']


REFUSED = {
    "an expired token": (lambda: token(exp=int(time.time()) - 60, iat=int(time.time()) - 600), "token_expired"),
    "a token that is not valid yet": (lambda: token(nbf=int(time.time()) + 600), "token_not_yet_valid"),
    "a token for another audience": (lambda: token(aud="elsewhere"), "audience_mismatch"),
    "a token signed with another key": (lambda: token("x" * 40), "token_invalid"),
    "a token of an unknown issuer": (lambda: token(iss="https://other.test"), "token_invalid"),
    "a token without a subject": (lambda: token(sub=None), "token_invalid"),
    "a token without an end": (lambda: token(exp=None), "token_invalid"),
    "a refresh token by its header": (lambda: token(headers={"typ": "rt+jwt"}), "token_type_mismatch"),
    "a refresh token by its claim": (lambda: token(token_use="refresh"), "token_type_mismatch"),
    "an unsigned token": (lambda: token(None, "none"), "token_invalid"),
    "a tenant with a line break in it": (lambda: token(tenant_id="acme\r\nx-user-id: root"), "token_invalid"),
    "a tenant that would be a list": (lambda: token(tenant_id="acme,evil"), "token_invalid"),
    "no token at all": (lambda: "", "token_invalid"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_with_401(served: Gateway, origin: Origin, case: str) -> None:
    make, code = REFUSED[case]
    response = await served.request("GET", "/api/x", headers=bearer(make()))
    assert_refused(response, origin, 401, code)
    assert 'error="invalid_token"' in (response.header("www-authenticate") or "")


FORBIDDEN = {
    "a role is missing": ("/admin/x", {"roles": ["member"]}, "role_missing"),
    "one of two roles is missing": ("/both/x", {"roles": ["admin"]}, "role_missing"),
    "a scope is missing": ("/scoped/x", {"scope": "tickets:read"}, "scope_missing"),
    "a claim has another value": ("/paid/x", {"plan": "free"}, "claim_mismatch"),
    "a claim is missing": ("/paid/x", {}, "claim_mismatch"),
    "the path names another tenant": ("/t/globex/x", {}, "tenant_mismatch"),
    "the path has the tenant in capitals": ("/t/ACME/x", {}, "tenant_mismatch"),
    "the path has something encoded in the tenant": ("/t/acme%20/x", {}, "tenant_mismatch"),
    "the token has no tenant": ("/t/acme/x", {"tenant_id": None}, "tenant_mismatch"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
async def test_refused_with_403(served: Gateway, origin: Origin, case: str) -> None:
    path, changes, code = FORBIDDEN[case]
    assert_refused(await served.request("GET", path, headers=bearer(token(**changes))), origin, 403, code)


PASSES = {
    "one of several roles": ("/admin/x", {"roles": ["root"]}),
    "every role": ("/both/x", {"roles": ["auditor", "admin"]}),
    "a scope": ("/scoped/x", {"scope": "tickets:read tickets:write"}),
    "a claim": ("/paid/x", {"plan": "pro"}),
    "the own tenant": ("/t/acme/x", {}),
}


@pytest.mark.parametrize("case", PASSES)
async def test_passes(served: Gateway, origin: Origin, case: str) -> None:
    path, changes = PASSES[case]
    assert (await served.request("GET", path, headers=bearer(token(**changes)))).status == 200


async def test_a_public_route_asks_nobody_and_injects_nothing(served: Gateway, origin: Origin) -> None:
    response = await served.request("GET", "/public/x", headers=bearer("rubbish"))
    assert response.status == 200
    assert seen(origin) == {}


async def test_an_optional_route_takes_no_token_or_a_valid_one(served: Gateway, origin: Origin) -> None:
    assert (await served.request("GET", "/maybe/x")).status == 200
    assert seen(origin) == {}
    assert (await served.request("GET", "/maybe/x", headers=bearer(token()))).status == 200
    assert seen(origin)["x-user-id"] == "user-1"
    origin.forget()
    assert_refused(await served.request("GET", "/maybe/x", headers=bearer("rubbish")), origin, 401, "token_invalid")


async def test_an_unknown_path_is_404_and_not_a_question_of_authentication(served: Gateway) -> None:
    assert (await served.request("GET", "/nowhere")).status == 404


@pytest.mark.parametrize("path", ["/api/x", "/nowhere", "/t/acme/x"])
async def test_a_plain_options_request_is_no_way_around(served: Gateway, origin: Origin, path: str) -> None:
    assert (await served.request("OPTIONS", path)).status in (401, 404)
    assert origin.requests == []


async def test_a_weak_secret_is_a_problem_of_the_edit(gateway: Gateway, origin: Origin) -> None:
    weak = {"issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": "short"}}}
    with pytest.raises(AssertionError, match="at least 32 bytes"):
        await gateway.apply({"identity": weak})
