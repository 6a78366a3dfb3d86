"""A gRPC server whose handlers take and return bytes, with what every server here needs around it.

Health, reflection, limits, keepalive, TLS, socket files and a graceful end are in this file, so that a service is a
table of methods. Handlers get raw bytes: who wants a message parses it, who has a serialised answer returns it.
It must not know any service.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from serving.address import Address, TcpAddress, UnixAddress
from serving.tls import TlsFiles, server_credentials

_log = structlog.get_logger("serving.server")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Call(Protocol):
    """What a handler may ask about the call it answers (the part of grpc.aio.ServicerContext that is used here)."""

    def peer(self) -> str: ...
    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def cancelled(self) -> bool: ...
    def done(self) -> bool: ...
    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn: ...


Unary = Callable[[bytes, Call], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A gRPC service: its full name (`envoy.service.auth.v3.Authorization`) and its methods by their short names.

    A unary handler is `async def check(request: bytes, call: Call) -> bytes`; a streaming one is an async generator,
    `async def stream(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]`.
    """

    name: str
    unary: Mapping[str, Unary] = field(default_factory=dict)
    stream: Mapping[str, Stream] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask of us at most."""

    message_bytes: int = 4 << 20
    metadata_bytes: int = 64 << 10
    streams_per_connection: int = 10_000
    concurrent_calls: int | None = None  # above it a call ends with RESOURCE_EXHAUSTED; None: no limit
    keepalive_s: float = 30
    keepalive_timeout_s: float = 10


class InsecureAddressError(OSError):
    """Plain text was asked for on an address that other machines can reach."""


def check_plain(address: Address, *, allow_insecure: bool) -> None:
    """Raises InsecureAddressError where plain text must not be served on `address`."""
    if not address.is_loopback and not allow_insecure:
        raise InsecureAddressError(
            f"{address}: plain text is served on loopback and Unix sockets only; "
            "give a certificate and key, or allow it (--allow-insecure yes)"
        )


class Server:
    """A server of `services`: `start` it on its addresses, `drain` it at the end.

    TLS is used on TCP when `tls` is given; a Unix socket is plain, its file mode says who may connect. Plain text on
    TCP is refused beyond loopback unless `allow_insecure`. `draining` is set when the end begins: long streams end.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        limits: Limits | None = None,
        tls: TlsFiles | None = None,
        allow_insecure: bool = False,
        socket_mode: int = 0o600,
    ) -> None:
        self.draining = asyncio.Event()
        self.bound: tuple[Address, ...] = ()
        self._names = [service.name for service in services]
        self._tls = tls
        self._allow_insecure = allow_insecure
        self._socket_mode = socket_mode
        self._sockets: list[tuple[Path, int]] = []  # with the inode, so that a successor's file is left alone
        limits = limits or Limits()
        self._grpc = grpc.aio.server(options=_options(limits), maximum_concurrent_rpcs=limits.concurrent_calls)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            [*self._names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME],
            self._grpc,
        )
        self._grpc.add_generic_rpc_handlers([_handler(service) for service in services])

    async def start(self, addresses: Sequence[Address], *, serving: bool = True) -> tuple[Address, ...]:
        """Listens on every address and returns them with the ports the system chose.

        With `serving=False` health says NOT_SERVING until `set_serving(True)`. Raises InsecureAddressError, or OSError
        naming the address that cannot be listened on.
        """
        for address in addresses:
            if self._tls is None:
                check_plain(address, allow_insecure=self._allow_insecure)
        self.bound = tuple([self._bind(address) for address in addresses])
        await self.set_serving(serving)
        await self._grpc.start()
        await asyncio.sleep(0)  # grpcio never ends a server that is stopped before its loop has run once
        _log.info("listening", addresses=[str(address) for address in self.bound], services=self._names)
        return self.bound

    async def set_serving(self, is_serving: bool) -> None:
        """What the health service says, for the whole server and for each service by name."""
        for name in ("", *self._names):
            await self._health.set(name, _SERVING if is_serving else _NOT_SERVING)

    async def drain(self, *, grace_s: float, notice_s: float = 0) -> None:
        """Ends gracefully: health says NOT_SERVING, new calls are refused after `notice_s` (the time clients get to
        look elsewhere), calls in flight get `grace_s` to finish and are then cancelled."""
        if self.draining.is_set():
            return
        self.draining.set()
        await self._health.enter_graceful_shutdown()
        if notice_s > 0:
            await asyncio.sleep(notice_s)
        await self._grpc.stop(grace_s)
        for path, inode in self._sockets:
            _unlink_if(path, inode)

    def _bind(self, address: Address) -> Address:
        match address:
            case UnixAddress():
                return self._bind_unix(address)
            case TcpAddress():
                try:
                    if self._tls is None:
                        port = self._grpc.add_insecure_port(address.target)
                    else:
                        port = self._grpc.add_secure_port(address.target, server_credentials(self._tls))
                except RuntimeError as failure:
                    raise OSError(f"{address}: cannot listen: {_why(address) or failure}") from failure
                return TcpAddress(address.host, port)

    def _bind_unix(self, address: UnixAddress) -> UnixAddress:
        remove_stale_socket(address.path)
        before = os.umask(0o777 & ~self._socket_mode)
        try:
            self._grpc.add_insecure_port(address.target)
        except RuntimeError as failure:
            raise OSError(f"{address}: cannot listen: {_why(address) or failure}") from failure
        finally:
            os.umask(before)
        address.path.chmod(self._socket_mode)
        self._sockets.append((address.path, address.path.stat().st_ino))
        return address


def _why(address: Address) -> str | None:
    """What stands in the way of listening there, asked of the system: gRPC does not tell. None: nothing any more."""
    try:
        match address:
            case UnixAddress(path):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.bind(str(path))
                path.unlink()
            case TcpAddress(host, port):
                family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                with socket.socket(family, kind) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(where)
    except OSError as failure:
        return "another process listens on it" if failure.errno == errno.EADDRINUSE else failure.strerror
    return None


def remove_stale_socket(path: Path) -> None:
    """Removes the socket file of a dead process. Raises OSError when something listens on it or it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"unix:{path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise OSError(f"unix:{path}: another process listens on it")


def _unlink_if(path: Path, inode: int) -> None:
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass  # gRPC may have removed it on its own


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", -1),  # what we send is ours: a large snapshot must not fail at the last step
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]


def _handler(service: Service) -> grpc.GenericRpcHandler:
    methods = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in service.unary.items()}
    methods |= {name: grpc.stream_stream_rpc_method_handler(handler) for name, handler in service.stream.items()}
    return grpc.method_handlers_generic_handler(service.name, methods)
