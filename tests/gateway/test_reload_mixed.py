"""A thousand edits of every kind, mixed, under load over HTTP/1.1 and HTTP/2: no request fails, no WebSocket closes."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support.gateway import Gateway
from tests.support.load import Load
from tests.support.load_http2 import Http2Load
from tests.support.origin import Origin
from tests.support.protocol import PROTOCOLS, speaks
from tests.support.waiting import free_port

pytestmark = pytest.mark.gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What the manifests say."""

    service: str = "first"
    endpoints: tuple[int, ...] = (0,)
    connect_timeout: str = "1s"
    balancing: str = "round_robin"
    routes: frozenset[int] = frozenset()
    timeout: str = "10s"
    attempts: int = 0
    max_headers: int = 100
    is_limited: bool = False
    trusted_proxies: int = 0
    second_port: int | None = None


def _other(values: tuple[Any, ...], present: Any, chance: random.Random) -> Any:
    return chance.choice([value for value in values if value != present])


# Every kind of edit, as a function that never gives back what it was given.
EDITS: dict[str, Callable[[Design, random.Random], Design]] = {
    "another service behind the route": lambda design, chance: replace(
        design, service=_other(("first", "second", "third"), design.service, chance)
    ),
    "other endpoints": lambda design, chance: replace(
        design, endpoints=_other(((0,), (1,), (0, 1)), design.endpoints, chance)
    ),
    "other settings of a service": lambda design, chance: replace(
        design,
        connect_timeout=_other(("1s", "2s", "3s"), design.connect_timeout, chance),
        balancing=chance.choice(("round_robin", "random", "least_request")),
    ),
    "a route more": lambda design, chance: replace(
        design, routes=design.routes | {chance.choice([n for n in range(999) if n not in design.routes])}
    ),
    "a route less": lambda design, chance: replace(
        design, routes=design.routes - {chance.choice(sorted(design.routes))} if design.routes else frozenset({0})
    ),
    "another time-out": lambda design, chance: replace(
        design, timeout=_other(("10s", "11s", "12s"), design.timeout, chance)
    ),
    "other retries": lambda design, chance: replace(design, attempts=_other((0, 1, 2, 3), design.attempts, chance)),
    "the HTTP settings of the listener": lambda design, chance: replace(
        design,
        max_headers=_other((100, 101, 102), design.max_headers, chance),
        trusted_proxies=chance.choice((0, 1)),
    ),
    "the filters of the listener": lambda design, _: replace(design, is_limited=not design.is_limited),
    "a second listener": lambda design, _: replace(
        design, second_port=None if design.second_port is not None else free_port()
    ),
}


def manifest(gateway: Gateway, design: Design, origins: list[Origin]) -> dict[str, Any]:
    ports = [gateway.port, *([design.second_port] if design.second_port is not None else [])]
    service = {
        "endpoints": [origins[number].address for number in design.endpoints],
        "connect_timeout": design.connect_timeout,
        "load_balancing": design.balancing,
    }
    open_to_all = {"service": design.service, "auth": "public", "timeout": design.timeout}
    return {
        "gateway": {
            "listeners": [{"port": port, "address": "127.0.0.1"} for port in ports],
            "trusted_proxies": design.trusted_proxies,
            "clients": {
                "max_headers": design.max_headers,
                **({"max_connections": 1000} if design.is_limited else {}),
            },
        },
        "services": {design.service: service, "sockets": {"endpoints": [origins[0].address]}},
        "routes": [
            {"path": "/once/**", **open_to_all, "retry": {"attempts": 0}},
            {"path": "/api/**", **open_to_all, "retry": {"attempts": design.attempts}},
            {"path": "/socket", "service": "sockets", "auth": "public", "websocket": True},
            *({"path": f"/more/{number}", **open_to_all} for number in sorted(design.routes)),
        ],
    }


@pytest.fixture
def gateway(run_folder: Path) -> Iterator[Gateway]:
    # The WebSocket stays with the listener that it was opened on, which Envoy closes when its drain time is over.
    one = Gateway(run_folder, flags={"serve": ("--watch", "no"), "envoy": ("--drain-time-s", "7200")})
    yield one
    one.stop()


