"""A second, independent client: stock gRPC with an `xds:///` target reaches a service through our control plane."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.status import KeptBack
from tests.support.waiting import until
from tests.xds import made
from tests.xds.rows import Variant, row
from tests.xds.served import serving

pytestmark = pytest.mark.gateway
SECTION, SOTW_ADS = "Through a stock gRPC client", (Variant.SOTW_ADS,)
CLIENT = Path(__file__).with_name("xds_grpc_client.py")
TARGET = "orders.example"


@pytest.fixture
def service() -> Iterator[int]:
    """A gRPC service that answers every call with its name."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"orders:" + request)

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


async def asked(xds: int, *arguments: str, **environment: str) -> dict[str, object]:
    """What the client says about one call: the answer or the error, and its own CSDS dump."""
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{xds}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "grpc-client"},
    }
    process = await until_done(
        [sys.executable, str(CLIENT), *arguments],
        {"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap), **environment},
    )
    told: dict[str, object] = json.loads(process)
    return told


async def until_done(argv: list[str], environment: dict[str, str]) -> bytes:
    import asyncio
    import os

    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
    )
    out, errors = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, errors.decode()
    return out


def grpc_gateway(port: int) -> Snapshot:
    """The service's api_listener, beside a listener for Envoy that the client must not meet."""
    return Snapshot.of(
        [
            made.cluster("orders"),
            made.endpoints("orders", port),
            made.route_configuration("orders-routes", "orders"),
            made.listener(TARGET, 0, "orders-routes", api=True),
            made.routes("rc", {"/": "orders"}),
            made.listener("envoys", 8080, "rc"),
        ]
    )


@row(SECTION, "P1", "It reaches a service: listener, routes, cluster and endpoints, each asked for by name", SOTW_ADS)
async def test_a_grpc_client_reaches_a_service(variant: Variant, service: int) -> None:
    plane = ControlPlane()
    await plane.set_snapshot(grpc_gateway(service))
    async with serving(plane) as xds:
        told = await asked(xds, f"xds:///{TARGET}")
        assert told["answer"] == "orders:hello"
        assert told["csds"] == {
            "envoy.config.listener.v3.Listener": {TARGET: "ACKED"},
            "envoy.config.route.v3.RouteConfiguration": {"orders-routes": "ACKED"},
            "envoy.config.cluster.v3.Cluster": {"orders": "ACKED"},
            "envoy.config.endpoint.v3.ClusterLoadAssignment": {"orders": "ACKED"},
        }


@row(
    SECTION,
    "P2",
    "A target that does not exist fails at once, with the server's words, where the client's environment has "
    "`GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING=true`; otherwise gRPC waits 15 s",
    SOTW_ADS,
)
async def test_a_missing_target_fails_at_once_with_our_words(variant: Variant, service: int) -> None:
    plane = ControlPlane()
    await plane.set_snapshot(grpc_gateway(service))
    async with serving(plane) as xds:
        told = await asked(xds, "xds:///nobody.example", GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING="true")
        assert told["code"] == "UNAVAILABLE"
        assert 'Listener "nobody.example" does not exist' in str(told["details"])
        assert float(str(told["took_s"])) < 2.0


@row(SECTION, "P3", "What it refuses is kept back and named", SOTW_ADS)
async def test_what_the_client_refuses_is_told_by_name(variant: Variant, service: int) -> None:
    """gRPC refuses a static cluster, and says which."""
    plane = ControlPlane()
    resources = [one for one in grpc_gateway(service) if one.name != "orders" or "Cluster" not in one.type_url]
    await plane.set_snapshot(Snapshot.of([*resources, made.cluster("orders", eds=False, port=service)]))
    async with serving(plane) as xds:

        async def verdicts() -> tuple[KeptBack, ...]:
            """A client that gives up on a busy machine may be gone before it has said why: the next one says it."""
            told = await asked(xds, f"xds:///{TARGET}")
            assert told["code"] == "UNAVAILABLE"
            return plane.status().kept_back

        (kept,) = await until("a verdict", verdicts, within_s=60)
        assert kept.resource == "orders"
        assert "unknown discovery type" in kept.text
        assert kept.kind.startswith("gRPC")
