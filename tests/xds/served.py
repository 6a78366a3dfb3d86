"""A control plane on a loopback port, and an Envoy that follows it, for tests through real peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from controlplane.xds.controlplane import ControlPlane
from serving.address import TcpAddress
from serving.server import Server
from tests.support.envoy import Envoy


@asynccontextmanager
async def serving(plane: ControlPlane, *, port: int = 0) -> AsyncIterator[int]:
    """The control plane on a loopback port, which is given."""
    server = Server(plane.services())
    (address,) = await server.start([TcpAddress("127.0.0.1", port)])
    assert isinstance(address, TcpAddress)
    try:
        yield address.port
    finally:
        plane.end_all()
        await server.drain(grace_s=0.5)


def bootstrap(port: int, *, node: str = "envoy-1", protocol: str = "DELTA_GRPC") -> dict[str, object]:
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "gateway"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": protocol,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": source,
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
    port: int, folder: Path, *, protocol: str = "DELTA_GRPC", node: str = "envoy-1"
) -> AsyncIterator[Envoy]:
    """An Envoy that gets everything over ADS from the port."""
    envoy = Envoy(bootstrap(port, node=node, protocol=protocol), folder=folder, name=node)
    envoy.start()
    try:
        yield envoy
    finally:
        envoy.stop()
