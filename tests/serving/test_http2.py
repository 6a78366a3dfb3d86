"""The lean gRPC server: held against grpcio's client, the h2 library, and bytes that are not HTTP/2."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.hpack import CompressionError, PathReader
from serving.http2 import MAX_MESSAGE_BYTES, PREFACE, UnaryServer

ECHO, LATER, BROKEN = "/test.Service/Echo", "/test.Service/Later", "/test.Service/Broken"


async def _later(message: bytes) -> bytes:
    await asyncio.sleep(0)
    return message[::-1]


def _broken(message: bytes) -> bytes:
    raise RuntimeError("a fault")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    server = UnaryServer({ECHO: lambda message: message, LATER: _later, BROKEN: _broken})
    async with await asyncio.get_running_loop().create_unix_server(server.connection, folder / "s"):
        yield str(folder / "s")
        await server.drain(1)
    shutil.rmtree(folder)


def method(channel: grpc.aio.Channel, path: str) -> Callable[..., grpc.aio.UnaryUnaryCall]:
    return channel.unary_unary(path)


# A real client


async def test_grpcio_gets_its_answers(address: str) -> None:
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        assert await method(channel, ECHO)(b"hello", timeout=5) == b"hello"
        assert await method(channel, LATER)(b"hello", timeout=5) == b"olleh"
        assert await method(channel, ECHO)(b"", timeout=5) == b""


@pytest.mark.parametrize("size", [16_383, 16_384, 65_530, 65_531, 200_000, 1_000_000])
async def test_large_messages_pass_the_windows_in_both_directions(address: str, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        assert await method(channel, ECHO)(message, timeout=10) == message


async def test_many_calls_at_once_do_not_mix(address: str) -> None:
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        messages = [b"%d" % number * (number % 7 * 1000 + 1) for number in range(300)]
        calls = [method(channel, LATER if n % 3 else ECHO)(one, timeout=20) for n, one in enumerate(messages)]
        answers = await asyncio.gather(*calls)
    assert answers == [one[::-1] if n % 3 else one for n, one in enumerate(messages)]


REFUSALS = {
    "an unknown method": ("/test.Service/Other", b"x", grpc.StatusCode.UNIMPLEMENTED),
    "a handler that fails": (BROKEN, b"x", grpc.StatusCode.INTERNAL),
    "a message that is too large": (ECHO, b"x" * (MAX_MESSAGE_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_refusals_are_statuses_and_the_connection_goes_on(address: str, case: str) -> None:
    path, message, status = REFUSALS[case]
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await method(channel, path)(message, timeout=5)
        assert failure.value.code() == status
        assert await method(channel, ECHO)(b"again", timeout=5) == b"again"


async def test_compression_is_refused_in_the_words_of_grpc(address: str) -> None:
    options = [("grpc.default_compression_algorithm", grpc.Compression.Gzip.value)]
    async with grpc.aio.insecure_channel(f"unix:{address}", options=options) as channel:
        call = channel.unary_unary(ECHO)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call(b"x" * 5000, timeout=5, compression=grpc.Compression.Gzip)
        assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_draining_finishes_what_is_in_flight() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    entered, release = asyncio.Event(), asyncio.Event()

    async def held(message: bytes) -> bytes:
        entered.set()
        await release.wait()
        return message

    server = UnaryServer({ECHO: held})
    async with (
        await asyncio.get_running_loop().create_unix_server(server.connection, folder / "s"),
        grpc.aio.insecure_channel(f"unix:{folder}/s") as channel,
    ):
        call = asyncio.ensure_future(channel.unary_unary(ECHO)(b"in flight", timeout=10))
        await entered.wait()
        draining = asyncio.ensure_future(server.drain(5))
        await asyncio.sleep(0)
        release.set()
        assert await call == b"in flight"
        await draining
    shutil.rmtree(folder)


# A client that does as the test says


class Peer:
    """An HTTP/2 connection by the h2 library."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))

    def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())

    def call(self, body: bytes, *, path: str = ECHO, pieces: int = 1, **how: int) -> int:
        stream = self.connection.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
        self.connection.send_headers(stream, headers)
        framed = b"\0" + len(body).to_bytes(4, "big") + body
        step = max(1, len(framed) // pieces)
        parts = [framed[at : at + step] for at in range(0, len(framed), step)]
        for part in parts:
            self.connection.send_data(stream, part, **how)
        self.connection.end_stream(stream)
        self.flush()
        return stream

    async def answers(self, *streams: int, acknowledge: bool = True) -> dict[int, bytes]:
        """The messages of these streams, once they have ended."""
        found: dict[int, bytearray] = {stream: bytearray() for stream in streams}
        ended: set[int] = set()
        async with asyncio.timeout(5):
            while ended != set(streams):
                data = await self.reader.read(65_536)
                assert data, "closed"
                for event in self.connection.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        found[event.stream_id] += event.data
                        if acknowledge:
                            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        ended.add(event.stream_id)
                self.flush()
        return {stream: bytes(body[5:]) for stream, body in found.items()}


@pytest.fixture
async def peer(address: str) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(address)
    one = Peer(reader, writer)
    one.connection.initiate_connection()
    yield one
    writer.close()


async def test_h2_gets_its_answers_whole_in_pieces_and_padded(peer: Peer) -> None:
    first = peer.call(b"one")
    second = peer.call(b"two" * 100, pieces=20)
    third = peer.call(b"three", pad_length=50)
    found = await peer.answers(first, second, third)
    assert found == {first: b"one", second: b"two" * 100, third: b"three"}


async def test_byte_by_byte_is_the_same(peer: Peer) -> None:
    stream = peer.connection.get_next_available_stream_id()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), (":authority", "x")]
    peer.connection.send_headers(stream, headers)
    peer.connection.send_data(stream, b"\0\0\0\0\x02hi", end_stream=True)
    for octet in peer.connection.data_to_send():
        peer.writer.write(bytes([octet]))
        await peer.writer.drain()
        await asyncio.sleep(0)
    assert await peer.answers(stream) == {stream: b"hi"}


