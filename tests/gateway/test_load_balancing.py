"""Which endpoint gets a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.client import Connection, Response
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import free_port

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True


def manifest(endpoints: list[Any], **service: Any) -> dict[str, Any]:
    return {
        "services": {"orders": {"endpoints": endpoints, **service}},
        "routes": [{"path": "/**", "service": "orders", "auth": "public"}],
    }


@pytest.fixture
def three(origins: Callable[..., Origin]) -> list[Origin]:
    made = [origins(name) for name in ("one", "two", "three")]
    for origin in made:
        origin.forget()
    return made


def _addresses(three: list[Origin]) -> list[str]:
    return [origin.address for origin in three]


async def _send(gateway: Gateway, count: int, headers: tuple[tuple[str, str], ...] = ()) -> list[Response]:
    async with Connection(gateway.address) as connection:
        return [await connection.request("GET", "/", headers=headers) for _ in range(count)]


def _counts(three: list[Origin]) -> list[int]:
    return [len(origin.requests) for origin in three]


async def test_round_robin_takes_turns(gateway: Gateway, three: list[Origin]) -> None:
    await gateway.apply(manifest(_addresses(three), load_balancing="round_robin"))
    answers = [response.json()["origin"] for response in await _send(gateway, 30)]
    assert _counts(three) == [10, 10, 10]
    assert all(len(set(answers[at : at + 3])) == 3 for at in range(0, 30, 3))


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "random"])
async def test_every_endpoint_gets_some(gateway: Gateway, three: list[Origin], policy: str) -> None:
    await gateway.apply(manifest(_addresses(three), load_balancing=policy))
    await _send(gateway, 120)
    assert min(_counts(three)) >= 15
    assert sum(_counts(three)) == 120


async def test_weights_are_shares(gateway: Gateway, three: list[Origin]) -> None:
    endpoints = [{"address": origin.address, "weight": weight} for origin, weight in zip(three, (4, 2, 1), strict=True)]
    await gateway.apply(manifest(endpoints, load_balancing="round_robin"))
    await _send(gateway, 140)
    for count, share in zip(_counts(three), (80, 40, 20), strict=True):
        assert abs(count - share) <= 2


async def test_an_equal_header_goes_to_the_same_endpoint(gateway: Gateway, three: list[Origin]) -> None:
    await gateway.apply(manifest(_addresses(three), load_balancing={"policy": "hash", "by": "header.x-lane"}))
    homes = {}
    for lane in (f"lane-{number}" for number in range(30)):
        answers = await _send(gateway, 4, (("x-lane", lane),))
        [homes[lane]] = {response.json()["origin"] for response in answers}
    assert set(homes.values()) == {"one", "two", "three"}


async def test_a_user_stays_at_an_endpoint(gateway: Gateway, three: list[Origin]) -> None:
    """By a header that authentication sets, and no client: a value that a client sends is taken away."""
    served = manifest(_addresses(three), load_balancing={"policy": "hash", "by": "header.x-shop-user"})
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}
    served["identity"] = {"headers": {"x-shop-user": "sub"}, "issuers": {"main": issuer}}
    served["routes"] = [{**route, "auth": "required"} for route in served["routes"]]
    await gateway.apply(served)
    homes = {}
    for user in (f"user-{number}" for number in range(30)):
        sent = [(*bearer(token(sub=user)), ("x-shop-user", f"somebody-{number}")) for number in range(3)]
        answers = [response for headers in sent for response in await _send(gateway, 1, headers)]
        [homes[user]] = {response.json()["origin"] for response in answers}
    assert set(homes.values()) == {"one", "two", "three"}


async def test_an_endpoint_that_goes_away_moves_few_but_its_own(gateway: Gateway, three: list[Origin]) -> None:
    lanes = [f"lane-{number}" for number in range(100)]

    async def homes(endpoints: list[str]) -> dict[str, str]:
        await gateway.apply(manifest(endpoints, load_balancing={"policy": "hash", "by": "header.x-lane"}))
        return {lane: (await _send(gateway, 1, (("x-lane", lane),)))[0].json()["origin"] for lane in lanes}

    before = await homes(_addresses(three))
    after = await homes(_addresses(three[:2]))
    others = [lane for lane, home in before.items() if home != "three"]
    stayed = [lane for lane in others if after[lane] == before[lane]]
    # Where the place were the hash modulo the number of endpoints, about half would stay.
    assert len(stayed) >= 0.7 * len(others), f"{len(stayed)} of {len(others)} stayed"


async def test_a_client_stays_with_its_endpoint(gateway: Gateway, three: list[Origin]) -> None:
    await gateway.apply(manifest(_addresses(three), load_balancing={"policy": "hash", "by": "ip"}))
    await _send(gateway, 10)
    for _ in range(10):
        assert (await gateway.request("GET", "/")).status == 200
    assert sorted(_counts(three)) == [0, 0, 20]


async def test_a_cookie_is_made_and_keeps_its_client_at_an_endpoint(gateway: Gateway, three: list[Origin]) -> None:
    sticky = {"policy": "hash", "by": "cookie.lane", "cookie_ttl": "1h"}
    await gateway.apply(manifest(_addresses(three), load_balancing=sticky))
    first = await gateway.request("GET", "/")
    cookie = first.header("set-cookie") or ""
    assert cookie.startswith("lane=")
    assert "max-age=3600" in cookie.lower()
    answers = await _send(gateway, 12, (("cookie", cookie.partition(";")[0]),))
    assert {response.json()["origin"] for response in answers} == {first.json()["origin"]}


async def test_a_lower_priority_is_used_when_the_higher_is_gone(gateway: Gateway, three: list[Origin]) -> None:
    main, spare = three[0], three[1]
    endpoints = [main.address, {"address": spare.address, "priority": 1}]
    breaker = {"consecutive_failures": 2, "open_for": "30s", "window": "500ms"}
    await gateway.apply(manifest(endpoints, circuit_breaker=breaker, retry={"attempts": 3, "backoff": "1ms..2ms"}))
    await _send(gateway, 10)
    assert _counts(three) == [10, 0, 0]
    main.refuse()
    try:
        await _send(gateway, 5)
        answers = [response.status for response in await _send(gateway, 10)]
        assert answers == [200] * 10
        assert len(spare.requests) >= 10
    finally:
        main.accept()


async def test_a_name_that_stands_for_an_address_is_looked_up(gateway: Gateway, three: list[Origin]) -> None:
    await gateway.apply(manifest([f"localhost:{three[0].port}"]))
    assert (await gateway.request("GET", "/")).json()["origin"] == "one"


async def test_unused_ports_are_skipped_by_retries(gateway: Gateway, three: list[Origin]) -> None:
    endpoints = [three[0].address, f"127.0.0.1:{free_port()}"]
    await gateway.apply(manifest(endpoints, load_balancing="random", retry={"attempts": 2, "backoff": "1ms..2ms"}))
    assert {response.status for response in await _send(gateway, 30)} == {200}
