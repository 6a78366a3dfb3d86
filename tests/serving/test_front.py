"""Two servers behind one address, asked by gRPC's own client: hot calls, other calls, and clients that are neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import hpack
import pytest
from grpc_health.v1 import health_pb2

from serving.address import UnixAddress
from serving.front import GREETING, AcknowledgementFilter, Front, first_path
from serving.http2 import PREFACE, CallError
from serving.server import Call, Server, Service
from tests.support.waiting import until

NAME = "a.Service"
HEALTH = "/grpc.health.v1.Health/Check"


class Both:
    """A fast server with a general one behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_asked = False
        self.held: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.general = Server([Service(name=NAME, unary={"Slow": self.slow})])
        methods = {f"/{NAME}/Now": lambda b: b"now " + b, f"/{NAME}/Later": self.later, f"/{NAME}/Fails": self.fails}
        self.fast = Front(methods, folder / "general.sock")
        self.channel = grpc.aio.insecure_channel(f"unix:{folder}/fast.sock")

    async def start(self) -> Both:
        await self.general.start([UnixAddress(self.folder / "general.sock")])
        await self.fast.start(UnixAddress(self.folder / "fast.sock"))
        return self

    async def slow(self, request: bytes, call: Call) -> bytes:
        return b"slow " + request

    async def later(self, request: bytes) -> bytes:
        self.is_asked = True
        return await asyncio.shield(self.held)

    def fails(self, request: bytes) -> bytes:
        if request == b"bug":
            raise ZeroDivisionError
        raise CallError(5, "not here")

    async def ask(self, method: str, body: bytes = b"x") -> bytes:
        path = method if method.startswith("/") else f"/{NAME}/{method}"
        answer: bytes = await self.channel.unary_unary(path)(body, timeout=10)
        return answer

    async def stop(self) -> None:
        await self.channel.close()
        await self.fast.drain(1)
        await self.general.drain(grace_s=0)


@pytest.fixture
async def both(run_folder: Path) -> AsyncIterator[Both]:
    made = await Both(run_folder).start()
    yield made
    await made.stop()


async def test_a_fast_call(both: Both) -> None:
    assert await both.ask("Now", b"a" * 100_000) == b"now " + b"a" * 100_000


async def test_many_calls_at_once(both: Both) -> None:
    answers = await asyncio.gather(*[both.ask("Now", b"%d" % i) for i in range(500)])

    assert answers == [b"now %d" % i for i in range(500)]


async def test_an_answer_may_come_later(both: Both) -> None:
    waiting = asyncio.ensure_future(both.ask("Later"))
    assert await both.ask("Now") == b"now x"
    both.held.set_result(b"at last")

    assert await waiting == b"at last"


@pytest.mark.parametrize(
    ("request_body", "status"), [(b"", grpc.StatusCode.NOT_FOUND), (b"bug", grpc.StatusCode.INTERNAL)]
)
async def test_a_failure_has_its_status(both: Both, request_body: bytes, status: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await both.ask("Fails", request_body)

    assert failed.value.code() is status
    assert await both.ask("Now") == b"now x"


async def test_a_connection_that_begins_otherwise_is_passed_on(both: Both) -> None:
    assert health_pb2.HealthCheckResponse.FromString(await both.ask(HEALTH, b"")).status == 1
    assert await both.ask("Slow") == b"slow x"


async def test_a_method_nobody_has_is_unknown_on_either_server(both: Both) -> None:
    assert await both.ask("Now") == b"now x"
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await both.ask("Nobody")

    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_in_flight_are_answered_at_the_end(both: Both) -> None:
    waiting = asyncio.ensure_future(both.ask("Later"))
    await until("the call in flight", lambda: both.is_asked)
    draining = asyncio.ensure_future(both.fast.drain(5))
    await asyncio.sleep(0)
    both.held.set_result(b"in time")

    assert await waiting == b"in time"
    await draining


async def test_what_is_no_http2_is_passed_on_and_refused(both: Both) -> None:
    reader, writer = await asyncio.open_unix_connection(f"{both.folder}/fast.sock")
    writer.write(b"GET / HTTP/1.1\r\n\r\n")

    assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(100), 5)
    writer.close()


async def test_the_socket_is_gone_at_the_end(both: Both) -> None:
    await both.fast.drain(0)

    assert not (both.folder / "fast.sock").exists()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS, HEADERS, CONTINUATION = 4, 1, 9
BLOCK = hpack.Encoder().encode([(":method", "POST"), (":path", "/a/B"), ("x", "y" * 50)])


@pytest.mark.parametrize(
    ("opening", "path"),
    [
        pytest.param(b"PRI * ", None, id="half a preface"),
        pytest.param(PREFACE + frame(SETTINGS, 0, 0), None, id="nothing asked yet"),
        pytest.param(PREFACE + frame(HEADERS, 4, 1, BLOCK), b"/a/B", id="a request"),
        pytest.param(PREFACE + frame(HEADERS, 4, 1, BLOCK)[:-1], None, id="a request cut short"),
        pytest.param(
            PREFACE + frame(HEADERS, 0, 1, BLOCK[:9]) + frame(CONTINUATION, 4, 1, BLOCK[9:]),
            b"/a/B",
            id="in two frames",
        ),
        pytest.param(PREFACE + frame(HEADERS, 12, 1, b"\2" + BLOCK + b"\0\0"), b"/a/B", id="padded"),
        pytest.param(PREFACE + frame(HEADERS, 36, 1, b"\0\0\0\0\1" + BLOCK), b"/a/B", id="with a priority"),
        pytest.param(PREFACE + frame(HEADERS, 12, 1), b"", id="padding that is not there"),
        pytest.param(PREFACE + frame(HEADERS, 4, 1, b"\xbf"), b"", id="headers that cannot be decoded"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"", id="HTTP/1.1"),
    ],
)
def test_what_a_connection_asks_first(opening: bytes, path: bytes | None) -> None:
    assert first_path(opening) == path


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_one_acknowledgement_is_left_out(size: int) -> None:
    rest = frame(HEADERS, 5, 1, BLOCK) + frame(SETTINGS, 1, 0)
    sent = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0) + rest
    kept = AcknowledgementFilter()

    assert b"".join(kept.feed(sent[i : i + size]) for i in range(0, len(sent), size)) == (
        PREFACE + frame(SETTINGS, 0, 0) + rest
    )


def test_the_greeting_is_an_empty_settings_frame() -> None:
    assert frame(SETTINGS, 0, 0) == GREETING
