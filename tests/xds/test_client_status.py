"""What the status says of clients that are not well, and which clients a tool that asks over CSDS can choose."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from controlplane.xds import csds
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.policy import Policy
from controlplane.xds.status import Verdict
from tests.support.waiting import until
from tests.xds.playbook import state
from tests.xds.rows import TYPES, Variant
from tests.xds.served import serving
from tests.xds.wire_client import connected


async def test_a_client_that_gives_another_name_in_mid_stream_is_flagged() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    node = base_pb2.Node(id="edge-1", cluster="gateway", user_agent_name="envoy")
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH, node=node) as client:
        await client.ask("CDS", "A")
        await client.hear()
        await until("it is well", lambda: plane.status().clients[0].verdict is Verdict.SYNCED)
        assert plane.status().clients[0].drifted_to is None
        for cluster in ("other", "gateway"):
            again = base_pb2.Node(id="edge-2", cluster=cluster, user_agent_name="envoy")
            await client._write(discovery_pb2.DeltaDiscoveryRequest(type_url=TYPES["CDS"], node=again))
            shown = f"edge-2 of {cluster}"
            await until("it is flagged", lambda shown=shown: plane.status().clients[0].drifted_to == shown)
        assert plane.status().clients[0].id == "edge-1", "it is served as who it said it was"


async def test_a_client_that_says_late_who_it_is_is_served_as_that() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    late = base_pb2.Node(id="edge-1", cluster="gateway", user_agent_name="envoy")
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH, node=base_pb2.Node()) as client:
        await client.ask("CDS", "A")
        await client.hear()
        await until("it is well", lambda: plane.status().clients[0].verdict is Verdict.SYNCED)
        assert plane.status().clients[0].id == ""
        await client._write(discovery_pb2.DeltaDiscoveryRequest(type_url=TYPES["CDS"], node=late))
        await until("it is known", lambda: plane.status().clients[0].id == "edge-1")
        assert plane.status().clients[0].drifted_to is None
        await plane.set_snapshot(state(CDS={"A": 2}))
        await client.hear()
        await until("it is well again", lambda: plane.status().clients[0].verdict is Verdict.SYNCED)


async def test_a_client_that_does_not_answer_is_silent_and_one_that_does_is_well() -> None:
    plane = ControlPlane(Policy(silent_after_s=0.1))
    await plane.set_snapshot(state(CDS={"A": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A")
        response = await client.hear(ack=False)
        await until("it is silent", lambda: plane.status().clients[0].verdict is Verdict.SILENT)
        assert plane.status().clients[0].took_s is None
        await client.answer(response)
        await until("it is well", lambda: plane.status().clients[0].verdict is Verdict.SYNCED)
        took_s = plane.status().clients[0].took_s
        assert took_s is not None
        assert took_s >= 0.1


CHOSEN = {
    "all of them": ({}, {"edge-1", "Edge-2"}),
    "an empty matcher": ({"node_id": {}}, {"edge-1", "Edge-2"}),
    "by the whole id": ({"node_id": {"exact": "edge-1"}}, {"edge-1"}),
    "by its beginning": ({"node_id": {"prefix": "Edge"}}, {"Edge-2"}),
    "by its end": ({"node_id": {"suffix": "-2"}}, {"Edge-2"}),
    "by what is in it": ({"node_id": {"contains": "ge-1"}}, {"edge-1"}),
    "in any case": ({"node_id": {"exact": "EDGE-1", "ignore_case": True}}, {"edge-1"}),
    "by an expression": ({"node_id": {"safe_regex": {"regex": "edge-.*"}}}, None),
    "by metadata": ({"node_id": {"exact": "edge-1"}, "node_metadatas": [{"path": [{"key": "zone"}]}]}, None),
}


@pytest.mark.parametrize("how", CHOSEN)
async def test_a_tool_chooses_clients_by_id_and_is_told_what_cannot_be_chosen_by(how: str) -> None:
    matcher, wanted = CHOSEN[how]
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    first, second = (base_pb2.Node(id=name, user_agent_name="envoy") for name in ("edge-1", "Edge-2"))
    async with (
        serving(plane, csds.service(plane)) as port,
        connected(port, Variant.DELTA_ADS, node=first) as one,
        connected(port, Variant.DELTA_ADS, node=second) as other,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for client in (one, other):
            await client.ask("CDS", "A")
            await client.hear()
        call = channel.unary_unary(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=csds_pb2.ClientStatusResponse.FromString,
        )(asked(matcher))
        if wanted is None:
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "only node_id is met here, by exact, prefix, suffix, contains" in await call.details()
        else:
            assert {config.node.id for config in (await call).config} == wanted


def asked(matcher: dict[str, Any]) -> csds_pb2.ClientStatusRequest:
    return csds_pb2.ClientStatusRequest(node_matchers=[matcher] if matcher else [])
