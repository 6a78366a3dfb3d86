"""A stock gRPC client reaches a service of the manifests by `xds:///name`, with no proxy between."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.support.gateway import Gateway

pytestmark = pytest.mark.gateway

CLIENT = """
import json, sys
import grpc
from google.protobuf import json_format
import grpc_csds
# The dump prints what is packed inside: its modules must be there.
from envoy.config.listener.v3 import listener_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2

channel = grpc.insecure_channel(f"xds:///{sys.argv[1]}")
answer = channel.unary_unary("/echo.Echo/Say")(b"you", timeout=20)
status = grpc_csds.ClientStatusDiscoveryServiceServicer().FetchClientStatus(None, None)
held = {
    one.type_url.rpartition(".")[2] + " " + one.name: one.client_status
    for config in status.config for one in config.generic_xds_configs
}
print(json.dumps({"answer": answer.decode(), "held": held}))
"""
ACKED = 3  # envoy.admin.v3.ClientResourceStatus


class _Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"hello " + request)


@pytest.fixture
def echo() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None)


async def test_a_grpc_client_finds_a_service_by_its_name(gateway: Gateway, echo: str) -> None:
    await gateway.apply({"services": {"echo": {"endpoints": [echo], "protocol": "grpc"}}})
    server = {"server_uri": f"unix:{gateway.folder}/xds.sock", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [{**server, "server_features": ["xds_v3"]}], "node": {"id": "a-grpc-client"}}
    environ = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)}
    client = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CLIENT, "echo"], env=environ, capture_output=True, timeout=60
    )
    assert client.returncode == 0, client.stderr.decode()
    seen = json.loads(client.stdout)
    assert seen["answer"] == "hello you"
    assert seen["held"] == {
        "Listener echo": ACKED,
        "Cluster grpc/echo": ACKED,
        "ClusterLoadAssignment service/echo": ACKED,
    }


async def test_envoy_is_not_told_of_what_is_meant_for_grpc_clients(gateway: Gateway, echo: str) -> None:
    await gateway.apply({"services": {"echo": {"endpoints": [echo], "protocol": "grpc"}}})
    dump = (await gateway.envoy.ask("/config_dump")).body.decode()
    assert "service/echo" in dump
    assert "grpc/echo" not in dump
