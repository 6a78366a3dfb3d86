"""What a client may ask for has an end, also when it asks little by little; what it was given it can say back."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.protocol import NAMES_PER_TYPE, ProtocolError
from controlplane.xds.subscription import Subscription
from tests.support.gateway import causeway
from tests.support.process import Process
from tests.support.waiting import until
from tests.xds.playbook import state
from tests.xds.rows import TYPES, Variant
from tests.xds.served import serving
from tests.xds.wire_client import connected


def test_names_of_many_requests_have_a_limit_together() -> None:
    subscription = Subscription(legacy_allowed=False)
    half = NAMES_PER_TYPE // 2
    for first in (0, half):
        subscription.change([f"n{number}" for number in range(first, first + half)], [], is_first=not first)
    subscription.change(["n0"], [], is_first=False)  # it was counted already
    subscription.change(["other"], ["n0"], is_first=False)  # one for one
    with pytest.raises(ProtocolError, match="names of one type"):
        subscription.change(["one more"], [], is_first=False)


async def test_a_client_that_asks_for_ever_more_is_sent_away_and_leaves_nothing() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        for request in range(2):
            await client.ask("CDS", *(f"n{request}.{number}" for number in range(40_000)))
            await client.hear()
        await client.ask("CDS", *(f"more.{number}" for number in range(40_000)))
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "names of one type" in await client.details()
        await until("no session", lambda: not plane.sessions)


async def test_a_client_that_comes_back_can_say_all_that_it_was_given(tmp_path: Path) -> None:
    """Refused it, an Envoy would come back with the same for ever."""
    (tmp_path / "a.yaml").write_text("routes: [{path: /, respond: {status: 200}, auth: public}]\n")
    socket = tmp_path / "xds.sock"
    where = ("--xds", f"unix:{socket}", "--admin", f"unix:{tmp_path}/admin.sock", "--state", tmp_path / "state")
    process = Process("serve", causeway("serve", tmp_path, *where), folder=tmp_path).start()
    try:
        await until("it listens", socket.exists, within_s=30)
        given = {f"{number:0100}": "0123456789abcdef" for number in range(NAMES_PER_TYPE * 6 // 10)}
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            call = channel.stream_stream(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
                request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
            )()
            await call.write(
                discovery_pb2.DeltaDiscoveryRequest(
                    node=base_pb2.Node(id="back-again", user_agent_name="envoy"),
                    type_url=TYPES["CDS"],
                    initial_resource_versions=given,
                )
            )
            assert await call.read() is not grpc.aio.EOF, await call.details()
            call.cancel()
    finally:
        process.stop()
