"""A server for the unary methods that are asked on every request: plain asyncio, much cheaper than general gRPC.

A connection whose first request is for one of the fast methods is served here. Any other connection (health,
reflection, streams, something unknown) is passed on whole to a general server on a socket of its own, so that nothing
is missing on the address clients know. TLS is left to the general server altogether.

Some clients ask nothing before they have the server's SETTINGS. They are greeted with an empty one, which promises
nothing that either server would not keep; should the connection then be passed on, the acknowledgement of that greeting
is taken out, for the general server never sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import structlog

from ratelimit.fast.http2 import (
    GREETING,
    PREFACE,
    AcknowledgementFilter,
    Call,
    Connection,
    ConnectionEnded,
    first_path,
)
from serving.address import Address, TcpAddress, UnixAddress
from serving.server import remove_stale_socket

Handle = Callable[[bytes], bytes | Awaitable[bytes]]
"""Answers a serialised request at once, or later. Raises CallError."""

LONGEST_OPENING = 256 << 10
OPENING_S = 20.0
_HIGH_WATER = 1 << 20

_log = structlog.get_logger("ratelimit.fast.server")


@runtime_checkable
class Stream(Protocol):
    """What is used of a stream's transport. uvloop's are no subclasses of asyncio's."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None) -> None: ...
    def get_extra_info(self, name: str) -> socket.socket | None: ...


class CallError(Exception):
    """Ends a call with a gRPC status: its number and a text for the caller."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class UnaryServer:
    """Serves `methods` by path (`/package.Service/Method`); `others` is the socket of the general server."""

    def __init__(self, methods: Mapping[str, Handle], others: Path, *, socket_mode: int = 0o600) -> None:
        self.methods = {path.encode(): handle for path, handle in methods.items()}
        self.others = others
        self.connections: set[_Protocol] = set()
        self._socket_mode = socket_mode
        self._servers: list[asyncio.Server] = []
        self._sockets: list[tuple[Path, int]] = []
        self.is_draining = False

    async def start(self, address: Address) -> Address:
        """Listens on `address`; the one with the port the system chose. Raises OSError."""
        loop = asyncio.get_running_loop()
        match address:
            case UnixAddress(path):
                remove_stale_socket(path)
                server = await loop.create_unix_server(lambda: _Protocol(self), str(path), backlog=1024)
                path.chmod(self._socket_mode)
                self._sockets.append((path, path.stat().st_ino))
                bound: Address = address
            case TcpAddress(host, port):
                server = await loop.create_server(lambda: _Protocol(self), host, port, backlog=1024)
                bound = TcpAddress(host, server.sockets[0].getsockname()[1])
        self._servers.append(server)
        return bound

    async def drain(self, *, grace_s: float) -> None:
        """Accepts no more connections or calls, and lets calls in flight finish for `grace_s`."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.drain()
        pending = [future for connection in self.connections for future in connection.later]
        if pending:
            await asyncio.wait(pending, timeout=grace_s)
        await asyncio.sleep(0)  # their answers are written in the turn after
        for connection in list(self.connections):
            connection.close()
        for path, inode in self._sockets:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:
                    path.unlink()