async def test_a_small_window_is_kept_to(address: str) -> None:
    reader, writer = await asyncio.open_unix_connection(address)
    one = Peer(reader, writer)
    small = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10}
    one.connection.local_settings = h2.settings.Settings(client=True, initial_values=small)
    one.connection.initiate_connection()
    streams = [one.call(bytes([65 + number]) * 100) for number in range(3)]
    assert await one.answers(*streams) == {stream: bytes([65 + n]) * 100 for n, stream in enumerate(streams)}
    writer.close()


async def test_a_reset_stream_is_forgotten(peer: Peer) -> None:
    gone = peer.connection.get_next_available_stream_id()
    peer.connection.send_headers(gone, [(":method", "POST"), (":scheme", "http"), (":path", ECHO), (":authority", "x")])
    peer.connection.send_data(gone, b"\0\0\0\0\x05he")
    peer.connection.reset_stream(gone)
    stream = peer.call(b"after")
    assert await peer.answers(stream) == {stream: b"after"}


async def test_a_ping_is_answered(peer: Peer) -> None:
    peer.connection.ping(b"12345678")
    peer.flush()
    async with asyncio.timeout(5):
        while True:
            events = peer.connection.receive_data(await peer.reader.read(65_536))
            if any(isinstance(event, h2.events.PingAckReceived) for event in events):
                return


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


