"""What the gateway itself answers: one JSON shape with a stable code, whatever went wrong, and never Envoy's words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.behaviour import Answer, Behaviour, Close, Garbage, Hang, Hold, Partial, Reset
from tests.support.client import Response
from tests.support.errors import assert_error, assert_nothing_of_envoy
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import free_port
from tests.support.wire import ClosedError

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

NOBODY_PORT = free_port()


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "gateway": {"clients": {"max_header_size": "8KiB", "max_headers": 50, "headers_timeout": "300ms"}},
        "services": {
            "orders": {
                "endpoints": [origin.address],
                "retry": {"attempts": 0},
                "circuit_breaker": {"consecutive_failures": 1000},
            },
            "nobody": {
                "endpoints": [f"127.0.0.1:{NOBODY_PORT}"],
                "retry": {"attempts": 0},
                "circuit_breaker": {"consecutive_failures": 1000},
            },
            "narrow": {
                "endpoints": [origin.address],
                "retry": {"attempts": 0},
                "circuit_breaker": {"max_concurrent": 1, "consecutive_failures": 1000},
            },
        },
        "routes": [
            {"path": "/orders/**", "service": "orders", "auth": "public", "body_limit": "1KB"},
            {"path": "/orders/slow", "service": "orders", "auth": "public", "timeout": "400ms"},
            {"path": "/nobody/**", "service": "nobody", "auth": "public", "methods": ["GET"]},
            {"path": "/narrow/**", "service": "narrow", "auth": "public"},
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        pytest.param(Reset(), 502, "bad_gateway", id="a service that resets the connection is 502"),
        pytest.param(Close(), 502, "bad_gateway", id="a service that closes the connection is 502"),
        pytest.param(Garbage(), 502, "bad_gateway", id="a service that does not speak HTTP is 502"),
        pytest.param(Hang(), 504, "upstream_timeout", id="a service that does not answer in time is 504"),
    ],
)
async def test_a_service_that_fails(
    served: Gateway, origin: Origin, behaviour: Behaviour, status: int, code: str
) -> None:
    origin.always(behaviour)
    assert_error(await served.request("GET", "/orders/slow"), status, code)
    assert len(origin.requests) == 1


async def test_a_service_that_cannot_be_reached_is_503(served: Gateway) -> None:
    assert_error(await served.request("GET", "/nobody"), 503, "connection_failed")


async def test_more_requests_at_once_than_a_service_takes_are_503(served: Gateway, origin: Origin) -> None:
    hold = Hold()
    origin.always(hold)
    first = asyncio.create_task(served.request("GET", "/narrow/1"))
    await origin.saw(1)
    try:
        assert_error(await served.request("GET", "/narrow/2"), 503, "overloaded")
    finally:
        hold.release()
    assert (await first).status == 200
    assert len(origin.requests) == 1


@pytest.mark.parametrize("http2", [False, True], ids=["over HTTP/1.1", "over HTTP/2"])
async def test_no_route_is_404(served: Gateway, origin: Origin, http2: bool) -> None:
    assert_error(await served.request("GET", "/nowhere?token=secret", http2=http2), 404, "route_not_found")
    assert_error(await served.request("POST", "/nobody", http2=http2), 404, "route_not_found")
    assert origin.requests == []


@pytest.mark.parametrize(
    ("size", "is_taken", "http2"),
    [
        pytest.param(1000, True, False, id="at the limit over HTTP/1.1"),
        pytest.param(1001, False, False, id="one more over HTTP/1.1"),
        pytest.param(100_000, False, False, id="far more over HTTP/1.1"),
        pytest.param(1000, True, True, id="at the limit over HTTP/2"),
        pytest.param(1001, False, True, id="one more over HTTP/2"),
        pytest.param(100_000, False, True, id="far more over HTTP/2"),
    ],
)
async def test_a_body_over_the_limit_is_413(
    served: Gateway, origin: Origin, size: int, is_taken: bool, http2: bool
) -> None:
    response = await served.request("POST", "/orders/1", body=b"x" * size, http2=http2)
    if is_taken:
        assert response.status == 200
        assert origin.last.body == b"x" * size
    else:
        assert_error(response, 413, "body_too_large")
        assert origin.requests == []


async def test_a_chunked_body_over_the_limit_is_413(served: Gateway, origin: Origin) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (400, b"x" * 400) for _ in range(4)) + b"0\r\n\r\n"
    head = b"POST /orders/1 HTTP/1.1\r\nhost: gateway.test\r\ntransfer-encoding: chunked\r\n\r\n"
    assert_error(await served.raw(head + chunks, method="POST"), 413, "body_too_large")
    assert origin.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((("x-large", "x" * 9000),), id="too large"),
        pytest.param(tuple((f"x-{number}", "1") for number in range(60)), id="too many"),
    ],
)
async def test_headers_over_the_limit_are_431(served: Gateway, origin: Origin, headers: tuple[Any, ...]) -> None:
    response = await served.request("GET", "/orders/1", headers=headers)
    assert (response.status, response.json()["code"]) == (431, "headers_too_large")
    assert_nothing_of_envoy(response)
    assert origin.requests == []


async def test_headers_that_do_not_end_are_408(served: Gateway, origin: Origin) -> None:
    response = await served.raw(b"GET /orders/1 HTTP/1.1\r\nhost: gateway.test\r\nx-slow: ")
    assert (response.status, response.json()["code"]) == (408, "request_timeout")
    assert origin.requests == []


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"GET /orders/1 HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
        pytest.param(b"GET /orders HTTP/1.1\r\nhost: a\r\nx_id: 1\r\n\r\n", id="an underscore in a name"),
    ],
)
async def test_what_is_not_http_is_400(served: Gateway, origin: Origin, message: bytes) -> None:
    response = await served.raw(message)
    assert (response.status, response.json()["code"]) == (400, "bad_request")
    assert response.json().keys() == {"error", "message", "status", "request_id", "code"}
    assert_nothing_of_envoy(response)
    assert origin.requests == []


async def test_an_upgrade_that_the_route_does_not_take_is_refused(served: Gateway, origin: Origin) -> None:
    upgrade = (("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"))
    response = await served.request("GET", "/orders/1", headers=(*upgrade, ("sec-websocket-key", "AAAA")))
    assert_error(response, 403, "upgrade_not_allowed")
    assert origin.requests == []


async def test_a_body_that_breaks_off_is_not_passed_for_whole(served: Gateway, origin: Origin) -> None:
    origin.next(Partial(length=1000, sent=10))
    with pytest.raises(ClosedError):
        await served.request("GET", "/orders/1")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 502, 503, 504])
async def test_a_services_own_error_passes_as_it_is(served: Gateway, origin: Origin, status: int) -> None:
    origin.next(Answer(status=status, body=b"the service's own words", headers=(("x-own", "1"),)))
    response = await served.request("GET", "/orders/1")
    assert (response.status, response.body, response.header("x-own")) == (status, b"the service's own words", "1")


async def test_messages_cannot_be_given_anything_by_a_client(served: Gateway) -> None:
    """Nothing of the request but its id is in the answer: there is nothing to inject into."""
    one: Response = await served.request("GET", '/"><script>', headers=(("x-request-id", '"}{"'),))
    assert b"script" not in one.body
    assert one.status in {400, 404}