class _Protocol(asyncio.Protocol):
    """One client: its opening is looked at, then it is served here or passed on."""

    def __init__(self, server: UnaryServer) -> None:
        self._server = server
        self._transport: Stream | None = None
        self._opening = bytearray()
        self._connection: Connection | None = None
        self._other: _Other | None = None
        self._is_passing = False
        self._is_greeted = False
        self._later: set[asyncio.Future[bytes]] = set()
        self._is_flushing = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def later(self) -> Iterable[asyncio.Future[bytes]]:
        """The calls that are not answered yet."""
        return self._later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, Stream):
            raise TypeError("a stream is needed")
        self._transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(OPENING_S, self._opening_is_late)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._serve(self._connection, data)
        elif self._other is not None:
            self._other.send(data)
        else:
            self._opening += data
            if not self._is_passing:
                self._look()

    def connection_lost(self, failure: Exception | None) -> None:
        self._server.connections.discard(self)
        for future in self._later:
            future.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._other is not None:
            self._other.close()

    def pause_writing(self) -> None:
        """The client does not read: it is not asked for more until it does."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def drain(self) -> None:
        if self._connection is not None:
            self._connection.go_away()
            self._flush()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _opening_is_late(self) -> None:
        if self._connection is None and self._other is None and not self._is_passing:
            self.close()

    def _look(self) -> None:
        path = first_path(bytes(self._opening))
        if path is None and len(self._opening) < LONGEST_OPENING:
            if not self._is_greeted and len(self._opening) >= len(PREFACE):
                self._is_greeted = True
                self.write(GREETING)
            return
        if path in self._server.methods and not self._server.is_draining:
            opening, self._opening = bytes(self._opening), bytearray()
            self._connection = Connection()
            self._serve(self._connection, opening)
        else:
            self._is_passing = True
            task = asyncio.get_running_loop().create_task(self._pass_on())
            task.add_done_callback(lambda _: None)

    async def _pass_on(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_unix_connection(lambda: _Other(self), str(self._server.others))
        except OSError as failure:
            _log.warning("a connection could not be passed on", error=str(failure))
            self.close()
            return
        if self._transport is None or self._transport.is_closing():
            other.close()
            return
        if self._is_greeted:
            other.drop_acknowledgement()
        other.send(bytes(self._opening))
        self._opening.clear()
        self._other = other

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _serve(self, connection: Connection, data: bytes) -> None:
        try:
            for call in connection.receive(data):
                self._call(connection, call)
        except ConnectionEnded as end:
            _log.info("a connection was ended", reason=str(end))
            self.write(connection.output())
            self.close()
            return
        self._flush()

    def _call(self, connection: Connection, call: Call) -> None:
        handle = self._server.methods.get(call.path)
        if handle is None:
            # It began with a fast method: on a new connection this call comes first, and is passed on.
            connection.refuse(call.stream)
            return
        try:
            answer = handle(call.message)
        except CallError as error:
            connection.fail(call.stream, error.status, error.text)
            return
        except Exception:  # the boundary of the process: one call fails, the others go on
            _log.exception("a call failed")
            connection.fail(call.stream, 13, "internal error")
            return
        if isinstance(answer, bytes):
            connection.respond(call.stream, answer)
            return
        future = asyncio.ensure_future(answer)
        self._later.add(future)
        future.add_done_callback(lambda done: self._answered(connection, call.stream, done))

    def _answered(self, connection: Connection, stream: int, done: asyncio.Future[bytes]) -> None:
        self._later.discard(done)
        if done.cancelled():
            return
        failure = done.exception()
        try:
            if failure is None:
                connection.respond(stream, done.result())
            elif isinstance(failure, CallError):
                connection.fail(stream, failure.status, failure.text)
            else:
                _log.error("a call failed", exc_info=failure)
                connection.fail(stream, 13, "internal error")
        except ConnectionEnded:
            self.write(connection.output())
            self.close()
            return
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._connection is not None and (out := self._connection.output()):
            self.write(out)


class _Other(asyncio.Protocol):
    """The general server's end of a connection that is passed on."""

    def __init__(self, client: _Protocol) -> None:
        self._client = client
        self._transport: Stream | None = None
        self._filter: AcknowledgementFilter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, Stream):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, failure: Exception | None) -> None:
        self._client.close()

    def drop_acknowledgement(self) -> None:
        """Leaves out the next acknowledgement of SETTINGS."""
        self._filter = AcknowledgementFilter()

    def send(self, data: bytes) -> None:
        if self._filter is not None:
            data = self._filter.feed(data)
            if self._filter.is_done:
                self._filter = None
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
