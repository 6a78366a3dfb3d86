"""Unary gRPC over HTTP/2 (RFC 9113) for one peer on the same host, with nothing between the socket and the handler.

grpcio spends several times as long on a call as deciding it takes; on the hot path that is the cost. This server does
one thing: unary methods on bytes, over a plain stream socket that only the local Envoy can reach. Everything else it is
asked for is refused in the protocol's own words, and every count and length a peer controls has a limit. It has no
streaming, TLS, compression or reflection; addresses that need those are served by `serving.server`.

A handler takes the message and returns the answer, or an awaitable of it where it cannot know at once. All the frames
of one read are answered by one write.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, runtime_checkable

import structlog

from serving.hpack import MAX_BLOCK_BYTES, CompressionError, PathReader

_log = structlog.get_logger("serving.http2")

Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""Takes and returns encoded messages. CallError ends the call with its status; anything else with INTERNAL, logged."""

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_STREAMS: Final = 4096
MAX_WAITING_BYTES: Final = 8 << 20
MAX_CONTROL_FRAMES: Final = 10_000  # answered in a row without one request between them
_FRAME_BYTES: Final = 16_384
_WINDOW: Final = MAX_MESSAGE_BYTES + 65_536
_CONNECTION_WINDOW: Final = 16 << 20

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_INITIAL_WINDOW, _MAX_FRAME = 0x4, 0x5
_NO_ERROR, _PROTOCOL_ERROR, _FLOW_ERROR, _STREAM_CLOSED, _SIZE_ERROR, _REFUSED, _COMPRESSION, _CALM = (
    0x0, 0x1, 0x3, 0x5, 0x6, 0x7, 0x9, 0xB,
)  # fmt: skip
_OK, _RESOURCE_EXHAUSTED, _UNIMPLEMENTED, _INTERNAL = 0, 8, 12, 13


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing and without Huffman coding (RFC 7541, 6.2.2); both shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _trailers(status: int, message: bytes = b"") -> bytes:
    return _literal(b"grpc-status", b"%d" % status) + (_literal(b"grpc-message", message) if message else b"")


_STATUS_200: Final = b"\x88" + _literal(b"content-type", b"application/grpc")
_DONE: Final = _trailers(_OK)
# The three frames of an answer, cut where the stream's number and the message's length go.
_HEAD: Final = len(_STATUS_200).to_bytes(3, "big") + bytes((_HEADERS, _END_HEADERS))
_TAIL: Final = len(_DONE).to_bytes(3, "big") + bytes((_HEADERS, _END_HEADERS | _END_STREAM))
_OUR_SETTINGS: Final = b"".join(
    number.to_bytes(2, "big") + value.to_bytes(4, "big")
    for number, value in ((0x1, 0), (0x3, MAX_STREAMS), (_INITIAL_WINDOW, _WINDOW), (0x6, MAX_BLOCK_BYTES))
)
_GREETING: Final = _frame(_SETTINGS, 0, 0, _OUR_SETTINGS) + _frame(
    _WINDOW_UPDATE, 0, 0, (_CONNECTION_WINDOW - 65_535).to_bytes(4, "big")
)


UNAVAILABLE: Final = 14
"""The status of a call that another worker may answer: Envoy asks one."""


class CallError(Exception):
    """Ends a call with a gRPC status: its number and a short text for the caller."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    @property
    def details(self) -> bytes:
        """The text as `grpc-message` has it: percent-encoded, and short enough for a field."""
        kept = (bytes((b,)) if 0x20 <= b <= 0x7E and b != 0x25 else b"%%%02X" % b for b in str(self).encode())
        return b"".join(kept)[:126]


class _ConnectionError(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@runtime_checkable
class _Wire(Protocol):
    """What is used of a transport; uvloop's is no subclass of asyncio's."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class _Stream:
    """A request on its way in."""

    __slots__ = ("body", "path")

    def __init__(self, path: bytes | None) -> None:
        self.path = path
        self.body = bytearray()


class UnaryServer:
    """Serves unary methods, by their full paths, on connections that somebody else accepts. In the end, `drain`."""

    def __init__(self, handlers: Mapping[str, Handler], *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._handlers = {path.encode(): handler for path, handler in handlers.items()}
        self._max_message_bytes = max_message_bytes
        self._connections: set[Connection] = set()

    async def drain(self, grace_s: float) -> None:
        """Tells peers to go elsewhere, and gives calls in flight `grace_s` to finish."""
        for connection in tuple(self._connections):
            connection.go_away()
        waits = [connection.ended.wait() for connection in tuple(self._connections)]
        if waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waits), grace_s)
        for connection in tuple(self._connections):
            connection.abort()

    def connection(self) -> Connection:
        """A connection that was accepted elsewhere, to be given its transport and what came on it."""
        connection = Connection(self._handlers, self._max_message_bytes, self._connections.discard)
        self._connections.add(connection)
        return connection


