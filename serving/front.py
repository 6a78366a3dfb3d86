"""Two servers behind one address: hot methods for the lean one, everything else for the general one.

A connection whose first request is for a hot method is served by `serving.http2`. Any other (health, reflection,
streams) is passed on whole to the general server on a socket of its own, so that nothing is missing on the address
clients know. TLS is left to the general server altogether.

Some clients ask nothing before they have the server's SETTINGS. They are greeted with an empty one, which promises
nothing that either server would not keep; should the connection then be passed on, the acknowledgement of that greeting
is taken out, for the general server never sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import structlog

from serving.address import Address, TcpAddress, UnixAddress
from serving.hpack import CompressionError, PathReader
from serving.http2 import PREFACE, Handler, UnaryServer
from serving.server import remove_stale_socket

LONGEST_OPENING: Final = 128 << 10
OPENING_S: Final = 20.0
GREETING: Final = b"\0\0\0\4\0\0\0\0\0"
"""An empty SETTINGS frame."""

_HIGH_WATER: Final = 1 << 20
_HEADERS, _SETTINGS, _CONTINUATION = 1, 4, 9
_ACK, _END_HEADERS, _PADDED, _HAS_PRIORITY = 0x1, 0x4, 0x8, 0x20

_log = structlog.get_logger("serving.front")


@runtime_checkable
class Stream(Protocol):
    """What is used of a transport. uvloop's are no subclasses of asyncio's."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None) -> None: ...
    def get_extra_info(self, name: str) -> socket.socket | None: ...


class Front:
    """Serves `handlers`, by their full paths, itself; `others` is the socket file of the general server."""

    def __init__(self, handlers: Mapping[str, Handler], others: Path, *, socket_mode: int = 0o600) -> None:
        self.others = others
        self.lean = UnaryServer(handlers)
        self.paths = frozenset(path.encode() for path in handlers)
        self.is_draining = False
        self.waiting: set[_Opening] = set()
        self._socket_mode = socket_mode
        self._servers: list[asyncio.Server] = []
        self._sockets: list[tuple[Path, int]] = []

    async def start(self, address: Address) -> Address:
        """Listens on `address`; the one with the port the system chose. Raises OSError."""
        loop = asyncio.get_running_loop()
        match address:
            case UnixAddress(path):
                remove_stale_socket(path)
                server = await loop.create_unix_server(lambda: _Opening(self), str(path), backlog=1024)
                path.chmod(self._socket_mode)
                self._sockets.append((path, path.stat().st_ino))
                bound: Address = address
            case TcpAddress(host, port):
                server = await loop.create_server(lambda: _Opening(self), host, port, backlog=1024)
                bound = TcpAddress(host, server.sockets[0].getsockname()[1])
        self._servers.append(server)
        return bound

    async def drain(self, grace_s: float) -> None:
        """Accepts no more, and gives calls in flight `grace_s` to finish. The general server's owner drains that."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        for opening in tuple(self.waiting):
            opening.close()
        await self.lean.drain(grace_s)
        for path, inode in self._sockets:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:
                    path.unlink()


class _Opening(asyncio.Protocol):
    """A connection until it is known whose it is; afterwards, one end of those that are passed on."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: Stream | None = None
        self._base: asyncio.BaseTransport | None = None  # the same, as asyncio calls it
        self._opening = b""
        self._is_greeted = False
        self._passing: asyncio.Task[None] | None = None
        self._other: _Other | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, Stream):
            raise TypeError("not a stream")
        self._transport, self._base = transport, transport
        transport.set_write_buffer_limits(_HIGH_WATER)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._front.waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(OPENING_S, self.close)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.send(data)
            return
        self._opening += data
        if self._passing is None:
            self._look()

    def connection_lost(self, failure: Exception | None) -> None:
        self._settle()
        if self._other is not None:
            self._other.close()

    def pause_writing(self) -> None:
        """The client does not read: what it is sent has to wait at the other server."""
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.resume()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _look(self) -> None:
        path = first_path(self._opening)
        if path is None and len(self._opening) < LONGEST_OPENING:
            if not self._is_greeted and len(self._opening) >= len(PREFACE):
                self._is_greeted = True
                self.write(GREETING)
            return
        if path in self._front.paths and self._transport and self._base and not self._front.is_draining:
            connection = self._front.lean.connection()
            self._transport.set_protocol(connection)
            self._settle()
            connection.connection_made(self._base)
            connection.data_received(self._opening)
        else:
            self._passing = asyncio.get_running_loop().create_task(self._pass_on())

    def _settle(self) -> None:
        self._front.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    async def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_unix_connection(lambda: _Other(self), str(self._front.others))
        except OSError as failure:
            _log.warning("a connection could not be passed on", error=str(failure))
            self.close()
            return
        self._settle()
        if self._transport is None or self._transport.is_closing():
            other.close()
            return
        if self._is_greeted:
            other.drop_acknowledgement()
        other.send(self._opening)
        self._opening = b""
        self._other = other


class _Other(asyncio.Protocol):
    """The general server's end of a connection that is passed on."""

    def __init__(self, client: _Opening) -> None:
        self._client = client
        self._transport: Stream | None = None
        self._filter: Callable[[bytes], bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, Stream):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, failure: Exception | None) -> None:
        self._client.close()

    def drop_acknowledgement(self) -> None:
        """Leaves out the next acknowledgement of SETTINGS."""
        kept = AcknowledgementFilter()
        self._filter = kept.feed

    def send(self, data: bytes) -> None:
        if self._filter is not None:
            data = self._filter(data)
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class AcknowledgementFilter:
    """Leaves the first acknowledgement of SETTINGS out of a client's bytes, which begin with the preface."""

    def __init__(self) -> None:
        self._is_done = False
        self._has_preface = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What of `data`, and of what was kept back before, goes on."""
        if self._is_done:
            return data
        data = self._rest + data
        at = 0
        if not self._has_preface:
            if len(data) < len(PREFACE):
                self._rest = data
                return b""
            at = len(PREFACE)
            self._has_preface = True
        for kind, flags, start, end in _frames(data, at):
            if kind == _SETTINGS and flags & _ACK:
                self._is_done = True
                return data[: start - 9] + data[end:]
            at = end
        self._rest = data[at:]
        return data[:at]


def first_path(opening: bytes) -> bytes | None:
    """The path of a connection's first request; None while it is not there, b"" where it is no HTTP/2."""
    if not opening.startswith(PREFACE):
        return None if PREFACE.startswith(opening) else b""
    block = b""
    for kind, flags, start, end in _frames(opening, len(PREFACE)):
        if kind not in (_HEADERS, _CONTINUATION):
            continue
        payload = opening[start:end]
        if kind == _HEADERS and flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]] if payload else b""
        if kind == _HEADERS and flags & _HAS_PRIORITY:
            payload = payload[5:]
        block += payload
        if flags & _END_HEADERS:
            try:
                return PathReader().path(block) or b""
            except CompressionError:
                return b""
    return None


def _frames(data: bytes, at: int) -> Iterator[tuple[int, int, int, int]]:
    """The whole frames from `at`: kind, flags, and where the payload begins and ends."""
    while len(data) - at >= 9:
        start = at + 9
        end = start + int.from_bytes(data[at : at + 3], "big")
        if end > len(data):
            return
        yield data[at + 3], data[at + 4], start, end
        at = end
