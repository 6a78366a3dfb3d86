"""serving.server through real gRPC clients: bytes in and out, health, limits, sockets, TLS, the graceful end."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.address import Address, UnixAddress, parse_address
from serving.server import Call, InsecureAddressError, Limits, Server, Service, remove_stale_socket
from serving.tls import TlsFiles
from tests.serving.certificates import Authority

NAME = "testing.Echo"
LOOPBACK = parse_address("127.0.0.1:0")


class Echo:
    """Answers what it got; `wait` holds the answer until `release` is set."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def echo(self, request: bytes, call: Call) -> bytes:
        return b"echo " + request

    async def wait(self, request: bytes, call: Call) -> bytes:
        self.entered.set()
        await self.release.wait()
        return b"done"

    async def each(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"each " + request

    def service(self) -> Service:
        return Service(name=NAME, unary={"Echo": self.echo, "Wait": self.wait}, stream={"Each": self.each})


@asynccontextmanager
async def serving(server: Server, address: Address = LOOPBACK) -> AsyncIterator[Address]:
    (bound,) = await server.start([address])
    try:
        yield bound
    finally:
        await server.drain(grace_s=0)


def unary(channel: grpc.aio.Channel, method: str) -> Callable[..., grpc.aio.UnaryUnaryCall]:
    call: Callable[..., grpc.aio.UnaryUnaryCall] = channel.unary_unary(f"/{NAME}/{method}")
    return call


async def test_bytes_go_in_and_come_out_unary_and_streamed() -> None:
    async with serving(Server([Echo().service()])) as at, grpc.aio.insecure_channel(at.target) as channel:
        assert await unary(channel, "Echo")(b"\xff\x00") == b"echo \xff\x00"
        stream = channel.stream_stream(f"/{NAME}/Each")()
        for one in (b"a", b"b"):
            await stream.write(one)
            assert await stream.read() == b"each " + one


async def test_health_answers_for_the_server_and_for_the_service_and_follows_set_serving() -> None:
    server = Server([Echo().service()])
    async with serving(server) as at, grpc.aio.insecure_channel(at.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for is_serving in (True, False, True):
            await server.set_serving(is_serving)
            for name in ("", NAME):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == (1 if is_serving else 2), (name, is_serving)


async def test_reflection_lists_the_service() -> None:
    async with serving(Server([Echo().service()])) as at, grpc.aio.insecure_channel(at.target) as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = [one.name for one in (await stream.read()).list_services_response.service]
        assert NAME in names
        assert "grpc.health.v1.Health" in names


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_message_one_byte_above_the_limit_is_refused(extra: int) -> None:
    server = Server([Echo().service()], limits=Limits(message_bytes=1000))
    async with serving(server) as at, grpc.aio.insecure_channel(at.target) as channel:
        call = unary(channel, "Echo")(b"x" * (1000 + extra))
        assert await call.code() == (grpc.StatusCode.RESOURCE_EXHAUSTED if extra else grpc.StatusCode.OK)


async def test_a_call_above_the_limit_of_concurrent_calls_is_refused() -> None:
    echo = Echo()
    server = Server([echo.service()], limits=Limits(concurrent_calls=1))
    async with serving(server) as at, grpc.aio.insecure_channel(at.target) as channel:
        first = unary(channel, "Wait")(b"")
        await echo.entered.wait()
        assert await unary(channel, "Echo")(b"").code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        echo.release.set()
        assert await first == b"done"


@pytest.mark.parametrize(
    ("address", "allow_insecure", "is_refused"),
    [
        pytest.param("0.0.0.0:0", False, True, id="plain text on every interface is refused"),
        pytest.param("0.0.0.0:0", True, False, id="plain text on every interface when asked for"),
        pytest.param("127.0.0.1:0", False, False, id="plain text on loopback"),
    ],
)
async def test_plain_text_stays_on_this_machine(address: str, allow_insecure: bool, is_refused: bool) -> None:
    server = Server([Echo().service()], allow_insecure=allow_insecure)
    if is_refused:
        with pytest.raises(InsecureAddressError, match="allow-insecure"):
            await server.start([parse_address(address)])
    else:
        async with serving(server, parse_address(address)):
            pass


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"^127.0.0.1:{port}: cannot listen: another process listens on it$"):
            await Server([Echo().service()]).start([parse_address(f"127.0.0.1:{port}")])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("192.0.2.1:0", "Cannot assign requested address", id="an address of another machine"),
        pytest.param("unix:/nowhere/x.sock", "No such file or directory", id="a folder that is not there"),
    ],
)
async def test_what_cannot_be_listened_on_is_said_in_the_system_s_words(address: str, reason: str) -> None:
    with pytest.raises(OSError, match=f"^{address}: cannot listen: {reason}$"):
        await Server([Echo().service()], allow_insecure=True).start([parse_address(address)])


