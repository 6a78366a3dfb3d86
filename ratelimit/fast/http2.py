"""The server's side of HTTP/2 (RFC 9113), as far as unary gRPC calls need it. No I/O: bytes in, calls and bytes out.

It exists for speed: a unary call costs some twenty microseconds here, and some hundreds in a general gRPC server. What
it has not got (streaming, compression, deadlines) is left to one; only hot methods are served so. Every quantity a
client controls has a limit. Violations end the connection with GOAWAY and the section's error code.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field

from ratelimit.fast.hpack import Decoder, HpackError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_STREAMS = 2_000
LARGEST_MESSAGE = 1 << 20
LARGEST_BLOCK = 64 << 10
LARGEST_FRAME = 16_384
MOST_WAITING_BYTES = 8 << 20
MOST_RESETS = 10_000

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_NO_ERROR, _PROTOCOL, _FLOW, _FRAME_SIZE, _REFUSED, _CANCEL, _COMPRESSION, _CALM = 0, 1, 3, 6, 7, 8, 9, 11
_MOST_WINDOW = (1 << 31) - 1
_OUR_WINDOW = 1 << 30

_unpack_head = struct.Struct(">BHBBI").unpack_from
_pack_head = struct.Struct(">BHBBI").pack
_pack_message = struct.Struct(">BI").pack

# Literals without indexing: the table stays empty, and one answer's headers are another's.
_RESPONSE = b"\x88" + b"\x0f\x10\x10application/grpc"
_TRAILERS_OK = b"\x00\x0bgrpc-status\x010"


@dataclass(frozen=True, slots=True)
class Call:
    """A complete request: answer it with `respond` or `fail`."""

    stream: int
    path: bytes
    message: bytes


@dataclass(slots=True)
class _Stream:
    path: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


class ConnectionEnded(Exception):  # noqa: N818 (an end, not always an error)
    """The connection is over: what `output` holds is to be written, then it is to be closed."""


class Connection:
    """One client's connection. `receive` what came, write `output()`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._has_preface = False
        self._decoder = Decoder()
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, fragments so far
        self._window = 65_535
        self._initial_window = 65_535
        self._stream_windows: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes, bytes]] = deque()  # stream, message, trailers
        self._waiting_bytes = 0
        self._received = 0
        self._resets = 0
        self._is_going_away = False
        # Our settings, and a connection window that is seldom in the way.
        settings = struct.pack(">HIHIHI", 3, MOST_STREAMS, 4, _OUR_WINDOW, 6, LARGEST_BLOCK)
        self._out: list[bytes] = [
            _frame(_SETTINGS, 0, 0, settings),
            _frame(_WINDOW, 0, 0, struct.pack(">I", _OUR_WINDOW - 65_535)),
        ]

    @property
    def is_idle(self) -> bool:
        """No call is open and nothing waits to be sent."""
        return not self._streams and not self._waiting

    def output(self) -> bytes:
        """What is to be written now."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> list[Call]:
        """The calls that became complete. Raises ConnectionEnded."""
        buffer = self._buffer
        buffer += data
        position = 0
        if not self._has_preface:
            if len(buffer) < len(PREFACE) and PREFACE.startswith(bytes(buffer)):
                return []
            if not buffer.startswith(PREFACE):
                raise self._end(_PROTOCOL)
            self._has_preface = True
            position = len(PREFACE)
        calls: list[Call] = []
        end = len(buffer)
        while end - position >= 9:
            high, low, kind, flags, stream = _unpack_head(buffer, position)
            length = high << 16 | low
            if length > LARGEST_FRAME:
                raise self._end(_FRAME_SIZE)
            if end - position - 9 < length:
                break
            payload = bytes(buffer[position + 9 : position + 9 + length])
            position += 9 + length
            call = self._frame(kind, flags, stream & _MOST_WINDOW, payload)
            if call is not None:
                calls.append(call)
        if position:
            del buffer[:position]
        return calls

    def respond(self, stream: int, message: bytes) -> None:
        """Answers a call."""
        if self._streams.pop(stream, None) is None:
            return  # the client gave up
        size = len(message) + 5
        window = self._stream_windows.pop(stream, 0) + self._initial_window
        if self._waiting or size > self._window or size > window or size > LARGEST_FRAME:
            self._wait(stream, message, window)
            return
        self._window -= size
        self._out.append(
            _pack_head(0, len(_RESPONSE), _HEADERS, _END_HEADERS, stream)
            + _RESPONSE
            + _pack_head(size >> 16, size & 0xFFFF, _DATA, 0, stream)
            + _pack_message(0, len(message))
            + message
            + _pack_head(0, len(_TRAILERS_OK), _HEADERS, _END_HEADERS | _END_STREAM, stream)
            + _TRAILERS_OK
        )

    def fail(self, stream: int, status: int, text: str) -> None:
        """Ends a call with a gRPC status other than OK."""
        if self._streams.pop(stream, None) is None:
            return
        self._stream_windows.pop(stream, None)
        details = _percent(text)[:126]
        block = _RESPONSE + _literal(b"grpc-status", b"%d" % status) + _literal(b"grpc-message", details)
        self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, block))

    def refuse(self, stream: int) -> None:
        """Gives a call back unanswered, and all that come after it: GOAWAY says so, and clients try them elsewhere."""
        if self._streams.pop(stream, None) is not None:
            self._go_away(stream - 1)

    def go_away(self) -> None:
        """Tells the client to open no further calls here."""
        self._go_away(self._last_stream)

    def _go_away(self, last: int) -> None:
        if not self._is_going_away:
            self._is_going_away = True
            self._out.append(_frame(_GOAWAY, 0, 0, struct.pack(">II", last, _NO_ERROR)))

    # What a frame does

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> Call | None:
        if self._block is not None and kind != _CONTINUATION:
            raise self._end(_PROTOCOL)
        if kind == _DATA:
            return self._data(flags, stream, payload)
        if kind == _HEADERS:
            return self._headers(flags, stream, payload)
        if kind == _CONTINUATION:
            return self._continuation(flags, stream, payload)
        if kind == _WINDOW:
            self._grow(stream, payload)
        elif kind == _SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == _PING:
            if len(payload) != 8:
                raise self._end(_FRAME_SIZE)
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST:
            self._reset(stream, payload)
        elif kind == _PUSH:
            raise self._end(_PROTOCOL)
        return None  # PRIORITY, GOAWAY and what is unknown say nothing that matters here

    def _headers(self, flags: int, stream: int, payload: bytes) -> Call | None:
        if stream % 2 == 0:
            raise self._end(_PROTOCOL)
        if flags & _PADDED:
            payload = self._unpadded(payload)
        if flags & _HAS_PRIORITY:
            payload = payload[5:]
        if not flags & _END_HEADERS:
            self._block = (stream, flags, bytearray(payload))
            return None
        return self._open(flags, stream, payload)

    def _continuation(self, flags: int, stream: int, payload: bytes) -> Call | None:
        if self._block is None or self._block[0] != stream:
            raise self._end(_PROTOCOL)
        _, opening, fragments = self._block
        fragments += payload
        # An empty CONTINUATION makes no progress: a flood of them must not be free.
        self._resets += not payload
        if len(fragments) > LARGEST_BLOCK or self._resets > MOST_RESETS:
            raise self._end(_CALM)
        if not flags & _END_HEADERS:
            return None
        self._block = None
        return self._open(opening, stream, bytes(fragments))

    def _open(self, flags: int, stream: int, block: bytes) -> Call | None:
        try:
            headers = self._decoder.decode(block)
        except (HpackError, IndexError):
            raise self._end(_COMPRESSION) from None
        known = self._streams.get(stream)
        if known is not None:  # trailers of a request: they end it
            return self._complete(stream, known) if flags & _END_STREAM else None
        if stream <= self._last_stream:
            return None  # of a call that was answered or reset
        self._last_stream = stream
        if self._is_going_away or len(self._streams) >= MOST_STREAMS:
            self._out.append(_frame(_RST, 0, stream, struct.pack(">I", _REFUSED)))
            return None
        path = next((value for name, value in headers if name == b":path"), b"")
        self._streams[stream] = opened = _Stream(path)
        return self._complete(stream, opened) if flags & _END_STREAM else None

    def _data(self, flags: int, stream: int, payload: bytes) -> Call | None:
        if stream == 0:
            raise self._end(_PROTOCOL)
        self._received += len(payload)
        if self._received >= _OUR_WINDOW // 2:
            self._out.append(_frame(_WINDOW, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        if flags & _PADDED:
            payload = self._unpadded(payload)
        known = self._streams.get(stream)
        if known is None or known.is_complete:
            return None
        if flags & _END_STREAM and not known.body:
            return self._complete(stream, known, payload)
        known.body += payload
        if len(known.body) > LARGEST_MESSAGE + 5:
            self.fail(stream, 8, "the message is too large")
            return None
        return self._complete(stream, known, bytes(known.body)) if flags & _END_STREAM else None

    def _complete(self, stream: int, known: _Stream, body: bytes = b"") -> Call | None:
        body = body or bytes(known.body)
        known.is_complete = True
        known.body = bytearray()
        if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
            # Compressed (which nobody was told we accept), several messages, or none.
            self.fail(stream, 12 if body[:1] == b"\x01" else 13, "expected one message, not compressed")
            return None
        return Call(stream, known.path, body[5:])

    def _unpadded(self, payload: bytes) -> bytes:
        if not payload or payload[0] >= len(payload):
            raise self._end(_PROTOCOL)
        return payload[1 : len(payload) - payload[0]]

    def _reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4 or stream == 0:
            raise self._end(_FRAME_SIZE)
        if self._streams.pop(stream, None) is not None:
            self._resets += 1  # a client that opens calls only to give them up (CVE-2023-44487)
            if self._resets > MOST_RESETS:
                raise self._end(_CALM)
        self._stream_windows.pop(stream, None)
        self._waiting = deque(each for each in self._waiting if each[0] != stream)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & _ACK and payload):
            raise self._end(_FRAME_SIZE)
        if flags & _ACK:
            return
        for identifier, value in struct.iter_unpack(">HI", payload):
            if identifier == 4:
                if value > _MOST_WINDOW:
                    raise self._end(_FLOW)
                self._initial_window = value
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_waiting()

    # Sending under the client's windows

    def _grow(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise self._end(_FRAME_SIZE)
        more = int.from_bytes(payload, "big") & _MOST_WINDOW
        if more == 0 and stream == 0:
            raise self._end(_PROTOCOL)
        if stream == 0:
            self._window += more
            if self._window > _MOST_WINDOW:
                raise self._end(_FLOW)
        elif stream in self._streams or any(each[0] == stream for each in self._waiting):
            self._stream_windows[stream] = self._stream_windows.get(stream, 0) + more
        if self._waiting:
            self._send_waiting()

    def _wait(self, stream: int, message: bytes, window: int) -> None:
        self._stream_windows[stream] = window - self._initial_window
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, _RESPONSE))
        self._waiting.append((stream, _pack_message(0, len(message)) + message, b""))
        self._waiting_bytes += len(message) + 5
        if self._waiting_bytes > MOST_WAITING_BYTES:
            raise self._end(_CALM)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Sends what the windows allow, in turn; an answer that is held up by its own window lets others by."""
        held: deque[tuple[int, bytes, bytes]] = deque()
        while self._waiting and self._window > 0:
            stream, rest, _ = self._waiting.popleft()
            window = self._stream_windows.get(stream, 0) + self._initial_window
            while rest and self._window > 0 and window > 0:
                size = min(len(rest), self._window, window, LARGEST_FRAME)
                self._out.append(_frame(_DATA, 0, stream, rest[:size]))
                rest = rest[size:]
                self._window -= size
                window -= size
                self._waiting_bytes -= size
            if rest:
                self._stream_windows[stream] = window - self._initial_window
                held.append((stream, rest, b""))
                continue
            self._stream_windows.pop(stream, None)
            self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _TRAILERS_OK))
        self._waiting.extendleft(reversed(held))

    def _end(self, code: int) -> ConnectionEnded:
        self._out.append(_frame(_GOAWAY, 0, 0, struct.pack(">II", self._last_stream, code)))
        return ConnectionEnded(f"HTTP/2 error {code}")


