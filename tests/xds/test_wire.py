"""The same rules over real gRPC, and what only the shell can do: limits, isolation, identity, gates, status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from controlplane.origin import Origin
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds import csds
from controlplane.xds.clients import AllowList
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.policy import Inconsistent, Outcome, Policy
from controlplane.xds.protocol import NAMES_PER_TYPE
from controlplane.xds.waiting import wait_until_live
from serving.address import TcpAddress
from serving.server import Server
from serving.tls import TlsFiles, channel_credentials
from tests.serving.certificates import Authority
from tests.support.waiting import until
from tests.xds import made
from tests.xds.playbook import plain, state
from tests.xds.rows import ADS, ALL, TYPES, Variant, row
from tests.xds.served import serving, synced
from tests.xds.wire_client import WireClient, connected, names

SECTION = "Over gRPC"


async def plane_with(**kinds: dict[str, int]) -> ControlPlane:
    plane = ControlPlane()
    await plane.set_snapshot(state(**kinds))
    return plane


async def numbered(plane: ControlPlane, number: int) -> None:
    await plane.set_snapshot(state(CDS={"A": number}), revision=str(number))


@row(SECTION, "W1", "A request that breaks the protocol ends the stream with INVALID_ARGUMENT and a reason", ADS)
async def test_protocol_error(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, variant) as client:
        request = discovery_pb2.DiscoveryRequest if variant is Variant.SOTW_ADS else discovery_pb2.DeltaDiscoveryRequest
        await client._write(request(node=base_pb2.Node(id="x")))
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "type URL" in await client.details()
        await until("the session is gone", lambda: not plane.sessions)


@row(SECTION, "W1b", "A stream that is refused in the middle ends, and leaves nothing behind", ALL, behaviour="5")
async def test_refused_in_the_middle(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, variant) as other:
        await other.ask("CDS", "A")
        await other.hear()
        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with connected(port, variant) as client:
                await client.ask("CDS", "A")
                await client.hear()
                await client.ask("CDS", "x" * 5_000)
                assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT
        await until("one session", lambda: len(plane.sessions) == 1)
        await until("no task", lambda: len(asyncio.all_tasks()) <= before + 1)
        await numbered(plane, 2)
        assert names(await other.hear()) == ["A"]


@row(SECTION, "W2", "A client that goes leaves nothing behind", ALL)
async def test_nothing_left_behind(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            async with connected(port, variant) as client:
                await client.ask("CDS", "A")
                await client.hear()
        await until("no session", lambda: not plane.sessions)
        await until("no task", lambda: len(asyncio.all_tasks()) <= before + 1)


@row(SECTION, "W3", "When the server ends, every stream ends at once", ALL, behaviour="6")
async def test_shutdown(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, variant) as client:
        await client.ask("CDS", "A")
        await client.hear()
        plane.end_all()
        assert await asyncio.wait_for(client.code(), 1.0) is grpc.StatusCode.OK


@row(SECTION, "W4", "More names than the limit are refused", ALL)
async def test_too_many_names(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, variant) as client:
        await client.ask("CDS", *(f"n{number}" for number in range(NAMES_PER_TYPE + 1)))
        assert await client.code() is grpc.StatusCode.INVALID_ARGUMENT


@row(SECTION, "W5", "More streams than the limit are refused, the others go on", ALL)
async def test_too_many_streams(variant: Variant) -> None:
    plane = ControlPlane(Policy(max_streams=1))
    await numbered(plane, 1)
    async with serving(plane) as port, connected(port, variant) as first:
        await first.ask("CDS", "A")
        await first.hear()
        async with connected(port, variant) as second:
            with contextlib.suppress(asyncio.CancelledError, asyncio.InvalidStateError, grpc.RpcError):
                await second.ask("CDS", "A")  # it may be refused before it has spoken
            assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await numbered(plane, 2)
        assert names(await first.hear()) == ["A"]


@row(SECTION, "W6", "A client that does not read delays nobody, and gets the newest state when it does", ALL)
async def test_slow_client(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    big = [Resource(type_url=TYPES["CDS"], name="big", tree=(bytes(1 << 20),))]
    other = base_pb2.Node(id="quick", user_agent_name="envoy")
    async with (
        serving(plane) as port,
        connected(port, variant) as slow,
        connected(port, variant, node=other) as quick,
    ):
        for client in (slow, quick):
            await client.ask("CDS", "A", "big")
            await client.hear()
        last = ""
        for number in range(2, 60):
            last = plain("CDS", "A", number).version
            plane.serve_unchecked(
                Snapshot.of([plain("CDS", "A", number), *(big if number % 2 else [])]), revision=str(number)
            )
            await quick.hear()
        session = next(one for one in plane.sessions if one.stream.node and one.stream.node.id == "test-id")
        assert session.responses < 30, "what was superseded was never sent to the slow one"
        held = []
        while not await slow.is_quiet(0.3):
            response = await slow.hear()
            held = [*held, *response.resources]
        newest = session.stream.channels[TYPES["CDS"]].acked["A"]
        assert newest.version == last


@row(SECTION, "W7", "Two clients with the same subscription share one encoding", ALL)
async def test_shared_encoding(variant: Variant) -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, variant) as one, connected(port, variant) as two:
        for client in (one, two):
            await client.ask("CDS", "A")
            await client.hear()
        assert (plane.encoder.misses, plane.encoder.hits) == (1, 1)


@row(SECTION, "W8", "Policy documents reach the services before the routes that name them reach Envoy", ADS)
async def test_policies_before_routes(variant: Variant) -> None:
    def snapshot(number: int) -> Snapshot:
        return Snapshot.of([made.policy("causeway.extauthz", f"{number}"), plain("RDS", "rc", number)])

    plane = ControlPlane()
    await plane.set_snapshot(snapshot(1))
    service_node = base_pb2.Node(id="authz", user_agent_name="causeway")
    async with (
        serving(plane) as port,
        connected(port, variant) as envoy,
        connected(port, variant, node=service_node) as service,
    ):
        await envoy.ask("RDS", "rc")
        await envoy.hear()
        await service.ask("ECDS", "causeway.extauthz")
        await service.hear()
        await synced(plane)
        await plane.set_snapshot(snapshot(2))
        document = await service.hear(ack=False)
        assert await envoy.is_quiet(), "routes wait"
        await service.answer(document)
        assert names(await envoy.hear()) == ["rc"]


@row(SECTION, "W9", "A service that never accepts its policies holds the routes back for a moment only", ADS)
async def test_policies_are_not_waited_for_for_ever(variant: Variant) -> None:
    plane = ControlPlane(Policy(policy_patience_s=0.2))
    await plane.set_snapshot(Snapshot.of([made.policy("p", "1"), plain("RDS", "rc", 1)]))
    service_node = base_pb2.Node(id="authz", user_agent_name="causeway")
    async with (
        serving(plane) as port,
        connected(port, variant) as envoy,
        connected(port, variant, node=service_node) as service,
    ):
        await envoy.ask("RDS", "rc")
        await envoy.hear()
        await service.ask("ECDS", "p")
        await service.hear()
        await synced(plane)
        await plane.set_snapshot(Snapshot.of([made.policy("p", "2"), plain("RDS", "rc", 2)]))
        await service.hear(ack=False)
        assert names(await envoy.hear()) == ["rc"]


async def test_an_inconsistent_snapshot_is_not_served() -> None:
    plane = await plane_with(CDS={"A": 1})
    with pytest.raises(Inconsistent) as refused:
        await plane.set_snapshot(Snapshot.of([made.routes("rc", {"/": "nowhere"})]))
    assert 'names Cluster "nowhere"' in refused.value.problems[0]
    assert plane.snapshot is not None
    assert plane.snapshot.get(TYPES["CDS"], "A") is not None


async def test_a_mass_deletion_is_held_until_confirmed() -> None:
    plane = ControlPlane()
    many = {f"c{number}": 1 for number in range(10)}
    await plane.set_snapshot(state(CDS=many), revision="many")
    assert await plane.set_snapshot(state(CDS={"c0": 1}), revision="few") is Outcome.HELD
    assert plane.revision == "many"
    held = plane.status().held
    assert held is not None
    assert len(held.removes) == 9
    assert await plane.confirm() == "few"
    assert plane.revision == "few"
    assert await plane.confirm() is None
    await plane.set_snapshot(state(CDS=many), revision="again")
    await plane.set_snapshot(state(), revision="none")
    assert plane.discard() == "none"
    assert plane.status().held is None


async def test_status_tells_what_each_client_has() -> None:
    plane = await plane_with(CDS={"A": 1, "B": 1})
    async with serving(plane) as port, connected(port, Variant.DELTA_ADS) as client:
        await client.ask("CDS", "A", "B")
        response = await client.hear(ack=False)
        (waiting,) = plane.status().clients
        assert (waiting.id, waiting.verdict.value, waiting.types[0].state) == ("test-id", "pending", "WAITING")
        await client.answer(response, "bad A")
        halves = [await client.hear(ack=False), None]
        await client.answer(halves[0], "bad A")
        await client.hear()
        await until("a verdict", lambda: plane.status().kept_back)
        waited = await wait_until_live(plane, 2.0)
        assert not waited.is_live
        assert "bad A" in waited.reasons[0]
        # The stream is done with it, and it stays said.
        (rejecting,) = plane.status().clients
        assert (rejecting.verdict.value, rejecting.types[0].state) == ("rejected", "NACKED")
        assert rejecting.types[0].nack == "bad A"
        assert rejecting.types[0].kept_back == ("A",)
        assert rejecting.nacks == 2
        async with connected(
            port, Variant.DELTA_ADS, node=base_pb2.Node(id="of its kind", user_agent_name="envoy")
        ) as b:
            await b.ask("CDS", "A", "B")
            await b.hear()
            await until("settled", lambda: all(session.stream.is_settled for session in plane.sessions))
            other = next(one for one in plane.status().clients if one.id == "of its kind")
            assert (other.types[0].state, other.types[0].nack) == ("ACKED", None)
            assert other.types[0].kept_back == ("A",)
        await until("it is gone", lambda: len(plane.sessions) == 1)
        await plane.set_snapshot(state(CDS={"A": 2, "B": 1}))
        await client.hear()
        assert (await wait_until_live(plane, 2.0)).is_live
        (cured,) = (one for one in plane.status().clients if one.id == "test-id")
        assert (cured.verdict.value, cured.types[0].state, cured.types[0].nack) == ("synced", "ACKED", None)


def like_envoy(name: str) -> base_pb2.Node:
    return base_pb2.Node(id=name, user_agent_name="envoy")


@contextlib.asynccontextmanager
async def two_of_a_kind(plane: ControlPlane) -> AsyncIterator[tuple[WireClient, WireClient, int]]:
    """Two clients that have A, and the port."""
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_EACH, node=like_envoy("there")) as there,
        connected(port, Variant.DELTA_EACH, node=like_envoy("here")) as here,
    ):
        for client in (there, here):
            await client.ask("CDS", "A")
            await client.hear()
        yield there, here, port


async def test_what_one_client_refuses_and_others_accept_is_its_own_matter() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with two_of_a_kind(plane) as (good, bad, _):
        placed = whole(TYPES["CDS"], "A", plain("CDS", "A", 2).body, Origin(file="a.yaml", line=1, column=2))
        await plane.set_snapshot(Snapshot.of([placed]), revision="2")
        await good.hear()
        await until("accepted by one", lambda: any(s.revision == "2" for s in plane.sessions))
        await bad.answer(await bad.hear(ack=False), "no")
        await until("both quiet", lambda: all(s.stream.is_settled for s in plane.sessions))
        assert plane.status().kept_back == ()
        assert await good.is_quiet()
        assert await bad.is_quiet(), "and it is not offered again"
        waited = await wait_until_live(plane, 1.0)
        assert waited.reasons == ('a.yaml:1:2: here refuses Cluster "A": no',)
        places = {one.id: one.types[0].nack_origins for one in plane.status().clients}
        assert places == {"here": ("a.yaml:1:2",), "there": ()}


async def test_who_refuses_first_does_not_decide_for_those_who_are_being_asked() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with two_of_a_kind(plane) as (good, bad, port):
        await numbered(plane, 2)
        asked = await good.hear(ack=False)
        await bad.answer(await bad.hear(ack=False), "no")
        await until("the refusal is heard", lambda: any(s.nacks for s in plane.sessions))
        assert await good.is_quiet(0.1)
        assert plane.status().kept_back == ()
        await good.answer(asked)
        await until("both quiet", lambda: all(s.stream.is_settled for s in plane.sessions))
        assert plane.status().kept_back == ()
        assert await good.is_quiet()
        async with connected(port, Variant.DELTA_EACH, node=like_envoy("later")) as later:
            await later.ask("CDS", "A")
            assert (await later.hear()).resources[0].version == asked.resources[0].version


async def test_who_says_nothing_is_not_waited_for_and_may_still_accept() -> None:
    plane = ControlPlane(Policy(patience_s=0.2))
    await numbered(plane, 1)
    async with two_of_a_kind(plane) as (stuck, bad, port):
        await numbered(plane, 2)
        asked = await stuck.hear(ack=False)
        await bad.answer(await bad.hear(ack=False), "no")
        await until("kept back from all", lambda: plane.status().kept_back)
        await stuck.answer(asked)
        await until("from nobody", lambda: not plane.status().kept_back)

        async def has_it() -> bool:
            async with connected(port, Variant.DELTA_EACH, node=like_envoy("later")) as later:
                await later.ask("CDS", "A")
                return (await later.hear()).resources[0].version == asked.resources[0].version

        assert await has_it()


async def test_who_does_not_say_what_it_is_decides_for_itself_only() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_EACH, node=base_pb2.Node(id="one")) as one,
        connected(port, Variant.DELTA_EACH, node=base_pb2.Node(id="other")) as other,
    ):
        await one.ask("CDS", "A")
        await one.answer(await one.hear(ack=False), "no")
        await until("kept back", lambda: plane.status().kept_back)
        await other.ask("CDS", "A")
        assert names(await other.hear()) == ["A"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("cannot bind '127.0.0.1:80': Address already in use", id="its port is taken"),
        pytest.param("Failed to load certificate chain from <inline>", id="a certificate that it had before"),
    ],
)
async def test_a_listener_that_is_not_to_blame_is_offered_to_all_others_and_again(text: str) -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(LDS={"L": 1}))
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_EACH, "LDS", node=like_envoy("here")) as here,
        connected(port, Variant.DELTA_EACH, "LDS", node=like_envoy("there")) as there,
    ):
        await here.ask("LDS", "L")
        await here.answer(await here.hear(ack=False), text)
        await until("the refusal is heard", lambda: any(s.nacks for s in plane.sessions))
        await there.ask("LDS", "L")
        assert names(await there.hear()) == ["L"]
        assert plane.status().kept_back == ()
        waited = await wait_until_live(plane, 1.0)
        assert waited.reasons == (f'L: here refuses Listener "L": {text}',)

        assert await plane.set_snapshot(state(LDS={"L": 1})) is Outcome.UNCHANGED
        await here.answer(await here.hear(ack=False), text)
        assert await here.is_quiet(0.2)
        await plane.set_snapshot(state(LDS={"L": 1}))
        waiting = asyncio.create_task(wait_until_live(plane, 60.0))
        assert names(await here.hear()) == ["L"]
        assert (await asyncio.wait_for(waiting, 10.0)).is_live, "who waits is told at once"


async def test_a_client_without_a_name_is_served() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, Variant.SOTW_EACH) as client:
        client._node = None
        await client.ask("CDS", "A")
        assert names(await client.hear()) == ["A"]


@pytest.mark.parametrize(
    ("agent", "version", "is_served"),
    [
        pytest.param("envoy", (1, 40, 0), True, id="the oldest that knows every field"),
        pytest.param("envoy", (1, 41, 2), True, id="a later one"),
        pytest.param("envoy", (2, 0, 0), True, id="a much later one"),
        pytest.param("envoy", (1, 39, 9), False, id="an earlier one would run without what it does not know"),
        pytest.param("envoy", None, True, id="one that does not say"),
        pytest.param("gRPC C-core", (1, 9, 0), True, id="another client"),
    ],
)
async def test_an_envoy_that_is_too_old_is_turned_away(
    agent: str, version: tuple[int, int, int] | None, is_served: bool
) -> None:
    plane = ControlPlane(Policy(oldest_envoy=(1, 40)))
    await numbered(plane, 1)
    node = base_pb2.Node(id="e", user_agent_name=agent)
    if version is not None:
        number = node.user_agent_build_version.version
        number.major_number, number.minor_number, number.patch = version
    async with serving(plane) as port, connected(port, Variant.DELTA_ADS) as client:
        client._node = node
        await client.ask("CDS", "A")
        if is_served:
            assert names(await client.hear()) == ["A"]
        else:
            assert await client.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert await client.details() == "Envoy 1.39.9 is too old: what is served here needs 1.40 or later"
            await until("the session is gone", lambda: not plane.sessions)


async def test_waiting_ends_with_the_last_ack() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A")
        response = await client.hear(ack=False)
        late = await wait_until_live(plane, 0.05)
        assert not late.is_live
        assert late.reasons == ('client "test-id" has not accepted everything after 0.05 s (waiting for Cluster)',)
        waiting = asyncio.create_task(wait_until_live(plane, 5.0))
        await client.answer(response)
        assert (await waiting).is_live


async def test_a_client_that_goes_without_having_accepted_is_waited_for() -> None:
    """It may serve what was before; one that went with all of it is not missed, nor an application."""
    plane = await plane_with(CDS={"A": 1})
    node = base_pb2.Node(id="with-all", user_agent_name="envoy")
    application = base_pb2.Node(id="application", user_agent_name="gRPC C-core linux Python")
    async with serving(plane) as port:
        for how_it_ends in ("it stays away", "it comes back"):
            async with (
                connected(port, Variant.DELTA_EACH) as client,
                connected(port, Variant.DELTA_EACH, node=node) as other,
                connected(port, Variant.DELTA_EACH, node=application) as third,
            ):
                await third.ask("CDS", "A")
                await third.hear(ack=False)
                await client.ask("CDS", "A")
                await client.hear(ack=False)
                await other.ask("CDS", "A")
                await other.hear()
                await until("one has all of it", lambda: any(one.revision for one in plane.status().clients))
                waiting = asyncio.create_task(wait_until_live(plane, 2.0 if how_it_ends == "it stays away" else 5.0))
                await asyncio.sleep(0)
            await until("all are gone", lambda: not plane.sessions)
            if how_it_ends == "it stays away":
                reason = 'client "test-id" has gone away before it had accepted everything'
                assert (await waiting).reasons == (reason,)
                continue
            async with connected(port, Variant.DELTA_EACH) as client:
                await client.ask("CDS", "A")
                await client.hear()
                assert (await waiting).is_live


async def test_csds_of_the_control_plane() -> None:
    plane = await plane_with(CDS={"A": 1})
    async with (
        serving(plane, csds.service(plane)) as port,
        connected(port, Variant.DELTA_ADS) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await client.ask("CDS", "A", "nobody")
        await client.hear()
        fetch = channel.unary_unary(
            "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
            request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=csds_pb2.ClientStatusResponse.FromString,
        )
        await until("settled", lambda: all(session.stream.is_settled for session in plane.sessions))
        (config,) = (await fetch(csds_pb2.ClientStatusRequest())).config
        rows = {one.name: (one.config_status, one.client_status) for one in config.generic_xds_configs}
        assert config.node.id == "test-id"
        assert rows == {"A": (csds_pb2.SYNCED, 3), "nobody": (csds_pb2.SYNCED, 2)}
        other = csds_pb2.ClientStatusRequest(node_matchers=[{"node_id": {"exact": "other"}}])
        assert len((await fetch(other)).config) == 0
        await plane.set_snapshot(state(CDS={"A": 99}))
        await client.answer(await client.hear(ack=False), "bad A")
        await until("settled", lambda: all(session.stream.is_settled for session in plane.sessions))
        (config,) = (await fetch(csds_pb2.ClientStatusRequest())).config
        refused = next(one for one in config.generic_xds_configs if one.name == "A")
        assert (refused.config_status, refused.client_status) == (csds_pb2.ERROR, 4)
        assert refused.error_state.details == "bad A"


# Who may connect


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


async def _ask(port: int, files: TlsFiles, agent: str, name: str) -> list[str]:
    """What a client with this certificate hears about a name of the extension type."""
    options = [("grpc.ssl_target_name_override", "control.test")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials(files), options=options) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(
                node={"id": "n", "user_agent_name": agent}, type_url=TYPES["ECDS"], resource_names_subscribe=[name]
            )
        )
        response = await call.read()
        return [one.name for one in response.resources]


async def test_only_listed_certificates_may_ask_for_the_status_of_others(authority: Authority, tmp_path: Path) -> None:
    allowed = tmp_path / "clients"
    allowed.write_text("tool.test\n")
    plane = ControlPlane(allow_list=AllowList(allowed))
    server = Server([csds.service(plane)], tls=authority.issue("server", "control.test"))
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    assert isinstance(address, TcpAddress)
    path = "/envoy.service.status.v3.ClientStatusDiscoveryService/"
    options = [("grpc.ssl_target_name_override", "control.test")]

    async def asked(name: str, body: bytes = b"") -> list[grpc.StatusCode]:
        files = authority.issue(name, f"{name}.test")
        target = f"127.0.0.1:{address.port}"
        async with grpc.aio.secure_channel(target, channel_credentials(files), options=options) as channel:
            fetch = channel.unary_unary(f"{path}FetchClientStatus")(body)
            stream = channel.stream_stream(f"{path}StreamClientStatus")(iter([body]))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await fetch
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await stream.read() is not grpc.aio.EOF:
                    pass
            return [await fetch.code(), await stream.code()]

    assert set(await asked("stranger")) == {grpc.StatusCode.PERMISSION_DENIED}
    assert set(await asked("tool")) == {grpc.StatusCode.OK}
    assert set(await asked("tool", b"\xff")) == {grpc.StatusCode.INVALID_ARGUMENT}
    await server.drain(grace_s=0)


async def test_only_listed_certificates_may_connect(authority: Authority, tmp_path: Path) -> None:
    allowed = tmp_path / "clients"
    allowed.write_text("# envoys\n*.envoy.test\nservice authz.test\n")
    plane = ControlPlane(allow_list=AllowList(allowed))
    await plane.set_snapshot(Snapshot.of([made.policy("p", "{}")]))
    server = Server(plane.services(), tls=authority.issue("server", "control.test"))
    (address,) = await server.start([TcpAddress("127.0.0.1", 0)])
    assert isinstance(address, TcpAddress)
    port = address.port
    authz = authority.issue("authz", "authz.test")
    assert await _ask(port, authz, "causeway", "p") == ["p"]
    envoy = authority.issue("envoy", "one.envoy.test")
    assert await _ask(port, envoy, "causeway", "p") == [], "an Envoy that calls itself a service gets no secrets"
    stranger = authority.issue("stranger", "stranger.test")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _ask(port, stranger, "causeway", "p")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    allowed.write_text("service stranger.test\n")
    assert await _ask(port, stranger, "causeway", "p") == ["p"], "the list is read again"
    with pytest.raises(grpc.aio.AioRpcError):
        await _ask(port, authz, "causeway", "p")
    plane.end_all()
    await server.drain(grace_s=0)