@pytest.mark.parametrize("mode", [0o600, 0o660])
async def test_a_socket_file_has_its_mode_and_goes_away_at_the_end(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s.sock"
    async with serving(Server([Echo().service()], socket_mode=mode), UnixAddress(path)) as at:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        async with grpc.aio.insecure_channel(at.target) as channel:
            assert await unary(channel, "Echo")(b"x") == b"echo x"
    assert not path.exists()


async def test_a_socket_file_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server([Echo().service()])
    async with serving(server, UnixAddress(path)) as at, grpc.aio.insecure_channel(at.target) as channel:
        assert await unary(channel, "Echo")(b"x") == b"echo x"


def test_a_socket_file_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "s.sock"))
        alive.listen()
        with pytest.raises(OSError, match="another process listens"):
            remove_stale_socket(tmp_path / "s.sock")
    assert (tmp_path / "s.sock").exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        remove_stale_socket(tmp_path / "s.sock")
    assert (tmp_path / "s.sock").read_text() == "precious"


async def test_drain_finishes_calls_in_flight_and_refuses_new_ones() -> None:
    echo = Echo()
    server = Server([echo.service()])
    (at,) = await server.start([LOOPBACK])
    async with grpc.aio.insecure_channel(at.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == 1
        in_flight = unary(channel, "Wait")(b"")
        await echo.entered.wait()
        draining = asyncio.create_task(server.drain(grace_s=10))
        await server.draining.wait()
        assert (await watch.read()).status == 2
        watch.cancel()
        async with grpc.aio.insecure_channel(at.target) as late:
            assert await unary(late, "Echo")(b"").code() == grpc.StatusCode.UNAVAILABLE
        echo.release.set()
        assert await in_flight == b"done"
        await draining


async def test_drain_cancels_what_does_not_finish_in_time() -> None:
    echo = Echo()
    server = Server([echo.service()])
    (at,) = await server.start([LOOPBACK])
    async with grpc.aio.insecure_channel(at.target) as channel:
        in_flight = unary(channel, "Wait")(b"")
        await echo.entered.wait()
        await asyncio.wait_for(server.drain(grace_s=0.05), 5)
        assert await in_flight.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def trusting(ca: Path, client: TlsFiles | None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=ca.read_bytes(),
        private_key=client.key.read_bytes() if client else None,
        certificate_chain=client.certificate.read_bytes() if client else None,
    )


async def call_over_tls(at: Address, ca: Path, client: TlsFiles | None) -> grpc.StatusCode:
    credentials = trusting(ca, client)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(at.target, credentials, options=options) as channel:
        return await unary(channel, "Echo")(b"", timeout=5).code()


async def test_mutual_tls_accepts_only_clients_of_the_authority(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("server", "localhost")
    stranger = Authority(tmp_path / "stranger").issue("client", "client")
    server = Server([Echo().service()], tls=files)
    async with serving(server, parse_address("localhost:0")) as at:
        assert await call_over_tls(at, authority.ca, authority.issue("client", "client")) == grpc.StatusCode.OK
        assert await call_over_tls(at, authority.ca, stranger) == grpc.StatusCode.UNAVAILABLE
        assert await call_over_tls(at, authority.ca, None) == grpc.StatusCode.UNAVAILABLE


SPOILT: dict[str, tuple[Callable[[TlsFiles], object], str]] = {
    "no certificate": (lambda files: files.certificate.unlink(), "certificate .*server.crt: No such file or directory"),
    "a certificate that is none": (
        lambda files: files.certificate.write_text("hello"),
        "certificate .*server.crt: not a certificate in PEM",
    ),
    "a key that is none": (lambda files: files.key.write_text("hello"), "key .*server.key: not a private key in PEM"),
    "the key of another": (
        lambda files: files.key.write_bytes(files.key.with_name("other.key").read_bytes()),
        "key .*server.key: not the key of the certificate .*server.crt",
    ),
    "an authority that is none": (
        lambda files: files.key.with_name("ca.crt").write_text(""),
        "authority .*ca.crt: not a certificate in PEM",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_a_tls_file_that_cannot_be_used_is_named(authority: Authority, what: str) -> None:
    spoil, said = SPOILT[what]
    authority.issue("other", "localhost")
    files = authority.issue("server", "localhost")
    spoil(files)
    with pytest.raises(OSError, match=said):
        await Server([Echo().service()], tls=files).start([LOOPBACK])


async def test_a_rotated_certificate_is_used_without_a_restart_and_a_missing_one_changes_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue("server", "localhost")
    server = Server([Echo().service()], tls=TlsFiles(certificate=files.certificate, key=files.key))
    async with serving(server, parse_address("localhost:0")) as at:
        assert await call_over_tls(at, authority.ca, None) == grpc.StatusCode.OK
        successor = Authority(tmp_path / "successor")
        new = successor.issue("server", "localhost")
        files.key.unlink()
        assert await call_over_tls(at, authority.ca, None) == grpc.StatusCode.OK  # half-written: the last pair goes on
        files.key.write_bytes(new.key.read_bytes())
        assert await call_over_tls(at, authority.ca, None) == grpc.StatusCode.OK  # they do not belong together yet
        files.certificate.write_bytes(new.certificate.read_bytes())
        assert await call_over_tls(at, successor.ca, None) == grpc.StatusCode.OK
        assert await call_over_tls(at, authority.ca, None) == grpc.StatusCode.UNAVAILABLE
