"""The rate limit service in Go that others deploy gets its limits from our control plane (RateLimitConfig)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource, field, varint, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from tests.ratelimit.requests import OK, OVER, descriptor, request, response
from tests.support.redis import Redis
from tests.support.reference_ratelimit import ReferenceRatelimit, reference_binary
from tests.support.waiting import free_port, until
from tests.xds import made
from tests.xds.rows import Variant, row
from tests.xds.served import serving

BINARY = reference_binary()
pytestmark = [
    pytest.mark.gateway,
    pytest.mark.skipif(BINARY is None, reason="no rate limit service in Go: neither named nor built by the benchmark"),
]
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
DAY = 4


def limits(name: str, domain: str, **per_day: int) -> Resource:
    """The limits of a domain: so many requests a day for each value of the key `who`."""
    descriptors = b""
    for value, requests in per_day.items():
        limit = varint(1 << 3) + varint(DAY) + varint(2 << 3) + varint(requests)
        descriptors += field(3, field(1, b"who") + field(2, value.encode()) + field(3, limit))
    body = field(1, name.encode()) + (field(2, domain.encode()) if domain else b"") + descriptors
    return whole(types.RATE_LIMIT_CONFIG, name, body, Origin(file=f"{name}.yaml", line=1, column=1))


@pytest.fixture
def redis(run_folder: Path) -> Iterator[Redis]:
    server = Redis(run_folder)
    server.start()
    yield server
    server.stop()


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


async def accepted(plane: ControlPlane) -> None:
    await until("the service has its limits", lambda: plane.sessions and all(_is_settled(plane)))


def _is_settled(plane: ControlPlane) -> Iterator[bool]:
    return (session.revision == plane.revision for session in plane.sessions)


@row(
    "Through the rate limit service in Go",
    "R1",
    "Limits are got, changed and removed in service; what it refuses is kept back and named (where it is installed)",
    (Variant.SOTW_ADS,),
)
async def test_limits(variant: Variant, redis: Redis, run_folder: Path) -> None:
    assert BINARY is not None
    plane, xds = ControlPlane(), free_port()
    beside = [made.cluster("c"), made.endpoints("c", 80)]  # what Envoys get concerns it not
    await plane.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=2), limits("b", "other", me=1)]))
    service = ReferenceRatelimit(BINARY, folder=run_folder, redis=redis, xds=xds).start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            asking = Asking(channel)
            async with serving(plane, port=xds):
                await accepted(plane)
                (session,) = plane.sessions
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
                assert await asking.codes("api", "me", 3) == [OK, OK, OVER]
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
                await accepted(again)
                (session,) = again.sessions
                assert session.responses == 0, "it has this"
                await again.set_snapshot(Snapshot.of([*beside, limits("a", "api", me=9)]), revision="6")
                await until("nine a day", lambda: _is(asking, "api", 9))
    finally:
        service.stop()


async def _is(asking: Asking, domain: str, requests: int) -> bool:
    return await asking.limit(domain, "me") == requests
