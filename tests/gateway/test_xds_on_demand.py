"""Virtual hosts and clusters that a real Envoy asks for when a request needs them.

Both are asked for incrementally, whatever protocol the rest speaks: the columns of state of the world are Envoys that
get listeners and routes so, and have a stream of their own for what they need on demand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from tests.support.client import Address, Response, request
from tests.support.envoy import Envoy
from tests.support.origin import Origin
from tests.support.waiting import free_port, until
from tests.xds import made, made_types
from tests.xds.made_types import Source
from tests.xds.rows import ALL, Variant, row
from tests.xds.served import Following, following, serve_under_load, serving

pytestmark = pytest.mark.gateway
SECTION = "Through a real Envoy"
PROMPT_S = 3.0
"""Envoy gives up after 15 s for virtual hosts and 5 s for clusters."""


def how(variant: Variant, **more: bool) -> Following:
    protocol = "GRPC" if variant.protocol.value == "sotw" else "DELTA_GRPC"
    return Following(protocol=protocol, node=f"demand-{free_port()}", is_aggregated=variant.is_aggregated, **more)


def sources(variant: Variant, xds: int) -> tuple[Source, Source]:
    """Where listeners and routes come from, and where what is on demand does."""
    usual = made.ADS if variant.is_aggregated else made_types.by_type(how(variant).protocol, xds)
    return usual, made.ADS if variant is Variant.DELTA_ADS else made_types.by_type("DELTA_GRPC", xds)


class Hosts:
    """Route configurations with a listener each. `with_` gives each host's words; `a` is also `www.a.test`."""

    def __init__(self, variant: Variant, xds: int) -> None:
        self.ports = {"rc": free_port(), "added": free_port()}
        self._usual, self._on_demand = sources(variant, xds)

    def with_(self, *tables: str, static: str = "static", **hosts: str) -> Snapshot:
        resources: list[Resource] = []
        for table in ("rc", *tables):
            resources += [
                made_types.routes_on_demand(table, self._on_demand, says=static),
                made_types.listener(table, self.ports[table], table, self._usual, on_demand=made_types.on_demand()),
            ]
            resources += [
                made_types.virtual_host(table, name, f"{name}.test", f"www.{name}.test", says=f"{table} {says}")
                for name, says in hosts.items()
            ]
        return Snapshot.of(resources)

    async def ask(self, host: str, table: str = "rc") -> tuple[int, str]:
        answer = await request(Address(port=self.ports[table]), "GET", "/", host=host, timeout_s=PROMPT_S)
        return answer.status, answer.body.decode()

    async def until(self, host: str, status: int, says: str = "", table: str = "rc") -> None:
        async def is_so() -> bool:
            try:
                return await self.ask(host, table) == (status, says)
            except OSError:
                return False  # the listener is not there yet

        await until(f"{host} answers {status} {says}", is_so, within_s=PROMPT_S)


@row(SECTION, "N4", "A virtual host comes with the first request for it; one that is unknown is a 404 at once", ALL)
async def test_virtual_hosts(variant: Variant, run_folder: Path) -> None:
    xds = free_port()
    hosts, plane = Hosts(variant, xds), ControlPlane()
    await plane.set_snapshot(hosts.with_(a="1", b="1"))
    async with following(xds, run_folder, how=how(variant)) as envoy:
        async with serving(plane, port=xds):
            began = time.monotonic()
            await envoy.ready()
            assert time.monotonic() - began < PROMPT_S, "the listener waited for a word about its virtual hosts"
            assert await hosts.ask("static.test") == (200, "static")
            assert await hosts.ask("a.test") == (200, "rc 1")
            assert await hosts.ask("www.a.test") == (200, "rc 1")
            assert await hosts.ask("nobody.test") == (404, "")
            assert await hosts.ask("nobody.test") == (404, "")
            assert await known(envoy) == {"rc/a"}, "and nothing that was not asked for"

            await plane.set_snapshot(hosts.with_(a="2", b="1"))
            await hosts.until("a.test", 200, "rc 2")
            await plane.set_snapshot(hosts.with_(static="changed", a="2", b="1"))
            await hosts.until("static.test", 200, "changed")
            assert await hosts.ask("a.test") == (200, "rc 2")
            assert await hosts.ask("nobody.test") == (404, "")
            await plane.set_snapshot(hosts.with_(static="changed", a="2", b="1", nobody="1"))
            await hosts.until("nobody.test", 200, "rc 1")

            await plane.set_snapshot(hosts.with_("added", static="changed", a="2", b="1", nobody="1"))
            await hosts.until("static.test", 200, "changed", "added")
            assert await hosts.ask("a.test", "added") == (200, "added 2")
            assert await hosts.ask("a.test") == (200, "rc 2")

            await plane.set_snapshot(hosts.with_("added", static="changed", b="1", nobody="1"), confirmed=True)
            await hosts.until("a.test", 404)
            stats = await envoy.stats("(update_rejected|init_fetch_timeout)$")
            assert sum(stats.values()) == 0, stats

        # While nobody told Envoy, one host changed, one went and one came.
        again = ControlPlane()
        await again.set_snapshot(hosts.with_("added", static="changed", a="3", b="1"))
        async with serving(again, port=xds):
            await hosts.until("a.test", 200, "rc 3")
            await hosts.until("nobody.test", 404)
            await until("all is told", lambda: all(one.stream.is_settled for one in again.sessions))
            assert "rc/b" not in await known(envoy)