async def _edit(gateway: Gateway, content: dict[str, Any]) -> None:
    """Saves, and returns when every client has accepted it."""
    gateway.write(content)
    outcome = await gateway.tell("POST", "/apply", {"confirm": True})
    assert outcome["outcome"] == "served", outcome
    await gateway.live()


class Traffic:
    """Steady load of both protocols on kept-open connections, and a WebSocket that was open before."""

    def __init__(self, gateway: Gateway) -> None:
        # What is tried again could hide a failure: of one of the paths nothing is.
        paths = ["/api/x", "/once/y?z=1"]
        self.loads = (
            Load(gateway.address, paths, connections=3),
            Http2Load(gateway.address, paths, connections=2),
        )
        self._url = f"ws://127.0.0.1:{gateway.port}/socket"
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Traffic:
        self._socket = await self._open.enter_async_context(websockets.connect(self._url))
        for load in self.loads:
            await self._open.enter_async_context(load)
        await self.flows()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def flows(self) -> None:
        """Waits for answers to each load, and for one on the WebSocket."""
        for load in self.loads:
            await load.more(20)
        await self._socket.send("echo")
        assert await self._socket.recv() == "echo"

    @property
    def is_hurt(self) -> bool:
        """Requests of both protocols have failed."""
        return all(load.failures for load in self.loads)


async def _edits(gateway: Gateway, origins: Callable[..., Origin], count: int) -> AsyncGenerator[Traffic, None]:
    """Edits the manifests `count` times, each kind as often as any other, shuffled. After each: the traffic."""
    services = [origins("one"), origins("two")]
    chance = random.Random(count)
    kinds = list(itertools.islice(itertools.cycle(EDITS), count))
    chance.shuffle(kinds)
    design = Design()
    await gateway.apply(manifest(gateway, design, services))
    async with Traffic(gateway) as traffic:
        for kind in kinds:
            design = EDITS[kind](design, chance)
            await _edit(gateway, manifest(gateway, design, services))
            yield traffic
        await traffic.flows()


async def _cost_nothing(gateway: Gateway, origins: Callable[..., Origin], protocol: str, count: int) -> None:
    speaks(gateway, protocol)
    edited = 0
    async for traffic in _edits(gateway, origins, count):
        edited += 1
        if edited % 50 == 0:
            await traffic.flows()
    assert edited == count
    for load in traffic.loads:
        assert load.failures == {}, load.first_failures
        assert load.total > count
    stats = await gateway.envoy.stats(r"(listener_modified|update_rejected|init_fetch_timeout)$")
    assert stats.pop("listener_manager.listener_modified") >= 2 * (count // len(EDITS)), "of a listener under load"
    assert sum(stats.values()) == 0, stats
    spoken = {one["protocol"] for one in (await gateway.tell("GET", "/clients"))["clients"] if one["agent"] == "envoy"}
    assert spoken == {"delta ads" if protocol == "DELTA_GRPC" else "sotw ads"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_thousand_edits_of_every_kind_cost_no_request(
    gateway: Gateway, origins: Callable[..., Origin], protocol: str
) -> None:
    await _cost_nothing(gateway, origins, protocol, 1_000)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_ten_thousand_edits_cost_no_request(
    gateway: Gateway, origins: Callable[..., Origin], protocol: str
) -> None:
    await _cost_nothing(gateway, origins, protocol, 10_000)


HASTY = """
from controlplane.cli.main import main
from controlplane.xds.needs import Needs

Needs.is_ready = lambda *_: True
Needs.is_used = lambda *_: False
main()
"""


async def test_the_same_edits_by_a_server_that_waits_for_nothing_cost_requests(
    gateway: Gateway, origins: Callable[..., Origin]
) -> None:
    """The negative control: routes go out beside their clusters, and clusters go while routes still name them."""
    gateway.control_plane.argv[2] = HASTY
    async with aclosing(_edits(gateway, origins, 1_000)) as edits:
        async for traffic in edits:
            if traffic.is_hurt:
                break
    assert traffic.is_hurt, [load.outcomes for load in traffic.loads]
    assert all(load.outcomes["503"] for load in traffic.loads), [load.outcomes for load in traffic.loads]
