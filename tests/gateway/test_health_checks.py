"""Endpoints are watched: an unwell one is taken out before a request meets it, and put back when it is well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.behaviour import Answer, Behaviour, Hang
from tests.support.errors import assert_error
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

SICK = Answer(status=503)


def manifest(*origins: Origin, **check: Any) -> dict[str, Any]:
    quick = {"interval": "200ms", "timeout": "100ms", "unhealthy_after": 2, "healthy_after": 2}
    return {
        "services": {
            "orders": {
                "endpoints": [origin.address for origin in origins],
                "load_balancing": "round_robin",
                "retry": {"attempts": 0},
                "circuit_breaker": {"consecutive_failures": 100_000},
                "health_check": {**quick, **check},
            },
        },
        "routes": [{"path": "/**", "service": "orders", "auth": "public"}],
    }


async def _seen_by(gateway: Gateway, *origins: Origin, count: int = 12) -> list[int]:
    """How many of `count` requests each origin saw; every one of them answered 200."""
    before = [len(origin.requests) for origin in origins]
    for _ in range(count):
        assert (await gateway.request("GET", "/")).status == 200
    return [len(origin.requests) - seen for origin, seen in zip(origins, before, strict=True)]


@pytest.mark.parametrize("sickness", [SICK, Hang()], ids=["answers 503", "does not answer"])
async def test_an_unwell_endpoint_is_taken_out_and_put_back(
    gateway: Gateway, origins: Callable[..., Origin], sickness: Behaviour
) -> None:
    one, other = origins("one"), origins("other")
    one.forget()
    other.forget()
    await gateway.apply(manifest(one, other, path="/health?full=1", host="orders.internal"))

    async def shared() -> bool:
        return min(await _seen_by(gateway, one, other, count=6)) > 0

    await until("both endpoints in use", shared)
    one.on("/health", sickness)
    await until("the unwell one out", lambda: _all_to(gateway, one, other))
    assert await _seen_by(gateway, one, other) == [0, 12]
    one.on("/health", Answer())
    await until("the one that is well again back", shared)

    check = one.health_checks[-1]
    assert (check.method, check.path, check.value("host")) == ("GET", "/health?full=1", "orders.internal")


async def _all_to(gateway: Gateway, out: Origin, other: Origin) -> bool:
    return (await _seen_by(gateway, out, other, count=4)) == [0, 4]


async def test_with_every_endpoint_unwell_the_answer_is_503_at_once(
    gateway: Gateway, origins: Callable[..., Origin]
) -> None:
    one = origins("one")
    one.forget()
    one.on("/health", SICK)
    await gateway.apply(manifest(one, path="/health"))

    async def out() -> bool:
        return (await gateway.request("GET", "/")).status == 503

    await until("the endpoint out", out)
    before = len(one.requests)
    assert_error(await gateway.request("GET", "/"), 503, "no_healthy_endpoint")
    assert len(one.requests) == before


async def test_other_statuses_may_count_as_well(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    one = origins("one")
    one.forget()
    one.on("/health", Answer(status=204))
    await gateway.apply(manifest(one, path="/health", statuses=[200, 204]))
    await until("checks", lambda: len(one.health_checks) >= 4)
    assert (await gateway.request("GET", "/")).status == 200


async def test_a_connection_may_be_check_enough(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    one, other = origins("one"), origins("other")
    one.forget()
    other.forget()
    await gateway.apply(manifest(one, other, tcp=True))
    one.refuse()
    try:
        await until("the refusing one out", lambda: _none_fail(gateway))
        assert await _seen_by(gateway, one, other) == [0, 12]
    finally:
        one.accept()


async def _none_fail(gateway: Gateway) -> bool:
    return [(await gateway.request("GET", "/")).status for _ in range(6)] == [200] * 6
