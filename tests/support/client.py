"""An HTTP client that sends what it is told, tidies nothing, and uses a connection of its own for every request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.support.wire import MAX_HEAD_BYTES, ClosedError, Headers, encode, read_body, read_head

TIMEOUT_S = 20.0


class StreamResetError(ConnectionError):
    """The HTTP/2 stream, or its connection, was ended by the other side with an error code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a client got."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers = ()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to connect: loopback port, or a Unix socket's path."""

    port: int = 0
    path: str = ""

    async def connect(self, tls: ssl.SSLContext | None = None, server_name: str | None = None):  # type: ignore[no-untyped-def]
        named = server_name if tls else None
        if self.path:
            return await asyncio.open_unix_connection(self.path, limit=MAX_HEAD_BYTES, ssl=tls, server_hostname=named)
        return await asyncio.open_connection(
            "127.0.0.1", self.port, limit=MAX_HEAD_BYTES, ssl=tls, server_hostname=named
        )


async def request(
    address: Address,
    method: str,
    target: str,
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    host: str = "gateway.test",
    http2: bool = False,
    trailers: Headers = (),
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Response:
    """One request, one response. `headers` are sent as given; `host` and, for a body, its length are added."""
    given = tuple(headers)
    async with asyncio.timeout(timeout_s):
        if http2:
            scheme = "https" if tls else "http"
            pseudo = ((":method", method), (":scheme", scheme), (":authority", host), (":path", target))
            return await http2_exchange(address, (*pseudo, *given), body, trailers=trailers, tls=tls, server_name=host)
        names = {name.lower() for name, _ in given}
        added: list[tuple[str, str]] = [] if "host" in names else [("host", host)]
        if (body or method in {"POST", "PUT", "PATCH"}) and not names & {"content-length", "transfer-encoding"}:
            added.append(("content-length", str(len(body))))
        message = encode(f"{method} {target} HTTP/1.1", (*added, *given), body)
        return await raw(address, message, method=method, tls=tls, server_name=host, timeout_s=timeout_s)


async def raw(
    address: Address,
    message: bytes,
    *,
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Response:
    """Send these bytes and read one response. Raises ClosedError where the other end closed without answering."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await address.connect(tls, server_name)
        try:
            writer.write(message)
            return await read_response(reader, method=method)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ClosedError("reset by the other end") from error
        finally:
            writer.close()


class Connection:
    """A kept-open HTTP/1.1 connection: `async with Connection(address) as one: await one.request("GET", "/")`."""

    def __init__(self, address: Address):
        self._address = address

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await self._address.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def request(self, method: str, target: str, *, host: str = "gateway.test", headers: Headers = ()) -> Response:
        """One bodiless request, its answer read whole."""
        self._writer.write(encode(f"{method} {target} HTTP/1.1", (("host", host), *headers)))
        async with asyncio.timeout(TIMEOUT_S):
            return await read_response(self._reader, method=method)


async def read_response(reader: asyncio.StreamReader, *, method: str = "GET") -> Response:
    """The next final response on a connection; 1xx before it are passed over, but for 101."""
    while True:
        head = await read_head(reader)
        status = int(head.start_line.split(b" ")[1])
        if status >= 200 or status == 101:
            break
    body, trailers = (b"", ()) if _is_bodiless(method, status) else await read_body(reader, head, until_close=True)
    return Response(status=status, headers=head.headers, body=body, trailers=trailers)


async def http2_exchange(
    address: Address,
    headers: Headers,
    body: bytes = b"",
    *,
    trailers: Headers = (),
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Response:
    """One HTTP/2 stream with exactly these header fields, pseudo-headers included. Raises StreamResetError."""
    reader, writer = await address.connect(tls, server_name)
    config = h2.config.H2Configuration(
        client_side=True,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
        header_encoding="latin-1",
    )
    connection = h2.connection.H2Connection(config)
    try:
        connection.initiate_connection()
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, headers, end_stream=not body and not trailers)
        upload = _Upload(connection, stream, body, trailers)
        upload.send()
        writer.write(connection.data_to_send())
        return await _read_stream(connection, upload, reader, writer)
    finally:
        writer.close()


class _Upload:
    """A request's body on its way, as far as flow control lets it, and the trailers after it."""

    def __init__(self, connection: h2.connection.H2Connection, stream: int, body: bytes, trailers: Headers):
        self._connection = connection
        self._stream = stream
        self._left = body
        self._trailers = trailers

    def send(self) -> None:
        while self._left:
            window = self._connection.local_flow_control_window(self._stream)
            room = min(window, self._connection.max_outbound_frame_size)
            if room <= 0:
                return
            part, self._left = self._left[:room], self._left[room:]
            self._connection.send_data(self._stream, part, end_stream=not self._left and not self._trailers)
        if self._trailers:
            self._connection.send_headers(self._stream, self._trailers, end_stream=True)
            self._trailers = ()


async def _read_stream(
    connection: h2.connection.H2Connection,
    upload: _Upload,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> Response:
    received: Headers = ()
    trailers: Headers = ()
    body = bytearray()
    while True:
        chunk = await reader.read(1 << 16)
        if not chunk:
            raise ClosedError("closed before the stream ended")
        for event in connection.receive_data(chunk):
            match event:
                case h2.events.ResponseReceived():
                    received = tuple(event.headers)
                case h2.events.TrailersReceived():
                    trailers = tuple(event.headers)
                case h2.events.DataReceived():
                    body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.WindowUpdated():
                    # An answer may come, and end the stream, before the body was sent.
                    with contextlib.suppress(h2.exceptions.StreamClosedError):
                        upload.send()
                case h2.events.StreamEnded():
                    status = int(dict(received)[":status"])
                    return Response(status=status, headers=received[1:], body=bytes(body), trailers=trailers)
                case h2.events.StreamReset() | h2.events.ConnectionTerminated() if event.error_code:
                    raise StreamResetError(f"{type(event).__name__} with code {event.error_code}")
        writer.write(connection.data_to_send())


def _is_bodiless(method: str, status: int) -> bool:
    return method == "HEAD" or status in {101, 204, 304}
