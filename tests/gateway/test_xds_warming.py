"""What Envoy waits for and what it need not: endpoints, listeners, and the WebSockets on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2 as cares_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds import csds
from controlplane.xds.controlplane import ControlPlane
from tests.support.client import Address, request
from tests.support.envoy import Envoy
from tests.support.origin import Origin
from tests.support.silence import silent_name_server
from tests.support.waiting import free_port, until
from tests.xds import made
from tests.xds.rows import ADS, Variant, row
from tests.xds.served import following, serving, synced

pytestmark = pytest.mark.gateway


@pytest.fixture
def two(origins: Callable[..., Origin]) -> tuple[Origin, Origin]:
    return origins("one"), origins("two")


def gateway(port: int, to: str, origin: Origin, *, timeout_ms: int = 1000) -> list[Resource]:
    """A route to the cluster, and what it needs."""
    return [
        made.cluster(to, timeout_ms=timeout_ms),
        made.endpoints(to, origin.port),
        made.routes("rc", {"/": to}),
        made.listener("l", port, "rc"),
    ]


async def test_a_changed_cluster_is_accepted_at_once(two: tuple[Origin, Origin], run_folder: Path) -> None:
    """Without its endpoints sent again Envoy waits 15 s for them."""
    plane, port = ControlPlane(), free_port()
    many = [one for n in range(300) for one in (made.cluster(f"x{n}"), made.endpoints(f"x{n}", two[1].port))]
    await plane.set_snapshot(Snapshot.of([*gateway(port, "c", two[0]), *many]))
    async with serving(plane) as xds, following(xds, run_folder, node="warm") as envoy:
        await synced(plane)
        await envoy.ready()
        await plane.set_snapshot(Snapshot.of([*gateway(port, "c", two[0], timeout_ms=1234), *many]), revision="2")
        await until("synced", lambda: all(s.revision == "2" for s in plane.sessions), within_s=1.0)
        assert (await envoy.stats("init_fetch_timeout"))["cluster_manager.cds.init_fetch_timeout"] == 0


async def test_missing_endpoints_cost_no_start_up_time(two: tuple[Origin, Origin], run_folder: Path) -> None:
    """A cluster whose endpoints do not exist: Envoy hears so at once and does not wait 15 s for them."""
    plane, port = ControlPlane(), free_port()
    snapshot = Snapshot.of([*gateway(port, "c", two[0]), made.cluster("without-endpoints")])
    plane.serve_unchecked(snapshot, "incomplete")
    async with serving(plane) as xds, following(xds, run_folder, node="missing") as envoy:
        await until("Envoy ready", lambda: _is_ready(envoy), within_s=3.0)


async def _is_ready(envoy: Envoy) -> bool:
    return (await envoy.ask("/ready")).status == 200


async def test_a_websocket_stays_open_through_edits(two: tuple[Origin, Origin], run_folder: Path) -> None:
    import websockets

    plane, port = ControlPlane(), free_port()

    def with_upgrades(to: str, origin: Origin, wait_s: float) -> Snapshot:
        upgraded = made.route("/ws", "ws", timeout_s=0)
        upgraded.route.upgrade_configs.add(upgrade_type="websocket")
        return Snapshot.of(
            [
                made.cluster("ws"),
                made.endpoints("ws", two[0].port),
                made.cluster(to),
                made.endpoints(to, origin.port),
                made.routes("rc", {"/ws": upgraded, "/": made.route("/", to, timeout_s=wait_s)}),
                made.listener("l", port, "rc"),
            ]
        )

    await plane.set_snapshot(with_upgrades("c", two[0], 1))
    async with serving(plane) as xds, following(xds, run_folder, node="sockets") as envoy:
        await synced(plane)
        await envoy.ready()
        async with websockets.connect(f"ws://127.0.0.1:{port}/ws") as socket:
            await socket.send("before")
            assert await socket.recv() == "before"
            for number in range(50):
                await plane.set_snapshot(with_upgrades(f"c{number}", two[number % 2], 1 + number), revision=str(number))
                await synced(plane)
            await socket.send("after")
            assert await socket.recv() == "after"
        stats = await envoy.stats("listener_manager.(total_listeners_draining|listener_modified)")
        assert sum(stats.values()) == 0


async def test_a_plain_grpc_client_can_see_the_service() -> None:
    """Health and reflection are there (every method of every service is told), and a type nobody knows is missing."""
    plane = ControlPlane()
    await plane.set_snapshot(Snapshot.of([]))
    async with (
        serving(plane, csds.service(plane)) as xds,
        grpc.aio.insecure_channel(f"127.0.0.1:{xds}") as channel,
    ):
        served = [*plane.services(), csds.service(plane)]
        told = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        for service in served:
            await told.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service.name))
            described = (await told.read()).file_descriptor_response.file_descriptor_proto
            files = map(descriptor_pb2.FileDescriptorProto.FromString, described)
            methods = {
                method.name
                for file in files
                for one in file.service
                if f"{file.package}.{one.name}" == service.name
                for method in one.method
            }
            assert methods >= {*service.stream, *service.unary}, service.name
        told.cancel()

        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", *(service.name for service in served)):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(
                node={"id": "me"}, type_url="type.googleapis.com/unknown", resource_names_subscribe=["x"]
            )
        )
        assert list((await call.read()).removed_resources) == ["x"]
        call.cancel()


def silent_name(name: str, server: int) -> Resource:
    """A cluster whose host name is asked of a server that never answers."""
    resolver = cares_pb2.CaresDnsResolverConfig()
    address = resolver.resolvers.add().socket_address
    address.address, address.port_value = "127.0.0.1", server
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STRICT_DNS)
    message.typed_dns_resolver_config.name = "envoy.network.dns_resolver.cares"
    message.typed_dns_resolver_config.typed_config.Pack(resolver)
    message.load_assignment.cluster_name = name
    endpoint = message.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.socket_address.address = "silent.test"
    endpoint.address.socket_address.port_value = 80
    return whole(types.CLUSTER, name, message.SerializeToString())


@pytest.fixture
def silent_server() -> Iterator[int]:
    with silent_name_server() as port:
        yield port


@row(
    "Through a real Envoy",
    "N12",
    "A host name that nobody resolves holds up no route to others, and takes none away",
    ADS,
)
async def test_a_name_that_nobody_resolves(
    variant: Variant, two: tuple[Origin, Origin], silent_server: int, run_folder: Path
) -> None:
    one, other = two
    plane, port = ControlPlane(), free_port()

    def snapshot(*more: Resource, **to: str) -> Snapshot:
        paths = {f"/{'' if path == 'root' else path}": cluster for path, cluster in to.items()}
        kept = [made.cluster("a"), made.endpoints("a", one.port), made.listener("l", port, "rc")]
        return Snapshot.of([*kept, *more, made.routes("rc", paths)])

    async def answers(path: str) -> str:
        response = await request(Address(port=port), "GET", path)
        return str(response.json()["origin"]) if response.status == 200 else str(response.status)

    async def is_moved() -> bool:
        return [await answers(path) for path in ("/", "/new")] == ["two", "two"]

    slow = silent_name("slow", silent_server)
    await plane.set_snapshot(snapshot(root="a", moved="a"))
    protocol = "DELTA_GRPC" if variant is Variant.DELTA_ADS else "GRPC"
    name = f"silent-{protocol}"
    async with serving(plane) as xds, following(xds, run_folder, node=name, protocol=protocol) as envoy:
        await synced(plane)
        await envoy.ready()
        await plane.set_snapshot(snapshot(slow, root="a", moved="slow", slow="slow"), revision="slow")
        b = (made.cluster("b"), made.endpoints("b", other.port))
        routes = {"moved": "slow", "slow": "slow", "root": "b", "new": "b"}
        await plane.set_snapshot(snapshot(slow, *b, **routes), revision="with b")
        await until("the routes to b", is_moved)
        assert [await answers(path) for path in ("/moved", "/slow")] == ["one", "503"]
        (client,) = plane.status().clients
        assert client.verdict.value in ("pending", "silent")

        await plane.set_snapshot(snapshot(*b, root="b", new="b", moved="b"), revision="without")
        await until("everything accepted", lambda: all(one.revision == "without" for one in plane.sessions))
        assert await answers("/moved") == "two"
