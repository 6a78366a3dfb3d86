"""Retries and time-outs, counted where it matters: at the service."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.behaviour import Answer, Behaviour, Close, Garbage, Hang, Hold, Reset
from tests.support.errors import assert_error
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

QUICK = "1ms..5ms"
NOBODY_PORT = free_port()
NO_BREAKER = {"consecutive_failures": 100_000}


def manifest(origin: Origin) -> dict[str, Any]:
    def service(**retry: Any) -> dict[str, Any]:
        return {
            "endpoints": [origin.address],
            "circuit_breaker": NO_BREAKER,
            "retry": {"backoff": QUICK, "budget": "100%", **retry},
        }

    def route(path: str, name: str, **more: Any) -> dict[str, Any]:
        return {"path": path, "service": name, "auth": "public", **more}

    return {
        "gateway": {"defaults": {"timeout": "1s"}},
        "services": {
            "twice": service(attempts=2),
            "never": service(attempts=0),
            "any-method": service(attempts=2, methods="any"),
            "connections-only": service(attempts=2, on=["connect_failure"]),
            "one-status": service(attempts=2, on=[503]),
            "per-try": service(attempts=2, on=["timeout"], per_try_timeout="100ms"),
            "half-dead": {
                "endpoints": [origin.address, f"127.0.0.1:{NOBODY_PORT}"],
                "circuit_breaker": NO_BREAKER,
                "load_balancing": "round_robin",
                "retry": {"attempts": 2, "backoff": QUICK},
            },
            "patient": {**service(attempts=0), "timeout": "700ms"},
        },
        "routes": [
            route("/twice/**", "twice"),
            route("/twice/but-once", "twice", retry={"attempts": 1, "backoff": QUICK}),
            route("/never/**", "never"),
            route("/any-method/**", "any-method"),
            route("/connections-only/**", "connections-only"),
            route("/one-status/**", "one-status"),
            route("/per-try/**", "per-try"),
            route("/half-dead/**", "half-dead"),
            route("/patient/**", "patient"),
            route("/patient/less", "patient", timeout="200ms"),
            route("/patient/forever", "patient", timeout="none"),
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


FAIL = Answer(status=503, body=b"no")


@pytest.mark.parametrize(
    ("path", "method", "failures", "tries"),
    [
        pytest.param("/twice", "GET", [FAIL, FAIL], 3, id="a GET is tried again, twice"),
        pytest.param("/twice", "GET", [Reset(), Close()], 3, id="broken connections are tried again"),
        pytest.param("/twice", "GET", [Answer(status=500), Answer(status=599)], 3, id="every 5xx is tried again"),
        pytest.param("/twice", "HEAD", [FAIL], 2, id="a HEAD is tried again"),
        pytest.param("/twice", "OPTIONS", [FAIL], 2, id="an OPTIONS is tried again"),
        pytest.param("/twice/but-once", "GET", [FAIL], 2, id="a route's own retry counts, not its service's"),
        pytest.param("/any-method", "POST", [FAIL, FAIL], 3, id="a POST is tried again where that was asked for"),
        pytest.param("/one-status", "GET", [FAIL], 2, id="one status alone"),
        pytest.param("/per-try", "GET", [Hang()], 2, id="a try that takes too long"),
    ],
)
async def test_a_failure_that_heals_is_hidden_from_the_client(
    served: Gateway, origin: Origin, path: str, method: str, failures: list[Behaviour], tries: int
) -> None:
    origin.next(*failures)
    response = await served.request(method, path, body=b"kept" if method == "POST" else b"")
    assert response.status == 200
    assert len(origin.requests) == tries
    assert {seen.body for seen in origin.requests} == {b"kept" if method == "POST" else b""}
    assert len({seen.value("x-request-id") for seen in origin.requests}) == 1


@pytest.mark.parametrize(
    ("path", "method", "behaviour", "status", "tries"),
    [
        pytest.param("/twice", "GET", FAIL, 503, 3, id="tries end"),
        pytest.param("/twice/but-once", "GET", FAIL, 503, 2, id="a route's own number of tries"),
        pytest.param("/never", "GET", FAIL, 503, 1, id="no retries where there are none"),
        pytest.param("/twice", "POST", FAIL, 503, 1, id="a POST is never tried again"),
        pytest.param("/twice", "PUT", FAIL, 503, 1, id="a PUT is never tried again"),
        pytest.param("/twice", "DELETE", FAIL, 503, 1, id="a DELETE is never tried again"),
        pytest.param("/twice", "PATCH", Reset(), 502, 1, id="a PATCH is never tried again, even when reset"),
        pytest.param("/twice", "GET", Answer(status=404), 404, 1, id="a 404 is an answer"),
        pytest.param("/twice", "GET", Answer(status=429), 429, 1, id="a 429 is an answer"),
        pytest.param("/any-method", "POST", Answer(status=409), 409, 1, id="a 409 is an answer, for any method"),
        pytest.param("/connections-only", "GET", FAIL, 503, 1, id="a condition that does not hold"),
        pytest.param("/one-status", "GET", Answer(status=502), 502, 1, id="another status than the one"),
        pytest.param("/twice", "GET", Garbage(), 502, 3, id="garbage is a broken connection"),
    ],
)
async def test_what_the_service_sees_of_a_failure_that_stays(
    served: Gateway, origin: Origin, path: str, method: str, behaviour: Behaviour, status: int, tries: int
) -> None:
    origin.always(behaviour)
    response = await served.request(method, path)
    assert (response.status, len(origin.requests)) == (status, tries)


async def test_a_client_cannot_ask_for_retries_or_time(served: Gateway, origin: Origin) -> None:
    origin.always(FAIL)
    headers = (
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-upstream-rq-timeout-ms", "60000"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
    )
    assert (await served.request("POST", "/twice", headers=headers)).status == 503
    assert len(origin.requests) == 1
    assert not {name for name, _ in headers} & {name for name, _ in origin.last.headers}


async def test_a_retry_goes_to_another_endpoint(served: Gateway, origin: Origin) -> None:
    statuses = [(await served.request("GET", "/half-dead")).status for _ in range(20)]
    assert statuses == [200] * 20
    assert len(origin.requests) == 20


async def test_a_post_that_never_reached_a_service_is_not_sent_again(served: Gateway) -> None:
    statuses = {(await served.request("POST", "/half-dead")).status for _ in range(10)}
    assert statuses == {200, 503}


@pytest.mark.parametrize(
    ("budget", "at_least", "at_most"),
    [
        # A request that waits for its retry is not in flight, so even all of them is about half of twenty.
        pytest.param({"budget": "100%"}, 9, 20, id="a budget of everything"),
        pytest.param({"budget": "20%", "budget_minimum": 0}, 1, 5, id="a fifth of what is in flight"),
        pytest.param({"budget": "0%", "budget_minimum": 3}, 3, 3, id="never fewer than the minimum"),
        pytest.param({"budget": "0%", "budget_minimum": 0}, 0, 0, id="none"),
    ],
)
async def test_retries_in_flight_stay_within_the_budget(
    gateway: Gateway, origin: Origin, budget: dict[str, Any], at_least: int, at_most: int
) -> None:
    retry = {"attempts": 1, "backoff": "300ms..300ms", **budget}
    await gateway.apply(
        {
            "services": {
                "one": {"endpoints": [origin.address], "circuit_breaker": NO_BREAKER, "retry": retry},
            },
            "routes": [{"path": "/**", "service": "one", "auth": "public"}],
        }
    )
    # All fail together, so that every retry waits out its backoff beside the others.
    hold = Hold(then=FAIL)
    origin.next(*[hold] * 20)
    clients = [asyncio.create_task(gateway.request("GET", "/")) for _ in range(20)]
    await origin.saw(20)
    again = Hold()
    origin.always(again)
    hold.release()
    await until(
        "every client answered or sent again",
        lambda: sum(client.done() for client in clients) + len(origin.requests) == 40,
    )
    retries = len(origin.requests) - 20
    again.release()
    statuses = [response.status for response in await asyncio.gather(*clients)]
    assert at_least <= retries <= at_most
    assert statuses.count(200) == retries


@pytest.mark.parametrize(
    ("path", "least_s", "most_s"),
    [
        pytest.param("/never", 1.0, 3.0, id="the gateway's default"),
        pytest.param("/patient", 0.7, 0.99, id="the service's own"),
        pytest.param("/patient/less", 0.2, 0.65, id="the route's own"),
        pytest.param("/per-try", 0.3, 0.95, id="tries together"),
    ],
)
async def test_a_time_out_is_504(served: Gateway, origin: Origin, path: str, least_s: float, most_s: float) -> None:
    origin.always(Hang())
    started = time.monotonic()
    response = await served.request("GET", path)
    took_s = time.monotonic() - started
    assert_error(response, 504, "upstream_timeout")
    assert least_s * 0.98 <= took_s <= most_s
    assert len(origin.requests) == (3 if path == "/per-try" else 1)


async def test_a_route_without_a_time_out_waits(served: Gateway, origin: Origin) -> None:
    origin.next(Answer(after_s=1.3, body=b"late"))
    assert (await served.request("GET", "/patient/forever")).body == b"late"
