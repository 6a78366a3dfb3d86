"""A service that fails is left alone for a while, then tried again; a service takes no more at once than it may."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.behaviour import Answer, Behaviour, Reset
from tests.support.errors import assert_error
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

OPEN_S = 1.0
# A cluster that differs from the last one in anything begins with its circuits closed and nothing counted.
NEW_CLUSTERS = itertools.count(1000)
FAIL = Answer(status=500, body=b"no")


def manifest(*addresses: str, **breaker: Any) -> dict[str, Any]:
    return {
        "services": {
            "orders": {
                "endpoints": list(addresses),
                "load_balancing": "round_robin",
                "retry": {"attempts": 0},
                "circuit_breaker": {
                    "open_for": f"{OPEN_S * 1000:.0f}ms",
                    "window": "500ms",
                    "max_pending": next(NEW_CLUSTERS),
                    **breaker,
                },
            },
        },
        "routes": [{"path": "/**", "service": "orders", "auth": "public"}],
    }


# Envoy counts failures where requests are, and takes an endpoint out elsewhere: a moment lies between.
SLIPPED_THROUGH = 5


async def _opens(gateway: Gateway) -> None:
    async def is_open() -> bool:
        response = await gateway.request("GET", "/")
        return response.status == 503 and response.json()["code"] == "no_healthy_endpoint"

    await until("the circuit open", is_open)


async def _statuses(gateway: Gateway, count: int) -> list[int]:
    return [(await gateway.request("GET", "/")).status for _ in range(count)]


@pytest.mark.parametrize("failure", [FAIL, Reset()], ids=["answers 500", "breaks connections"])
async def test_consecutive_failures_open_the_circuit_and_time_closes_it(
    gateway: Gateway, origin: Origin, failure: Behaviour
) -> None:
    await gateway.apply(manifest(origin.address, consecutive_failures=3))
    origin.always(failure)
    assert all(status >= 500 for status in await _statuses(gateway, 3))
    opened = time.monotonic()
    await _opens(gateway)
    seen = len(origin.requests)
    assert 3 <= seen <= 3 + SLIPPED_THROUGH
    for _ in range(5):
        assert_error(await gateway.request("GET", "/"), 503, "no_healthy_endpoint")
    assert len(origin.requests) == seen, "an open circuit lets nothing through"

    origin.always(Answer())

    async def heals() -> bool:
        return (await gateway.request("GET", "/")).status == 200

    await until("the circuit tried again", heals, within_s=10)
    assert time.monotonic() - opened >= OPEN_S * 0.9
    assert await _statuses(gateway, 10) == [200] * 10


async def test_a_service_that_still_fails_is_left_alone_again(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin.address, consecutive_failures=3))
    origin.always(FAIL)
    await _opens(gateway)

    async def tried_again() -> bool:
        return (await gateway.request("GET", "/")).status == 500

    await until("the circuit tried again", tried_again, within_s=10)
    await _opens(gateway)
    assert 6 <= len(origin.requests) <= 6 + 2 * SLIPPED_THROUGH


async def test_a_success_in_between_keeps_the_circuit_closed(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin.address, consecutive_failures=3))
    origin.next(*[FAIL, FAIL, Answer()] * 4)
    assert await _statuses(gateway, 12) == [500, 500, 200] * 4


async def test_a_4xx_is_no_failure(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin.address, consecutive_failures=2))
    origin.always(Answer(status=404))
    assert await _statuses(gateway, 6) == [404] * 6


@pytest.mark.parametrize(
    ("failures", "successes", "opens"),
    [
        pytest.param(6, 6, True, id="half of twelve"),
        pytest.param(5, 4, False, id="more than half, of too few"),
        pytest.param(4, 8, False, id="a third of twelve"),
        pytest.param(20, 0, True, id="all of twenty"),
    ],
)
async def test_an_error_rate_over_a_minimum_of_requests_opens_the_circuit(
    gateway: Gateway, origin: Origin, failures: int, successes: int, opens: bool
) -> None:
    # The first window of the new cluster begins now, and every request falls into it.
    await gateway.apply(manifest(origin.address, error_rate="50%", min_requests=10, window="1500ms", open_for="30s"))
    began = time.monotonic()
    origin.next(*[FAIL] * failures, *[Answer()] * successes)
    assert await _statuses(gateway, failures + successes) == [500] * failures + [200] * successes
    await until("the window's end", lambda: time.monotonic() - began > 1.7)
    response = await gateway.request("GET", "/")
    if opens:
        assert_error(response, 503, "no_healthy_endpoint")
    else:
        assert response.status == 200


async def test_one_of_two_endpoints_fails_and_the_other_answers(
    gateway: Gateway, origins: Callable[..., Origin], origin: Origin
) -> None:
    other = origins("other")
    other.forget()
    await gateway.apply(manifest(origin.address, other.address, consecutive_failures=2, open_for="30s"))
    origin.always(FAIL)

    async def isolated() -> bool:
        return await _statuses(gateway, 4) == [200] * 4

    await until("the failing endpoint taken out", isolated)
    seen = len(origin.requests)
    assert await _statuses(gateway, 10) == [200] * 10
    assert len(origin.requests) == seen


async def test_the_circuit_is_seen_open_half_open_and_closed(gateway: Gateway, origin: Origin) -> None:
    """The control plane asks Envoy once a second, so every state here lasts longer than that."""

    async def shows(state: str) -> dict[str, Any] | None:
        circuits = {one["name"]: one["circuit"] for one in (await gateway.status())["services"]}
        now: dict[str, Any] | None = circuits.get("orders")
        return now if now is not None and now["state"] == state else None

    await gateway.apply(manifest(origin.address, consecutive_failures=2, open_for="3s"))
    assert await _statuses(gateway, 1) == [200]  # an edit while it was open leaves it half open until this
    await until("the circuit shown closed", lambda: shows("CLOSED"))
    origin.always(FAIL)
    await _opens(gateway)
    opened = await until("the circuit shown open", lambda: shows("OPEN"))
    assert opened is not None
    assert 0 <= opened["retest_in_s"] <= 3
    origin.always(Answer())
    half_open = await until("the circuit shown half open", lambda: shows("HALF_OPEN"))
    assert half_open is not None
    assert half_open["retest_in_s"] is None
    assert await _statuses(gateway, 1) == [200]
    await until("the circuit shown closed again", lambda: shows("CLOSED"))
