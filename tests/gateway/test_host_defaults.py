"""Routes that differ from most of their host, through a real Envoy: each keeps its own rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.behaviour import Answer
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

NO_BREAKER = {"consecutive_failures": 100_000}
BIG = b"0123456789ab"


def manifest(origin: Origin) -> dict[str, Any]:
    def route(path: str, service: str = "plain", **more: Any) -> dict[str, Any]:
        return {"path": path, "service": service, **more}

    quick = {"backoff": "1ms..5ms", "budget": "100%"}
    return {
        "gateway": {"defaults": {"body_limit": "10B", "auth": "required"}},
        "identity": {"issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}}},
        "services": {
            "plain": {"endpoints": [origin.address], "circuit_breaker": NO_BREAKER, "retry": {"attempts": 2, **quick}},
            "once": {"endpoints": [origin.address], "retry": {"attempts": 0}},
        },
        "routes": [
            *(route(f"/usual/{number}") for number in range(9)),
            route("/public", auth="public"),
            route("/admins", auth={"roles": ["admin"]}),
            route("/once", "once"),
            route("/thrice", retry={"attempts": 3, **quick}),
            route("/any-body", body_limit="none"),
            route("/larger-body", body_limit="20B"),
            {"path": "/moved", "redirect": {"path": "/usual/1"}, "auth": "public"},
            {"path": "/answer", "respond": {"status": 204}, "auth": "public"},
        ],
    }


def as_user() -> tuple[tuple[str, str], ...]:
    return bearer(token())


def as_admin() -> tuple[tuple[str, str], ...]:
    return bearer(token(roles=["admin"]))


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


@pytest.mark.parametrize(
    ("path", "stranger", "user", "admin"),
    [
        ("/usual/1", 401, 200, 200),
        ("/public", 200, 200, 200),
        ("/admins", 401, 403, 200),
        ("/once", 401, 200, 200),
        ("/any-body", 401, 200, 200),
        ("/moved", 302, 302, 302),
        ("/answer", 204, 204, 204),
        ("/nowhere", 404, 404, 404),
    ],
)
async def test_who_may_come(served: Gateway, path: str, stranger: int, user: int, admin: int) -> None:
    answers = [(await served.request("GET", path, headers=one)).status for one in ((), as_user(), as_admin())]
    assert answers == [stranger, user, admin]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/usual/1", 413),
        ("/public", 413),
        ("/admins", 413),
        ("/any-body", 200),
        ("/larger-body", 200),
        ("/answer", 204),
    ],
)
async def test_how_much_they_may_send(served: Gateway, path: str, status: int) -> None:
    response = await served.request("POST", path, headers=as_admin(), body=BIG)
    assert response.status == status


@pytest.mark.parametrize("path", ["/usual/1", "/public", "/admins"])
async def test_a_body_that_is_not_announced_is_counted_before_anything_waits(
    served: Gateway, origin: Origin, path: str
) -> None:
    """What comes while authorization is asked comes to later filters in one piece."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in as_admin())
    head = f"POST {path} HTTP/1.1\r\nhost: gateway.test\r\n{fields}transfer-encoding: chunked\r\n\r\n"
    taken = await served.raw(head.encode() + b"a\r\n0123456789\r\n0\r\n\r\n", method="POST")
    assert (taken.status, origin.last.body) == (200, BIG[:10])
    refused = await served.raw(head.encode() + b"b\r\n01234567890\r\n0\r\n\r\n", method="POST")
    assert refused.status == 413
    assert len(origin.requests) == 1


@pytest.mark.parametrize(("path", "tries"), [("/usual/1", 3), ("/public", 3), ("/once", 1), ("/thrice", 4)])
async def test_how_often_the_service_is_asked(served: Gateway, origin: Origin, path: str, tries: int) -> None:
    origin.always(Answer(status=503))
    await served.request("GET", path, headers=as_user())
    assert len(origin.requests) == tries