HEADERS = b"\x83\x86\x44" + bytes([len(ECHO)]) + ECHO.encode()
WRONG = {
    "not HTTP/2": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "a frame that is too large": (PREFACE + frame(4, 0, 0) + (20_000).to_bytes(3, "big") + bytes(6), 6),
    "data on the connection": (PREFACE + frame(4, 0, 0) + frame(0, 0, 0, b"x"), 1),
    "data on a stream that was never opened": (PREFACE + frame(4, 0, 0) + frame(0, 0, 7, b"x"), 1),
    "an even stream": (PREFACE + frame(4, 0, 0) + frame(1, 5, 2, HEADERS), 1),
    "a stream used twice": (PREFACE + frame(4, 0, 0) + frame(1, 5, 3, HEADERS) + frame(1, 5, 3, HEADERS), 5),
    "a stream that goes back": (PREFACE + frame(4, 0, 0) + frame(1, 5, 3, HEADERS) + frame(1, 5, 1, HEADERS), 5),
    "a continuation of nothing": (PREFACE + frame(4, 0, 0) + frame(9, 4, 1, HEADERS), 1),
    "headers interrupted": (PREFACE + frame(4, 0, 0) + frame(1, 0, 1, HEADERS) + frame(6, 0, 0, bytes(8)), 1),
    "headers without end": (PREFACE + frame(4, 0, 0) + frame(1, 0, 1) + frame(9, 0, 1, b"\0" * 16_000) * 5, 11),
    "padding longer than its frame": (PREFACE + frame(4, 0, 0) + frame(1, 0xC, 1, b"\xff" + HEADERS), 1),
    "a push": (PREFACE + frame(4, 0, 0) + frame(5, 4, 1, bytes(4)), 1),
    "a short ping": (PREFACE + frame(4, 0, 0) + frame(6, 0, 0, b"x"), 6),
    "a window of nothing": (PREFACE + frame(4, 0, 0) + frame(8, 0, 0, bytes(4)), 1),
    "a window that overflows": (PREFACE + frame(4, 0, 0) + frame(8, 0, 0, b"\x7f\xff\xff\xff"), 3),
    "settings of a stream": (PREFACE + frame(4, 0, 1), 1),
    "half a setting": (PREFACE + frame(4, 0, 0, b"abc"), 6),
    "a window setting that is too large": (PREFACE + frame(4, 0, 0, b"\0\x04\xff\xff\xff\xff"), 3),
    "a reset of a stream that was never opened": (PREFACE + frame(4, 0, 0) + frame(3, 0, 9, bytes(4)), 1),
    "compression that is wrong": (PREFACE + frame(4, 0, 0) + frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"), 9),
    "pings without end": (PREFACE + frame(4, 0, 0) + frame(6, 0, 0, bytes(8)) * 10_001, 11),
    "empty data without end": (
        PREFACE + frame(4, 0, 0) + frame(1, 4, 1, HEADERS) + frame(0, 0, 1) * 10_001,
        11,
    ),
    "resets without end": (
        PREFACE + frame(4, 0, 0) + frame(1, 4, 1, HEADERS) + frame(3, 0, 1, bytes(4)) * 10_001,
        11,
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_peer_that_breaks_the_protocol_is_told_and_left(address: str, case: str) -> None:
    sent, code = WRONG[case]
    reader, writer = await asyncio.open_unix_connection(address)
    writer.write(sent)
    async with asyncio.timeout(5):
        received = await reader.read()
    writer.close()
    at = received.rindex(b"\0\0\x08\x07\0\0\0\0\0")
    assert int.from_bytes(received[at + 13 : at + 17], "big") == code


@pytest.mark.parametrize("flags", [0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF])
async def test_unknown_frames_and_priorities_are_ignored(peer: Peer, flags: int) -> None:
    peer.flush()
    peer.writer.write(frame(0x2, 0, 1, bytes(5)) + frame(0xEE, flags, 0, b"whatever"))
    stream = peer.call(b"still here")
    assert await peer.answers(stream) == {stream: b"still here"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=12)
)
def test_no_sequence_of_frames_raises(frames: list[tuple[int, int, int, bytes]]) -> None:
    from serving.http2 import Connection

    class Wire:
        def write(self, data: bytes) -> None: ...
        def close(self) -> None: ...
        def abort(self) -> None: ...

    connection = Connection({ECHO.encode(): lambda message: message}, 1000, lambda _: None)
    connection.connection_made(Wire())  # type: ignore[arg-type]
    connection.data_received(PREFACE + frame(4, 0, 0))
    for one in frames:
        connection.data_received(frame(*one))


# HPACK


FIELD = st.tuples(
    st.sampled_from([":path", ":method", "te", "content-type", "x-a", "x-b", "cookie"])
    | st.from_regex(r"[a-z]{1,9}", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.lists(FIELD, max_size=12), st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=8)
)
def test_the_path_is_what_another_implementation_wrote(
    blocks: list[tuple[list[tuple[str, str]], bool, int | None]],
) -> None:
    encoder, reader = hpack.Encoder(), PathReader()
    for fields, is_coded, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        expected = next((value for name, value in reversed(fields) if name == ":path"), None)
        found = reader.path(encoder.encode(fields, huffman=is_coded))
        assert found == (expected.encode() if expected is not None else None)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_a_block_is_read_or_refused(blocks: list[bytes]) -> None:
    reader = PathReader()
    for block in blocks:
        try:
            reader.path(block)
        except CompressionError:
            return
