"""A real Envoy keeps what has a time to live while heartbeats come, forgets it without them, and gets it back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from envoy.config.route.v3 import route_components_pb2

from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.protocol import SOTW_WRAPPER_FEATURE, TTL_FEATURE
from tests.support.client import Address, request
from tests.support.waiting import free_port, until
from tests.xds import made, made_types
from tests.xds.rows import ADS, ALL, Variant, row
from tests.xds.served import Following, following, serving

pytestmark = pytest.mark.gateway
SECTION = "Through a real Envoy"
TTL_S = 1.0
SAID = (TTL_FEATURE, SOTW_WRAPPER_FEATURE)


class Clock:
    """Goes on, unless it is stopped: then no heartbeat is ever due."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        return time.monotonic() if self._stopped_at is None else self._stopped_at

    def stop(self) -> None:
        self._stopped_at = time.monotonic()

    def go_on(self) -> None:
        self._stopped_at = None


def ok() -> route_components_pb2.Route:
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.direct_response.status = 200
    return route


def snapshot(variant: Variant, xds: int, short: int, lasting: int) -> Snapshot:
    """A listener with a time to live, and a lasting one whose extension has one."""
    protocol = "GRPC" if variant.protocol.value == "sotw" else "DELTA_GRPC"
    source = made.ADS if variant.is_aggregated else made_types.by_type(protocol, xds)
    return Snapshot.of(
        [
            made.routes("rc", {"/": ok()}),
            made_types.with_ttl(made_types.listener("short", short, "rc", source), TTL_S),
            made_types.listener("lasting", lasting, "rc", source, extensions=("x", "y")),
            made_types.with_ttl(made_types.extension("x", "1"), TTL_S),
            made_types.extension("y", "1", header="x-y"),
        ]
    )


async def status(port: int) -> int:
    """0: nobody listens."""
    try:
        return (await request(Address(port=port), "GET", "/", timeout_s=3)).status
    except OSError:
        return 0


def following_with_ttl(variant: Variant, xds: int, folder: Path, *features: str):  # type: ignore[no-untyped-def]
    protocol = "GRPC" if variant.protocol.value == "sotw" else "DELTA_GRPC"
    node = f"ttl-{free_port()}"
    how = Following(protocol=protocol, node=node, is_aggregated=variant.is_aggregated, features=features)
    return following(xds, folder, how=how)


@row(SECTION, "N6", "What has a time to live is kept by heartbeats, forgotten without, and comes back with them", ALL)
async def test_time_to_live(variant: Variant, run_folder: Path) -> None:
    xds, short, lasting, clock = free_port(), free_port(), free_port(), Clock()
    plane = ControlPlane(clock=clock)
    await plane.set_snapshot(snapshot(variant, xds, short, lasting))

    async def are(wanted_short: int, wanted_lasting: int) -> bool:
        return (await status(short), await status(lasting)) == (wanted_short, wanted_lasting)

    async with following_with_ttl(variant, xds, run_folder, *SAID) as envoy:
        async with serving(plane, port=xds):
            await envoy.ready()
            await until("both work", lambda: are(200, 200))
            before = sum(session.responses for session in plane.sessions)
            kept_until = time.monotonic() + 2.5 * TTL_S

            async def was_kept() -> bool:
                assert await are(200, 200), "forgotten though heartbeats come"
                return time.monotonic() > kept_until

            await until("more than two lives are over", was_kept)
            assert sum(session.responses for session in plane.sessions) >= before + 4

            clock.stop()  # the streams stay, and nothing is said on them
            await until("both are forgotten", lambda: are(0, 500), within_s=4 * TTL_S)
            clock.go_on()
            await until("both are back", lambda: are(200, 200))
            stats = await envoy.stats("(update_rejected|init_fetch_timeout)$")
            assert sum(stats.values()) == 0, stats
        if not variant.is_aggregated:
            return  # each stream would come back in its own time, seconds later
        await until("both are forgotten with the server gone", lambda: are(0, 500), within_s=4 * TTL_S)

        again = ControlPlane()
        await again.set_snapshot(snapshot(variant, xds, short, lasting))
        async with serving(again, port=xds):
            await until("both are back with the server", lambda: are(200, 200))


@row(SECTION, "N7", "An Envoy that does not say so is told of no time to live, and forgets nothing", ADS)
async def test_without_the_feature(variant: Variant, run_folder: Path) -> None:
    xds, short, lasting = free_port(), free_port(), free_port()
    plane = ControlPlane()
    await plane.set_snapshot(snapshot(variant, xds, short, lasting))
    async with following_with_ttl(variant, xds, run_folder) as envoy:
        async with serving(plane, port=xds):
            await envoy.ready()
        over = time.monotonic() + 1.5 * TTL_S

        async def was_kept() -> bool:
            assert (await status(short), await status(lasting)) == (200, 200)
            return time.monotonic() > over

        await until("its life is over", was_kept)
