"""`Load` over HTTP/2: several streams at once on each connection, and GOAWAY taken as the specification says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events

from tests.support.client import StreamResetError
from tests.support.load import HOST, Load
from tests.support.wire import ClosedError

_STREAMS = 3
_FRAME_HEAD = 9
_GOAWAY = 0x7


class Http2Load(Load):
    """As `Load`. After a GOAWAY without error no stream is begun on the connection; those under way must be answered.

    A stream that is reset or left out by a GOAWAY is a failure, and so is a connection that closes before its answers.
    """

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        while connection.began or not (self._ending or connection.is_leaving):
            while len(connection.began) < _STREAMS and not (self._ending or connection.is_leaving):
                connection.begin(HOST, next(self._paths), self._headers)
            for status, body, took_s in await connection.answers():
                self.slowest_s = max(self.slowest_s, took_s)
                self._answered(status, (), body)


class _Connection:
    """The h2 library takes a GOAWAY for the end of the connection, so these frames are kept from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.began: dict[int, float] = {}
        self.is_leaving = False
        self._reader = reader
        self._writer = writer
        self._statuses: dict[int, int] = {}
        self._bodies: dict[int, bytearray] = {}
        self._unread = bytearray()
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self._h2.initiate_connection()

    def begin(self, host: str, path: str, headers: tuple[tuple[str, str], ...]) -> None:
        stream = self._h2.get_next_available_stream_id()
        pseudo = ((":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path))
        self._h2.send_headers(stream, (*pseudo, *headers), end_stream=True)
        self.began[stream] = time.monotonic()

    async def answers(self) -> list[tuple[int, bytes, float]]:
        """The streams that the next bytes end: status, body, seconds. Raises a ConnectionError for one that fails."""
        self._writer.write(self._h2.data_to_send())
        chunk = await self._reader.read(1 << 16)
        if not chunk:
            raise ClosedError(f"closed with {len(self.began)} streams unanswered")
        self._unread += chunk
        ended: list[tuple[int, bytes, float]] = []
        for frame in self._frames():
            for event in self._h2.receive_data(frame):
                match event:
                    case h2.events.ResponseReceived():
                        self._statuses[event.stream_id] = int(dict(event.headers)[":status"])
                    case h2.events.DataReceived():
                        self._bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.StreamEnded(stream_id=stream):
                        body = bytes(self._bodies.pop(stream, b""))
                        ended.append((self._statuses.pop(stream), body, time.monotonic() - self.began.pop(stream)))
                    case h2.events.StreamReset():
                        raise StreamResetError(f"stream reset with code {event.error_code}")
        return ended

    def _frames(self) -> Iterator[bytes]:
        """Whole frames, without the GOAWAYs."""
        while len(self._unread) >= _FRAME_HEAD:
            size = _FRAME_HEAD + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < size:
                return
            frame = bytes(self._unread[:size])
            del self._unread[:size]
            if frame[3] == _GOAWAY:
                self._leave(frame)
            else:
                yield frame

    def _leave(self, frame: bytes) -> None:
        self.is_leaving = True
        last, code = int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")
        if code or any(stream > last for stream in self.began):
            raise StreamResetError(f"GOAWAY with code {code} after stream {last}; open are {sorted(self.began)}")
