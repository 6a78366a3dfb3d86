"""What an Envoy's counters say, read from its own words, and when it is called frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.observe.fleet import FROZEN_AFTER_S, Fleet
from controlplane.observe.rates import Requests, counters
from serving.address import UnixAddress
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        pytest.param({}, Requests(completed=0, failed=0), id="nothing"),
        pytest.param(
            {"http.in-1.downstream_rq_completed": 7, "http.in-2.downstream_rq_completed": 3},
            Requests(completed=10, failed=0),
            id="listeners are added up",
        ),
        pytest.param(
            {"http.in.downstream_rq_5xx": 2, "http.admin.downstream_rq_5xx": 9},
            Requests(completed=0, failed=2),
            id="Envoy's own admin listener does not count",
        ),
        pytest.param(
            {
                "cluster.service/orders.upstream_rq_503": 4,
                "cluster.service/orders.external.upstream_rq_503": 4,
                "cluster.causeway.extauthz.upstream_rq_503": 8,
                "cluster.service/v1.users.upstream_rq_500": 1,
                "cluster.service/quiet.upstream_rq_500": 0,
            },
            Requests(completed=0, failed=0, by_service={"orders 503": 4, "v1.users 500": 1}),
            id="users' services are told apart, each failure once",
        ),
    ],
)
def test_counters(stats: dict[str, int], expected: Requests) -> None:
    assert counters({"stats": [{"name": name, "value": value} for name, value in stats.items()]}) == expected


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def admin(path: Path, requests: list[int]) -> AsyncIterator[None]:
    """What an Envoy answers, with as many requests completed as the list says last."""

    async def info(_: web.Request) -> web.Response:
        return web.json_response({"node": {"id": "edge-1"}})

    async def stats(_: web.Request) -> web.Response:
        return web.json_response({"stats": [{"name": "http.in.downstream_rq_completed", "value": requests[-1]}]})

    app = web.Application()
    app.router.add_get("/server_info", info)
    app.router.add_get("/stats", stats)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_an_envoy_is_frozen_when_it_answered_once_and_does_not_now(run_folder: Path) -> None:
    clock, path = Clock(), run_folder / "e.sock"
    fleet = Fleet((UnixAddress(path), UnixAddress(run_folder / "never.sock")), is_measuring=True, clock=clock)
    running = asyncio.create_task(fleet.run())
    try:
        async with admin(path, [5]):
            await until("it was measured", fleet.earlier)
            assert fleet.frozen() == {}
            assert {name: one.completed for name, one in (await fleet.now()).items()} == {"edge-1": 5}
            clock.now += 60  # nothing was asked since: that is no sign
            assert fleet.frozen() == {}
            await until("it was asked again", lambda: fleet.frozen() == {})
        await until("it is asked in vain", lambda: _later(clock, fleet))
        assert fleet.frozen()["edge-1"] > FROZEN_AFTER_S
        async with admin(path, [6]):
            await until("it answers", lambda: not fleet.frozen())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _later(clock: Clock, fleet: Fleet) -> bool:
    clock.now += 0.1
    return bool(fleet.frozen())


async def test_counters_that_began_anew_are_nothing_to_compare_with(run_folder: Path) -> None:
    counted = [50]
    async with admin(run_folder / "e.sock", counted):
        fleet = Fleet((UnixAddress(run_folder / "e.sock"),), is_measuring=True)
        (known,) = fleet._known
        for completed in (50, 70, 3):
            counted.append(completed)
            await fleet._look(known, measure=True)
        assert fleet.earlier()["edge-1"].completed == 3
        fleet.forget()
        assert fleet.earlier() == {}
        await known.admin.close()
