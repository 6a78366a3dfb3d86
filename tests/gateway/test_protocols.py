"""HTTP/1.1, HTTP/2, gRPC and WebSocket, to and from services, in the clear and over verified TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import websockets

from tests.serving.certificates import Authority
from tests.support.behaviour import Answer
from tests.support.client import Connection
from tests.support.errors import assert_error
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import free_port

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True


def manifest(service: dict[str, Any], **route: Any) -> dict[str, Any]:
    return {
        "services": {"orders": service},
        "routes": [{"path": "/**", "service": "orders", "auth": "public", **route}],
    }


@pytest.mark.parametrize("http2_client", [False, True], ids=["HTTP/1.1 client", "HTTP/2 client"])
@pytest.mark.parametrize(
    ("protocol", "seen"), [("http1", "HTTP/1.1"), ("http2", "HTTP/2")], ids=["HTTP/1.1 service", "HTTP/2 service"]
)
async def test_either_protocol_on_either_side(
    gateway: Gateway, origin: Origin, protocol: str, seen: str, http2_client: bool
) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address], "protocol": protocol}))
    body = b"b" * 100_000
    response = await gateway.request("POST", "/a?b=c", body=body, http2=http2_client)
    assert response.status == 200
    assert origin.last.protocol == seen
    assert origin.last.body == body
    assert origin.last.path == "/a?b=c"


async def test_connections_to_a_service_are_kept_and_shared(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address]}))
    for _ in range(5):
        assert (await gateway.request("GET", "/")).status == 200
    assert len({seen.connection for seen in origin.requests}) == 1


async def test_a_connection_may_be_ended_after_some_requests(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address], "connections": {"max_requests": 2}}))
    for _ in range(6):
        assert (await gateway.request("GET", "/")).status == 200
    assert len({seen.connection for seen in origin.requests}) == 3


async def test_a_clients_connection_is_kept(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address]}))
    async with Connection(gateway.address) as connection:
        answers = [await connection.request("GET", f"/{number}") for number in range(20)]
    assert [answer.json()["path"] for answer in answers] == [f"/{number}" for number in range(20)]


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
async def test_bodies_of_any_size_come_back_whole(gateway: Gateway, origin: Origin, size: int) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address]}))
    body = bytes(range(256)) * (size // 256 + 1)
    origin.always(Answer(body=body[:size]))
    response = await gateway.request("GET", "/")
    assert response.body == body[:size]


@pytest.mark.parametrize(
    ("host", "sees"),
    [("original", "gateway.test"), ("orders.internal", "orders.internal")],
    ids=["the client's", "one of the manifest's"],
)
async def test_the_host_that_a_service_sees(gateway: Gateway, origin: Origin, host: str, sees: str) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address], "host": host}))
    await gateway.request("GET", "/")
    assert origin.last.value("host") == sees


# gRPC: a server and a client of the grpc library, the gateway between them.


class _Echo(grpc.GenericRpcHandler):
    """Every method answers what it gets; `/test.Echo/Fail` ends with a status of its own."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        match call.method:
            case "/test.Echo/Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail)
            case "/test.Echo/Stream":
                return grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)
            case _:
                return grpc.unary_unary_rpc_method_handler(self._echo)

    @staticmethod
    def _echo(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-trailing", "kept"),))
        return message

    @staticmethod
    def _fail(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")
        raise AssertionError("abort raises")


@pytest.fixture(scope="module")
def grpc_service() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(5)


@pytest.fixture
async def channel(gateway: Gateway, grpc_service: str) -> AsyncIterator[grpc.aio.Channel]:
    await gateway.apply(manifest({"endpoints": [grpc_service], "protocol": "grpc"}))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel


async def test_a_grpc_call_and_its_trailers(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/test.Echo/Say")(b"hello", timeout=5)
    assert await call == b"hello"
    assert ("x-trailing", "kept") in [(key, value) for key, value in await call.trailing_metadata()]


async def test_a_grpc_status_passes_as_it_is(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await channel.unary_unary("/test.Echo/Fail")(b"", timeout=5)
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.value.details() == "not like this"


async def test_a_grpc_stream_both_ways(channel: grpc.aio.Channel) -> None:
    """Each answer comes before the next message is sent: nothing on the way waits for the end of the stream."""
    call = channel.stream_stream("/test.Echo/Stream")(timeout=10)
    for message in (b"one", b"two", b"x" * 200_000):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_grpc_call_to_a_service_that_is_away_is_unavailable(gateway: Gateway) -> None:
    await gateway.apply(
        manifest({"endpoints": [f"127.0.0.1:{free_port()}"], "protocol": "grpc", "retry": {"attempts": 0}})
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/test.Echo/Say")(b"", timeout=5)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


# WebSocket


async def test_a_websocket_on_a_route_that_takes_one(gateway: Gateway, origin: Origin) -> None:
    routes = [
        {"path": "/live/:room", "service": "orders", "auth": "public", "websocket": True},
        {"path": "/**", "service": "orders", "auth": "public"},
    ]
    await gateway.apply({"services": {"orders": {"endpoints": [origin.address]}}, "routes": routes})
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/live/7?token=x") as socket:
        for message in ("one", "two" * 30_000):
            await socket.send(message)
            assert await socket.recv() == message
        assert origin.last.path == "/live/7?token=x"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/other"):
            pass
    assert refused.value.response.status_code == 403
    plain = await gateway.request("GET", "/live/7")
    assert plain.status == 200, "a route that takes WebSockets still takes plain requests"


async def test_a_websocket_outlives_the_routes_time_out(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest({"endpoints": [origin.address]}, websocket=True, timeout="300ms"))
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/") as socket:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 0.8:
            await socket.send("still here")
            assert await socket.recv() == "still here"


# TLS to services


@pytest.fixture(scope="module")
def authority(run_folder: Path) -> Authority:
    return Authority(run_folder / "authority")


@pytest.fixture(scope="module")
def secure(authority: Authority, origins: Callable[..., Origin]) -> Origin:
    files = authority.issue("orders", "orders.internal")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return origins("secure", tls=context)


@pytest.mark.parametrize(
    ("protocol", "seen"), [("http1", "HTTP/1.1"), ("http2", "HTTP/2"), ("auto", "HTTP/2")], ids=str
)
async def test_a_service_over_verified_tls(
    gateway: Gateway, secure: Origin, authority: Authority, protocol: str, seen: str
) -> None:
    tls = {"ca": str(authority.ca), "server_name": "orders.internal"}
    await gateway.apply(manifest({"endpoints": [secure.address], "tls": tls, "protocol": protocol}))
    assert (await gateway.request("GET", "/")).status == 200
    assert secure.last.protocol == seen


@pytest.mark.parametrize(
    "tls",
    [
        pytest.param({"ca": "{ca}", "server_name": "payments.internal"}, id="for another name"),
        pytest.param({"server_name": "orders.internal"}, id="by an authority nobody trusts"),
    ],
)
async def test_a_certificate_that_is_not_good_gets_no_request(
    gateway: Gateway, secure: Origin, authority: Authority, tls: dict[str, str]
) -> None:
    secure.forget()
    tls = {key: value.format(ca=authority.ca) for key, value in tls.items()}
    await gateway.apply(manifest({"endpoints": [secure.address], "tls": tls, "retry": {"attempts": 0}}))
    assert_error(await gateway.request("GET", "/"), 503, "connection_failed")
    assert secure.requests == []


async def test_verification_is_off_only_where_it_is_written(gateway: Gateway, secure: Origin) -> None:
    await gateway.apply(manifest({"endpoints": [secure.address], "tls": {"verify": False}}))
    assert (await gateway.request("GET", "/")).status == 200
