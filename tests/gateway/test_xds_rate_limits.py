"""Rate limit services get their limits from our control plane (RateLimitConfig): ours in place of the one in Go that
others deploy, and that one itself, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.session import Session
from ratelimit.messages import RateLimitConfig
from tests.ratelimit.requests import OK, OVER, descriptor, request, response
from tests.support.gateway import causeway
from tests.support.process import Process
from tests.support.redis import Redis
from tests.support.reference_ratelimit import ReferenceRatelimit, reference_binary
from tests.support.waiting import free_port, until
from tests.xds import made
from tests.xds.rows import Variant, row
from tests.xds.served import serving

pytestmark = pytest.mark.gateway
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

Started = Callable[[int], int]
"""Starts a service that follows the control plane on a port; gives its own."""


def limits(name: str, domain: str, **per_day: int) -> Resource:
    """The limits of a domain: so many requests a day for each value of the key `who`."""
    message = {
        "name": name,
        "domain": domain,
        "descriptors": [
            {"key": "who", "value": value, "rate_limit": {"unit": "DAY", "requests_per_unit": requests}}
            for value, requests in per_day.items()
        ],
    }
    body = json_format.ParseDict(message, RateLimitConfig()).SerializeToString(deterministic=True)
    return whole(types.RATE_LIMIT_CONFIG, name, body, Origin(file=f"{name}.yaml", line=1, column=1))


@pytest.fixture
def redis(run_folder: Path) -> Iterator[Redis]:
    server = Redis(run_folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["go", "causeway"])
def start(request: pytest.FixtureRequest, redis: Redis, run_folder: Path) -> Iterator[Started]:
    processes: list[Process] = []

    def go(xds: int) -> int:
        binary = reference_binary()
        if binary is None:
            pytest.skip("no rate limit service in Go: none is named, and the benchmark has built none")
        service = ReferenceRatelimit(binary, folder=run_folder, redis=redis, xds=xds)
        processes.append(service.process)
        service.start()
        return service.port

    def ours(xds: int) -> int:
        port = free_port()
        argv = causeway("ratelimit", "--xds", f"127.0.0.1:{xds}", "--xds-reference", "yes", "--redis", redis.url)
        argv += ["--listen", f"127.0.0.1:{port}", "--admin", f"unix:{run_folder}/ratelimit-admin.sock"]
        processes.append(Process("ratelimit", argv, folder=run_folder))
        processes[-1].start()
        return port

    yield {"go": go, "causeway": ours}[request.param]
    for process in processes:
        process.stop()


class Asking:
    """Asks the service: `codes` for so many requests, `limit` for what it would count against."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.unary_unary(METHOD)

    async def codes(self, domain: str, who: str, times: int) -> list[int]:
        return [(await self._ask(domain, who)).overall_code for _ in range(times)]

    async def limit(self, domain: str, who: str) -> int:
        """Without counting; 0 where there is no limit."""
        answer = await self._ask(domain, who, hits=0)
        return int(answer.statuses[0].current_limit.requests_per_unit)

    async def _ask(self, domain: str, who: str, *, hits: int | None = None):  # type: ignore[no-untyped-def]
        body = request(domain, descriptor(("who", who), hits=hits))
        return response(await self._call(body, timeout=5, wait_for_ready=True))


def following(plane: ControlPlane) -> Session | None:
    """The service's stream of limits. Ours has another one, for its policies."""
    return next((one for one in plane.sessions if types.RATE_LIMIT_CONFIG in one.stream.channels), None)


async def accepted(plane: ControlPlane) -> Session:
    def session() -> Session | None:
        found = following(plane)
        return found if found is not None and found.revision == plane.revision else None

    return await until("the service has its limits", session)


@row(
    "Through rate limit services",
    "R1",
    "Limits are got, changed and removed in service; what is refused is kept back and named",
    (Variant.SOTW_ADS,),
)
async def test_limits(variant: Variant, start: Started) -> None:
    plane, xds = ControlPlane(), free_port()
    beside = [made.cluster("c"), made.endpoints("c", 80)]  # what Envoys get concerns it not
    await plane.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=2), limits("b", "other", me=1)]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{start(xds)}") as channel:
        asking = Asking(channel)
        async with serving(plane, port=xds):
            session = await accepted(plane)
            assert set(session.stream.channels) == {types.RATE_LIMIT_CONFIG}
            await until("the limit is there", lambda: asking.limit("api", "me"))
            assert await asking.codes("api", "me", 3) == [OK, OK, OVER]
            assert await asking.codes("other", "me", 2) == [OK, OVER]

            # One changes, the other stays: a response that lacked it would have ended it.
            await plane.set_snapshot(
                Snapshot.of([*beside, limits("a", "api", me=5), limits("b", "other", me=1)]), revision="2"
            )
            await accepted(plane)
            await until("five a day", lambda: _is(asking, "api", 5))
            assert await asking.limit("other", "me") == 1

            # A configuration without a domain is refused; the others change.
            bad = limits("bad", "", me=1)
            await plane.set_snapshot(
                Snapshot.of([*beside, limits("a", "api", me=7), limits("b", "other", me=1), bad]), revision="3"
            )
            (kept,) = await until("a verdict", lambda: plane.status().kept_back)
            assert (kept.resource, kept.origins) == ("bad", ("bad.yaml:1:1",))
            assert "empty domain" in kept.text
            await accepted(plane)
            await until("seven a day", lambda: _is(asking, "api", 7))
            assert await asking.limit("other", "me") == 1

            await plane.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=7)]), revision="4")
            await accepted(plane)
            await until("no limit", lambda: _is(asking, "other", 0))

        # Without the control plane it goes on with what it has, and with it again it goes on from there.
        assert await asking.limit("api", "me") == 7
        again = ControlPlane()
        await again.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=7)]), revision="5")
        async with serving(again, port=xds):
            session = await accepted(again)
            assert session.responses == 0, "it has this"
            await again.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=9)]), revision="6")
            await until("nine a day", lambda: _is(asking, "api", 9))


async def _is(asking: Asking, domain: str, requests: int) -> bool:
    return await asking.limit(domain, "me") == requests