class AcknowledgementFilter:
    """Leaves the first acknowledgement of SETTINGS out of a client's bytes."""

    def __init__(self) -> None:
        self.is_done = False
        self._has_preface = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What of `data`, and of what was kept back before, goes on."""
        data = self._rest + data
        position = 0
        if not self._has_preface:
            if len(data) < len(PREFACE):
                self._rest = data
                return b""
            position = len(PREFACE)
            self._has_preface = True
        while len(data) - position >= 9:
            high, low, kind, flags, _ = _unpack_head(data, position)
            length = high << 16 | low
            if kind == _SETTINGS and flags & _ACK and length == 0:
                self.is_done = True
                return data[:position] + data[position + 9 :]
            if len(data) - position - 9 < length:
                break
            position += 9 + length
        self._rest = data[position:]
        return data[:position]


def first_path(data: bytes) -> bytes | None:
    """The path of a connection's first request; None while it is not there, b"" where it is no HTTP/2."""
    connection = _Probe()
    try:
        connection.receive(data)
    except ConnectionEnded:
        return b""
    return connection.path


class _Probe(Connection):
    """A connection that is only looked at."""

    path: bytes | None = None

    def _open(self, flags: int, stream: int, block: bytes) -> Call | None:
        super()._open(flags, stream, block)
        if self.path is None:
            self.path = self._streams[stream].path if stream in self._streams else b""
        return None


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _pack_head(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _percent(text: str) -> bytes:
    """grpc-message is percent-encoded UTF-8."""
    return b"".join(bytes([b]) if 0x20 <= b <= 0x7E and b != 0x25 else b"%%%02X" % b for b in text.encode())


GREETING = _frame(_SETTINGS, 0, 0, b"")
"""A server's preface that promises nothing."""
