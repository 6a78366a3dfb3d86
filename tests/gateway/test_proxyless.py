"""A stock gRPC client reaches a service of the manifests by `xds:///name`, with no proxy between."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tests.support.gateway import Gateway
from tests.support.waiting import free_port, until

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
for _ in sys.stdin:
    told = {}
    try:
        told["answer"] = channel.unary_unary("/echo.Echo/Say")(b"you", timeout=20).decode()
    except grpc.RpcError as failure:
        told["failure"] = failure.details()
    status = grpc_csds.ClientStatusDiscoveryServiceServicer().FetchClientStatus(None, None)
    told["held"] = {
        one.type_url.rpartition(".")[2] + " " + one.name: one.client_status
        for config in status.config for one in config.generic_xds_configs
    }
    print(json.dumps(told), flush=True)
"""
ACKED = 3  # envoy.admin.v3.ClientResourceStatus


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, word: str) -> None:
        self._word = word.encode()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._word + b" " + request)


@pytest.fixture
def echos() -> Iterator[Callable[[str], int]]:
    """Starts services that answer with a word of their own; returns the port."""
    servers = []

    def start(word: str) -> int:
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((_Echo(word),))
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(grace=None)


Ask = Callable[[], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def client(gateway: Gateway) -> AsyncIterator[Ask]:
    """A gRPC client of the service `echo`, as long as the body lasts; what is yielded makes a call."""
    server = {"server_uri": f"unix:{gateway.folder}/xds.sock", "channel_creds": [{"type": "insecure"}]}
    bootstrap = {"xds_servers": [{**server, "server_features": ["xds_v3"]}], "node": {"id": "a-grpc-client"}}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, "echo"),
        env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to, out = process.stdin, process.stdout

    async def ask() -> dict[str, Any]:
        to.write(b"\n")
        line = await asyncio.wait_for(out.readline(), 40)
        assert line, "the client ended"
        told: dict[str, Any] = json.loads(line)
        return told

    try:
        yield ask
    finally:
        to.close()
        await process.wait()
        assert process.returncode == 0, "a crash of the client would be ours to prevent"


def services(*endpoints: str | dict[str, object]) -> dict[str, Any]:
    return {"services": {"echo": {"endpoints": list(endpoints), "protocol": "grpc"}}}


async def test_a_grpc_client_finds_a_service_by_its_name(gateway: Gateway, echos: Callable[[str], int]) -> None:
    await gateway.apply(services(f"127.0.0.1:{echos('hello')}"))
    async with client(gateway) as ask:
        assert await ask() == {
            "answer": "hello you",
            "held": {"Listener echo": ACKED, "Cluster grpc/echo": ACKED, "ClusterLoadAssignment service/echo": ACKED},
        }


async def test_a_grpc_client_follows_a_service_from_an_address_to_host_names_and_back(
    gateway: Gateway, echos: Callable[[str], int]
) -> None:
    first, second = echos("first"), echos("second")
    each = {"Cluster grpc/echo/each", *(f"Cluster grpc/echo/localhost:{port}" for port in (first, second))}
    edits = {
        "an address": (services(f"127.0.0.1:{first}"), "first", {"Cluster grpc/echo"}),
        "a host name": (services(f"localhost:{second}"), "second", {f"Cluster grpc/echo/localhost:{second}"}),
        "host names, one after the other": (services(f"localhost:{first}", f"localhost:{second}"), "first", each),
        "the one that comes first by its priority": (
            services(
                {"address": f"localhost:{first}", "priority": 1}, {"address": f"localhost:{second}", "priority": 0}
            ),
            "second",
            each,
        ),
        "the one that can be reached": (
            services(f"localhost:{free_port()}", f"localhost:{first}"),
            "first",
            {f"Cluster grpc/echo/localhost:{first}"},
        ),
        "an address and a host name": (services(f"127.0.0.1:{second}", f"localhost:{first}"), "second", set()),
        "an address again": (services(f"127.0.0.1:{second}"), "second", {"Cluster grpc/echo"}),
    }
    await gateway.apply(next(iter(edits.values()))[0])
    async with client(gateway) as ask:
        for what, (edit, word, clusters) in edits.items():
            await gateway.apply(edit)

            async def is_there(word: str = word, clusters: set[str] = clusters) -> bool:
                told = await ask()
                assert "failure" not in told
                acked = {name for name, state in told["held"].items() if state == ACKED}
                return told["answer"] == f"{word} you" and clusters <= acked

            await until(what, is_there)


async def test_envoy_is_not_told_of_what_is_meant_for_grpc_clients(
    gateway: Gateway, echos: Callable[[str], int]
) -> None:
    await gateway.apply(services(f"127.0.0.1:{echos('hello')}"))
    dump = (await gateway.envoy.ask("/config_dump")).body.decode()
    assert "service/echo" in dump
    assert "grpc/echo" not in dump