class Connection(asyncio.Protocol):
    """One peer's connection."""

    def __init__(
        self, handlers: Mapping[bytes, Handler], max_message_bytes: int, closed: Callable[[Connection], None]
    ) -> None:
        self.ended = asyncio.Event()
        self._handlers = handlers
        self._max_message_bytes = max_message_bytes
        self._closed = closed
        self._transport: _Wire | None = None
        self._buffer = b""
        self._has_preface = False
        self._paths = PathReader()
        self._streams: dict[int, _Stream] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._last_stream = 0
        self._block: tuple[int, int, bytearray] | None = None  # a block that goes on in CONTINUATION frames
        self._out: list[bytes] = []
        self._window = 65_535  # what the peer lets us send on the connection
        self._stream_window = 65_535  # and on a new stream
        self._max_frame = _FRAME_BYTES
        self._waiting: deque[tuple[int, bytes]] = deque()  # answers that the peer's windows hold back
        self._waiting_bytes = 0
        self._sent: dict[int, int] = {}  # of those, what went out already, less what the peer gave back
        self._consumed = 0
        self._control_frames = 0
        self._is_leaving = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, _Wire):
            raise TypeError("not a stream")
        self._transport = transport
        transport.write(_GREETING)

    def connection_lost(self, error: Exception | None) -> None:
        for task in tuple(self._answering.values()):
            task.cancel()
        self._transport = None
        self.ended.set()
        self._closed(self)

    def data_received(self, received: bytes) -> None:
        data = self._buffer + received if self._buffer else received
        try:
            self._buffer = data[self._frames(data) :]
        except _ConnectionError as error:
            self._fail(error)
            return
        self._flush()

    def eof_received(self) -> bool:
        return False

    # Reading

    def _frames(self, data: bytes) -> int:
        """Reads the whole frames in `data`; how many bytes that were."""
        at, end = 0, len(data)
        if not self._has_preface:
            if end < len(PREFACE):
                if not PREFACE.startswith(data):
                    raise _ConnectionError(_PROTOCOL_ERROR, "not HTTP/2")
                return 0
            if not data.startswith(PREFACE):
                raise _ConnectionError(_PROTOCOL_ERROR, "not HTTP/2")
            self._has_preface = True
            at = len(PREFACE)
        while end - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > _FRAME_BYTES:
                raise _ConnectionError(_SIZE_ERROR, "a frame larger than we accept")
            start = at + 9
            if end - start < length:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : start], "big") & 0x7FFF_FFFF
            at = start + length
            self._take(kind, flags, stream, data[start:at])
        return at

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != _CONTINUATION or stream != self._block[0]):
            raise _ConnectionError(_PROTOCOL_ERROR, "a block of headers was interrupted")
        if kind == _DATA:
            self._data(flags, stream, payload)
        elif kind == _HEADERS:
            self._headers(flags, stream, payload)
        elif kind == _CONTINUATION:
            self._continuation(flags, payload)
        elif kind == _WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == _RST:
            self._reset(stream, payload)
        elif kind == _SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == _PING:
            self._ping(flags, stream, payload)
        elif kind == _PUSH:
            raise _ConnectionError(_PROTOCOL_ERROR, "a client does not push")
        # PRIORITY says nothing to us, GOAWAY neither: the peer closes when it is done. Unknown kinds are ignored (4.1).

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        payload = _unpadded(flags, payload)
        if flags & _HAS_PRIORITY:
            if len(payload) < 5:
                raise _ConnectionError(_SIZE_ERROR, "no room for a priority")
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._opened(stream, flags, payload)
        else:
            self._block = (stream, flags, bytearray(payload))

    def _continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise _ConnectionError(_PROTOCOL_ERROR, "nothing to continue")
        stream, first_flags, block = self._block
        if not payload and not flags & _END_HEADERS:
            self._count_control()
        block += payload
        if len(block) > MAX_BLOCK_BYTES:
            raise _ConnectionError(_CALM, "headers without end")
        if flags & _END_HEADERS:
            self._block = None
            self._opened(stream, first_flags, bytes(block))

    def _opened(self, stream: int, flags: int, block: bytes) -> None:
        try:
            path = self._paths.path(block)
        except CompressionError as error:
            raise _ConnectionError(_COMPRESSION, str(error)) from None
        known = self._streams.get(stream)
        if known is not None:  # trailers
            if not flags & _END_STREAM:
                raise _ConnectionError(_PROTOCOL_ERROR, "trailers that do not end the stream")
            self._call(stream, known)
            return
        if stream % 2 == 0 or stream == 0:
            raise _ConnectionError(_PROTOCOL_ERROR, "a stream a client cannot open")
        if stream <= self._last_stream:
            raise _ConnectionError(_STREAM_CLOSED, "a stream that was there before")
        self._last_stream = stream
        self._control_frames = 0
        if self._is_leaving or len(self._streams) + len(self._answering) + len(self._waiting) >= MAX_STREAMS:
            self._out.append(_frame(_RST, 0, stream, _REFUSED.to_bytes(4, "big")))
            return
        opened = _Stream(path)
        if flags & _END_STREAM:
            self._call(stream, opened)
        else:
            self._streams[stream] = opened

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise _ConnectionError(_PROTOCOL_ERROR, "data on the connection itself")
        self._consumed += len(payload)  # padding counts too (6.9.1)
        if self._consumed >= _CONNECTION_WINDOW // 2:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, self._consumed.to_bytes(4, "big")))
            self._consumed = 0
        known = self._streams.get(stream)
        if known is None:
            if stream > self._last_stream:
                raise _ConnectionError(_PROTOCOL_ERROR, "data on a stream that was never opened")
            return  # of a stream that we ended before the peer knew
        if not payload and not flags & _END_STREAM:
            self._count_control()
        known.body += _unpadded(flags, payload)
        if len(known.body) > self._max_message_bytes + 5:
            del self._streams[stream]
            self._out.append(_refusal(stream, _RESOURCE_EXHAUSTED, b"message too large"))
        elif flags & _END_STREAM:
            self._call(stream, known)

    def _reset(self, stream: int, payload: bytes) -> None:
        if stream == 0 or stream > self._last_stream:
            raise _ConnectionError(_PROTOCOL_ERROR, "a stream that was never opened")
        if len(payload) != 4:
            raise _ConnectionError(_SIZE_ERROR, "a reset has four bytes")
        self._count_control()
        self._streams.pop(stream, None)
        if (task := self._answering.pop(stream, None)) is not None:
            task.cancel()
        self._forget_waiting(stream)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise _ConnectionError(_PROTOCOL_ERROR, "settings of a stream")
        if flags & _ACK:
            if payload:
                raise _ConnectionError(_SIZE_ERROR, "an acknowledgement with settings")
            return
        if len(payload) % 6:
            raise _ConnectionError(_SIZE_ERROR, "settings have six bytes each")
        self._count_control()
        for at in range(0, len(payload), 6):
            number, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if number == _INITIAL_WINDOW:
                if value > 0x7FFF_FFFF:
                    raise _ConnectionError(_FLOW_ERROR, "a window that is too large")
                self._stream_window = value
            elif number == _MAX_FRAME:
                if not 16_384 <= value <= 16_777_215:
                    raise _ConnectionError(_PROTOCOL_ERROR, "a frame size out of range")
                self._max_frame = min(value, 1 << 20)
        self._out.append(_frame(_SETTINGS, _ACK, 0))
        self._send_waiting()

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != 0:
            raise _ConnectionError(_PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise _ConnectionError(_SIZE_ERROR, "a ping has eight bytes")
        if not flags & _ACK:
            self._count_control()
            self._out.append(_frame(_PING, _ACK, 0, payload))

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionError(_SIZE_ERROR, "a window update has four bytes")
        more = int.from_bytes(payload, "big") & 0x7FFF_FFFF
        if more == 0:
            raise _ConnectionError(_PROTOCOL_ERROR, "an increment of nothing")
        if stream == 0:
            self._window += more
            if self._window > 0x7FFF_FFFF:
                raise _ConnectionError(_FLOW_ERROR, "a window that is too large")
        elif stream > self._last_stream:
            raise _ConnectionError(_PROTOCOL_ERROR, "a window of a stream that was never opened")
        elif stream in self._sent:
            self._sent[stream] -= more
        if self._waiting:
            self._send_waiting()

    def _count_control(self) -> None:
        """Frames that cost us something and are no request: a peer that sends nothing else is no peer of ours."""
        self._control_frames += 1
        if self._control_frames > MAX_CONTROL_FRAMES:
            raise _ConnectionError(_CALM, "control frames without end")

    # Answering

    def _call(self, stream: int, request: _Stream) -> None:
        self._streams.pop(stream, None)
        handler = self._handlers.get(request.path or b"")
        if handler is None:
            self._out.append(_refusal(stream, _UNIMPLEMENTED, b"unknown method"))
            return
        body = request.body
        if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5:
            self._out.append(_refusal(stream, _INTERNAL, b"not one whole message"))
            return
        if body[0] != 0:
            self._out.append(_refusal(stream, _UNIMPLEMENTED, b"compression is not supported"))
            return
        try:
            answer = handler(bytes(body[5:]))
        except CallError as error:
            self._out.append(_refusal(stream, error.status, error.details))
            return
        except Exception:  # the boundary between a protocol and whatever it carries
            _log.exception("handler failed", path=(request.path or b"").decode("latin-1"))
            self._out.append(_refusal(stream, _INTERNAL, b"internal error"))
            return
        if isinstance(answer, bytes):
            self._answer(stream, answer)
        else:
            self._answering[stream] = asyncio.ensure_future(self._later(stream, answer))

    async def _later(self, stream: int, coming: Awaitable[bytes]) -> None:
        try:
            answer = await coming
        except CallError as error:
            self._out.append(_refusal(stream, error.status, error.details))
        except Exception:
            _log.exception("handler failed")
            self._out.append(_refusal(stream, _INTERNAL, b"internal error"))
        else:
            self._answer(stream, answer)
        finally:
            self._answering.pop(stream, None)
        self._flush()

    def _answer(self, stream: int, message: bytes) -> None:
        """Headers, message and trailers; what the peer's windows do not hold yet waits for them."""
        size = len(message) + 5
        number = stream.to_bytes(4, "big")
        if not self._waiting and size <= self._window and size <= self._stream_window and size <= self._max_frame:
            self._window -= size
            length = len(message).to_bytes(4, "big")
            data = size.to_bytes(3, "big") + b"\0\0"
            self._out += (_HEAD, number, _STATUS_200, data, number, b"\0", length, message, _TAIL, number, _DONE)
            return
        self._out += (_HEAD, number, _STATUS_200)
        self._waiting.append((stream, b"\0" + len(message).to_bytes(4, "big") + message))
        self._waiting_bytes += size
        self._sent[stream] = 0
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise _ConnectionError(_CALM, "a peer that reads nothing")
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Sends what the windows hold, in the order in which it was asked for."""
        for _ in range(len(self._waiting)):
            stream, data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            while data:
                room = min(self._window, self._stream_window - self._sent[stream], self._max_frame)
                if room <= 0:
                    break
                part, data = data[:room], data[room:]
                self._window -= len(part)
                self._sent[stream] += len(part)
                self._out.append(_frame(_DATA, 0, stream, part))
            if data:
                self._waiting.append((stream, data))
                self._waiting_bytes += len(data)
            else:
                del self._sent[stream]
                self._out += (_TAIL, stream.to_bytes(4, "big"), _DONE)

    def _forget_waiting(self, stream: int) -> None:
        if self._sent.pop(stream, None) is not None:
            kept = [(number, data) for number, data in self._waiting if number != stream]
            self._waiting = deque(kept)
            self._waiting_bytes = sum(len(data) for _, data in kept)

    def _flush(self) -> None:
        if self._transport is None:
            self._out.clear()
            return
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._is_leaving and not (self._streams or self._answering or self._waiting):
            self._transport.close()

    # The end

    def go_away(self) -> None:
        """No new streams; the connection closes when those there are have been answered."""
        if not self._is_leaving:
            self._is_leaving = True
            self._out.append(_goaway(self._last_stream, _NO_ERROR))
            self._flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: _ConnectionError) -> None:
        _log.warning("connection ended", reason=str(error), code=error.code)
        if self._transport is not None:
            self._transport.write(b"".join(self._out) + _goaway(self._last_stream, error.code))
            self._out.clear()
            self._transport.close()


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _ConnectionError(_PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _goaway(last_stream: int, code: int) -> bytes:
    return _frame(_GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))


def _refusal(stream: int, status: int, message: bytes) -> bytes:
    """An answer that is trailers alone."""
    block = _STATUS_200 + _trailers(status, message)
    return _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, block)
