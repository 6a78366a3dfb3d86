"""What the status says of clients that are not well: one that gives another name, one that does not answer."""

from __future__ import annotations

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

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
