"""A control plane on a loopback port, and an Envoy that follows it, for tests through real peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from serving.address import TcpAddress
from serving.server import Server, Service
from tests.support.client import Address
from tests.support.envoy import Envoy
from tests.support.load import Load
from tests.support.waiting import until


@asynccontextmanager
async def serving(plane: ControlPlane, *more: Service, port: int = 0) -> AsyncIterator[int]:
    """The control plane on a loopback port, which is given, and `more` services beside it."""
    server = Server([*plane.services(), *more])
    (address,) = await server.start([TcpAddress("127.0.0.1", port)])
    assert isinstance(address, TcpAddress)
    try:
        yield address.port
    finally:
        plane.end_all()
        await server.drain(grace_s=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """How an Envoy follows the control plane."""

    protocol: str = "DELTA_GRPC"
    node: str = "envoy-1"
    is_aggregated: bool = True
    """Else a stream for each type."""
    has_clusters: bool = True
    """Asks for all clusters; else only for what is needed."""
    features: tuple[str, ...] = ()
    """Said besides those that Envoy says itself."""
    runtime: Mapping[str, bool] = field(default_factory=dict)


_SOON = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.3s"}}


def bootstrap(port: int, how: Following) -> dict[str, object]:
    api = {
        "api_type": how.protocol,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": _SOON}}],
    }
    kind: dict[str, object] = {"ads": {}} if how.is_aggregated else {"api_config_source": api}
    source = {**kind, "resource_api_version": "V3"}
    return {
        "node": {"id": how.node, "cluster": "gateway", "client_features": how.features},
        "layered_runtime": {"layers": [{"name": "test", "static_layer": how.runtime}]},
        "dynamic_resources": {
            **({"ads_config": api} if how.is_aggregated else {}),
            **({"cds_config": source} if how.has_clusters else {}),
            "lds_config": source,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                }
            ]
        },
    }


@asynccontextmanager
async def following(
    port: int, folder: Path, *, protocol: str = "DELTA_GRPC", node: str = "envoy-1", how: Following | None = None
) -> AsyncIterator[Envoy]:
    """An Envoy that gets everything over ADS from the port, or as `how` says."""
    how = how or Following(protocol=protocol, node=node)
    envoy = Envoy(bootstrap(port, how), folder=folder, name=how.node)
    envoy.start()
    try:
        yield envoy
    finally:
        envoy.stop()


async def synced(plane: ControlPlane, *, within_s: float = 15.0) -> None:
    """Returns when there is a client, and every one has accepted all of what is served now."""

    def are_synced() -> bool:
        return bool(plane.sessions) and all(session.revision == plane.revision for session in plane.sessions)

    await until("every client synced", are_synced, within_s=within_s)


async def serve_under_load(plane: ControlPlane, address: Address, snapshots: Iterable[Snapshot]) -> None:
    """Serves one after the other, each when the last is everywhere, and no request meanwhile may fail."""
    async with Load(address, ["/"], connections=3) as load:
        await load.more(20)
        for number, snapshot in enumerate(snapshots):
            await plane.set_snapshot(snapshot, revision=str(number))
            await synced(plane)
        await load.more(20)
    assert load.failures == {}, load.first_failures[:5]