async def known(envoy: Envoy) -> set[str]:
    """The virtual hosts that came on demand to the first listener."""
    dump = await envoy.config_dump("dynamic_route_configs")
    names = {host["name"] for one in dump["configs"] for host in one["route_config"]["virtual_hosts"]}
    return {name for name in names if name.startswith("rc/")}


@row(SECTION, "N4c", "A refused virtual host answers 503 at once, or as before; it is named, the others work", ALL)
async def test_refused_virtual_hosts(variant: Variant, run_folder: Path) -> None:
    xds = free_port()
    hosts, plane = Hosts(variant, xds), ControlPlane()

    def with_bad(name: str, **others: str) -> Snapshot:
        rest = made_types.virtual_host("rc", "rest", "*", says="for the rest")
        return Snapshot.of([*hosts.with_(**others), made_types.bad_virtual_host("rc", name, f"{name}.test"), rest])

    await plane.set_snapshot(with_bad("bad", a="1", b="1"))
    async with serving(plane, port=xds), following(xds, run_folder, how=how(variant)) as envoy:
        await envoy.ready()
        assert await asyncio.gather(*(hosts.ask(f"{name}.test") for name in ("a", "bad", "b", "else"))) == [
            (200, "rc 1"),
            (503, ""),
            (200, "rc 1"),
            (200, "for the rest"),
        ]
        await until("a verdict", lambda: {kept.resource for kept in plane.status().kept_back} == {"rc/bad"})
        await plane.set_snapshot(with_bad("a", b="2", bad="2"))
        await hosts.until("b.test", 200, "rc 2")
        await hosts.until("bad.test", 200, "rc 2")
        assert await hosts.ask("a.test") == (200, "rc 1")
        await until("another one", lambda: {kept.resource for kept in plane.status().kept_back} == {"rc/a"})


@row(SECTION, "N5", "A cluster comes with the first request for it; one that is unknown is a 503 at once", ALL)
async def test_clusters(variant: Variant, origins: Callable[..., Origin], run_folder: Path) -> None:
    xds, port, origin = free_port(), free_port(), origins("one")
    usual, on_demand = sources(variant, xds)
    plane = ControlPlane()

    def with_(*names: str, timeout_ms: int = 1000) -> Snapshot:
        filter_ = made_types.on_demand(on_demand)
        return Snapshot.of(
            [
                made_types.routes_by_header("rc", "x-cluster"),
                made_types.listener("l", port, "rc", usual, on_demand=filter_),
                *(made.cluster(name, eds=False, port=origin.port, timeout_ms=timeout_ms) for name in names),
            ]
        )

    async def ask(cluster: str) -> Response:
        headers = (("x-cluster", cluster),)
        return await request(Address(port=port), "GET", "/", headers=headers, timeout_s=PROMPT_S)

    async with following(xds, run_folder, how=how(variant, has_clusters=False)) as envoy:
        async with serving(plane, port=xds):
            await plane.set_snapshot(with_("a", "never"))
            await envoy.ready()
            assert (await ask("a")).status == 200
            assert (await ask("z")).status == 503
            assert (await envoy.clusters()).keys() == {"xds", "a"}
            await plane.set_snapshot(with_("a", "never", "z", timeout_ms=900))
            await until("z is known", lambda: _has(envoy, "a", "z"))
            assert (await ask("z")).status == 200
            assert (await ask("a")).status == 200
            await plane.set_snapshot(with_("never", "z", timeout_ms=900), confirmed=True)
            await until("a is gone", lambda: _has(envoy, "z"))
            stats = await envoy.stats("(update_rejected|init_fetch_timeout)$")
            assert sum(stats.values()) == 0, stats

        again = ControlPlane()
        await again.set_snapshot(with_("a", "never"))
        async with serving(again, port=xds):
            await until("z is gone, and a is back", lambda: _has(envoy, "a"))
            assert (await ask("a")).status == 200
            assert (await ask("never")).status == 200


async def _has(envoy: Envoy, *names: str) -> bool:
    return (await envoy.clusters()).keys() == {"xds", *names}


@row(
    SECTION,
    "N4b",
    "The cluster behind a virtual host on demand is exchanged under load without losing a request",
    (Variant.DELTA_ADS,),
)
async def test_clusters_behind_a_virtual_host(
    variant: Variant, origins: Callable[..., Origin], run_folder: Path
) -> None:
    xds, port, origin = free_port(), free_port(), origins("one")
    plane = ControlPlane()

    def through(cluster: str) -> Snapshot:
        return Snapshot.of(
            [
                made.cluster(cluster),
                made.endpoints(cluster, origin.port),
                made_types.virtual_host("rc", "all", "*.test", to=cluster),
                made_types.routes_on_demand("rc", says="static"),
                made_types.listener("l", port, "rc", on_demand=made_types.on_demand()),
            ]
        )

    await plane.set_snapshot(through("c"))
    async with serving(plane, port=xds), following(xds, run_folder, how=how(variant)) as envoy:
        await envoy.ready()
        await serve_under_load(plane, Address(port=port), (through(f"c{number}") for number in range(40)))
        assert (await envoy.clusters()).keys() == {"xds", "c39"}
