"""Pages of other origins: preflights without credentials, and nothing that looks like one as a way around."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.origin import Origin

pytestmark = pytest.mark.gateway

IDENTITY = {"issuers": {"main": {"issuer": "i", "audiences": ["x"], "secret": "0123456789abcdef0123456789abcdef"}}}
CORS = {"origins": ["https://app.example.com", "https://*.trusted.org"], "credentials": True, "max_age": "60s"}
PREFLIGHT = ("access-control-request-method", "POST")
APP = ("origin", "https://app.example.com")


def manifest(origin: Origin, **route: Any) -> dict[str, Any]:
    return {
        "identity": IDENTITY,
        "services": {"orders": {"endpoints": [origin.address]}},
        "routes": [
            {"path": "/orders", "methods": ["POST"], "service": "orders", "cors": CORS, **route},
            {"path": "/any", "service": "orders", "cors": CORS},
            {"path": "/closed", "service": "orders"},
        ],
    }


@pytest.mark.parametrize("path", ["/orders", "/any"], ids=["a route with methods", "a route of every method"])
@pytest.mark.parametrize("page", ["https://app.example.com", "https://a.b.trusted.org"])
async def test_a_preflight_is_answered_without_credentials_and_without_the_service(
    gateway: Gateway, origin: Origin, path: str, page: str
) -> None:
    await gateway.apply(manifest(origin))
    answer = await gateway.request("OPTIONS", path, headers=[("origin", page), PREFLIGHT])
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == page
    assert answer.header("access-control-allow-credentials") == "true"
    assert answer.header("access-control-max-age") == "60"
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert origin.requests == []


@pytest.mark.parametrize(
    "page",
    ["https://evil.com", "https://app.example.com.evil.com", "http://app.example.com", "https://xtrusted.org", "null"],
)
async def test_a_preflight_of_another_origin_is_allowed_nothing(gateway: Gateway, origin: Origin, page: str) -> None:
    await gateway.apply(manifest(origin))
    answer = await gateway.request("OPTIONS", "/any", headers=[("origin", page), PREFLIGHT])
    assert answer.header("access-control-allow-origin") is None
    assert origin.requests == []


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("/any", [], 401, id="a plain OPTIONS"),
        pytest.param("/any", [APP], 401, id="an OPTIONS with an origin alone"),
        pytest.param("/closed", [APP, PREFLIGHT], 401, id="no CORS on the route"),
        pytest.param("/orders", [], 404, id="a plain OPTIONS where only POST is taken"),
    ],
)
async def test_what_is_no_preflight_goes_the_way_of_every_request(
    gateway: Gateway, origin: Origin, path: str, headers: list[tuple[str, str]], status: int
) -> None:
    await gateway.apply(manifest(origin))
    assert (await gateway.request("OPTIONS", path, headers=headers)).status == status
    assert origin.requests == []


async def test_a_refusal_can_be_read_by_the_page(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin))
    answer = await gateway.request("POST", "/orders", headers=[APP])
    assert answer.status == 401
    assert answer.header("access-control-allow-origin") == "https://app.example.com"
