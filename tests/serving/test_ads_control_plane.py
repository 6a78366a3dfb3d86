"""The ADS client against the real control plane: it follows changes, refuses a bad one, comes back after a restart."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from controlplane.snapshot.resource import EXTENSION, Audience, Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from serving.address import UnixAddress
from serving.ads import AdsClient, Backoff, Subscription, policy_json
from serving.server import Server
from tests.serving.ads_server import policy

NAMES = ("causeway.extauthz", "causeway.ratelimit")


def document(name: str, text: str) -> Resource:
    return whole(EXTENSION, name, policy(name, text), audience=Audience.SERVICE)


def snapshot(text: str) -> Snapshot:
    return Snapshot.of([*(document(name, text) for name in NAMES), document("another", "not asked for")])


class Applied:
    """What is in effect, by name. A text of `bad` is refused."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.calls = 0
        self._changed = asyncio.Event()

    def apply(self, name: str, body: bytes) -> None:
        self.calls += 1
        self._changed.set()
        text = policy_json(body)
        if text == "bad":
            raise ValueError("rules: found bad")
        self.texts[name] = text

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def control_plane(at: UnixAddress, text: str) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    server = Server(plane.services())
    await plane.set_snapshot(snapshot(text))
    await server.start([at])
    try:
        yield plane
    finally:
        plane.end_all()
        await server.drain(grace_s=1)


async def test_the_client_follows_the_control_plane_through_changes_refusals_and_a_restart(tmp_path: Path) -> None:
    at, applied = UnixAddress(tmp_path / "xds.sock"), Applied()
    subscription = Subscription(NAMES, applied.apply)
    client = AdsClient(
        at, subscription, node_id="worker-1", node_cluster="extauthz", backoff=Backoff(first_s=0.01, most_s=0.05)
    )
    running = asyncio.create_task(client.run())
    try:
        async with control_plane(at, "one") as plane:
            await asyncio.wait_for(client.synced.wait(), 10)
            assert applied.texts == dict.fromkeys(NAMES, "one")
            await plane.set_snapshot(snapshot("two"))
            await applied.until(lambda: applied.texts == dict.fromkeys(NAMES, "two"))
            await plane.set_snapshot(snapshot("bad"))
            await applied.until(lambda: set(subscription.rejected) == set(NAMES))
            assert applied.texts == dict.fromkeys(NAMES, "two")
        calls = applied.calls
        async with control_plane(at, "two") as plane:
            await plane.set_snapshot(snapshot("three"))
            await applied.until(lambda: applied.texts == dict.fromkeys(NAMES, "three"))
        assert applied.calls <= calls + 2 * len(NAMES)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
