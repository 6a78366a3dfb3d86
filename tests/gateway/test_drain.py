"""How an Envoy that `causeway up` started ends: no new connections, and what is in flight is answered first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controlplane.cli.up.children import Plan, children
from controlplane.cli.up.demo import Demo
from controlplane.cli.up.envoy import EnvoyAdmin
from controlplane.cli.up.places import Places
from tests.support.behaviour import Answer, Hold
from tests.support.client import Connection
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


async def test_the_end_waits_for_what_is_in_flight_and_lets_nobody_in(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/**", "service": "a", "auth": "public"}
    await gateway.apply({"services": {"a": {"endpoints": [origin.address]}}, "routes": [route]})
    async with Connection(gateway.address) as kept:
        await kept.request("GET", "/")
        hold = Hold(then=Answer(body=b"in time"))
        origin.on("/held", hold)
        waiting = asyncio.create_task(gateway.request("GET", "/held"))
        await origin.saw(2)
        draining = asyncio.create_task(EnvoyAdmin(gateway.folder / "envoy.sock").drain(most_s=30))
        await until("new connections refused", lambda: _is_refused(gateway))
        assert (await kept.request("GET", "/")).header("connection") == "close"
        assert not draining.done()
        hold.release()
        await draining
        assert (await waiting).body == b"in time"
    gateway.envoy.stop()


async def _is_refused(gateway: Gateway) -> bool:
    try:
        _, writer = await gateway.address.connect()
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def test_envoy_has_its_ten_minutes_for_what_is_in_flight_on_a_listener_that_changes(tmp_path: Path) -> None:
    """A shorter time would cut requests that an edit finds under way, and WebSockets."""
    plan = Plan(
        folder=tmp_path,
        places=Places(state=tmp_path, sockets=tmp_path),
        demo=Demo(services=(), tries=()),
        envoy=tmp_path / "envoy",
        environ={},
        concurrency=1,
    )
    (envoy,) = (child for child in children(plan, tmp_path / "envoy.yaml") if child.name == "envoy")
    assert "--drain-time-s" not in envoy.argv
