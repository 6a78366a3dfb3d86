"""A service behind the gateway that does as it is told and remembers exactly what reached it.

Real sockets on a loopback port, on an event loop in a thread of its own, so that it answers whatever the test's loop is
doing. It speaks HTTP/1.1, HTTP/2 with prior knowledge, either over TLS, and echoes WebSocket messages. Unless told
otherwise it answers 200 with the request as JSON:
`{"origin", "method", "path", "protocol", "headers": [[name, value], ...], "body"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from functools import cache
from typing import TypeVar

from tests.support.behaviour import Answer, Behaviour, Close, Garbage, Hang, Hold, Partial, Reset
from tests.support.origin_http2 import Http2Service
from tests.support.seen import Seen, echo
from tests.support.waiting import NeverHappenedError, free_port, until
from tests.support.websocket import echo_websocket
from tests.support.wire import MAX_HEAD_BYTES, Head, Headers, encode, read_body, read_head

T = TypeVar("T")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
_HEALTH_CHECKER = "Envoy/HC"


class Origin:
    """One listening service. Everything here may be called from a test, whatever loop or thread it runs on."""

    def __init__(self, name: str = "origin", *, port: int = 0, tls: ssl.SSLContext | None = None):
        self.name = name
        self.port = port or free_port()
        self._tls = tls
        self._seen: list[Seen] = []
        self._by_path: dict[str, Behaviour] = {}
        self._next: deque[Behaviour] = deque()
        self._always: Behaviour = Answer()
        self._server: asyncio.Server | None = None
        self._open: dict[int, tuple[asyncio.Task[None], asyncio.StreamWriter]] = {}
        self._connections = 0

    # What a test says

    def always(self, behaviour: Behaviour) -> None:
        """Do this with every request that no path or `next` speaks of."""
        self._always = behaviour

    def on(self, path: str, behaviour: Behaviour) -> None:
        """Do this with requests for the path (without its query), until `forget`."""
        self._by_path[path] = behaviour

    def next(self, *behaviours: Behaviour) -> None:
        """Do these with the next requests, one each, health checks aside; then as before."""
        self._next.extend(behaviours)

    def forget(self) -> None:
        """Answer everything again, with nothing seen."""
        self._by_path.clear()
        self._next.clear()
        self._always = Answer()
        self._seen.clear()

    def refuse(self) -> None:
        """Refuse connections from now on, and end those there are."""
        _on_loop(self._stop())

    def accept(self) -> None:
        """Listen again on the same port."""
        _on_loop(self._start())

    start = accept
    stop = refuse

    # What a test asks

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Seen]:
        """Every request seen, oldest first, without Envoy's health checks."""
        return [seen for seen in tuple(self._seen) if seen.value("user-agent") != _HEALTH_CHECKER]

    @property
    def health_checks(self) -> list[Seen]:
        return [seen for seen in tuple(self._seen) if seen.value("user-agent") == _HEALTH_CHECKER]

    @property
    def last(self) -> Seen:
        assert self.requests, f"{self.name} saw no request"
        return self.requests[-1]

    async def saw(self, count: int, *, within_s: float = 15.0) -> list[Seen]:
        """Wait until at least `count` requests came."""

        def enough() -> list[Seen]:
            return self.requests if len(self.requests) >= count else []

        try:
            return await until(f"{count} requests at {self.name}", enough, within_s=within_s)
        except NeverHappenedError:
            raise NeverHappenedError(f"{self.name} saw {len(self.requests)} requests, not {count}") from None

    # The service

    async def _start(self) -> None:
        if self._server is not None:
            return
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=MAX_HEAD_BYTES, ssl=self._tls, backlog=1024
        )

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writer in tuple(self._open.values()):
            task.cancel()
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        task = asyncio.current_task()
        assert task is not None
        self._open[number] = (task, writer)
        try:
            await self._converse(reader, writer, number)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, asyncio.LimitOverrunError):
            pass
        finally:
            del self._open[number]
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        while True:
            head = await read_head(reader)
            if head.start_line + b"\r\n\r\n" == _HTTP2_PREFACE:
                return await Http2Service(self._take, self._record, number, self.name).run(reader, writer)
            if (head.value("upgrade") or "").lower() == "websocket":
                self._record(_seen_http1(head, b"", (), number))
                return await echo_websocket(head, reader, writer)
            body, trailers = await read_body(reader, head)
            seen = _seen_http1(head, body, trailers, number)
            self._record(seen)
            if not await _act_http1(self._take(seen), seen, writer, self.name):
                return None

    def _record(self, seen: Seen) -> None:
        self._seen.append(seen)

    def _take(self, seen: Seen) -> Behaviour:
        path = seen.path.partition("?")[0]
        if self._next and seen.value("user-agent") != _HEALTH_CHECKER:
            return self._next.popleft()
        return self._by_path.get(path, self._always)


def _seen_http1(head: Head, body: bytes, trailers: Headers, connection: int) -> Seen:
    method, _, rest = head.start_line.decode("latin-1").partition(" ")
    return Seen(
        protocol="HTTP/1.1",
        request_line=head.start_line,
        header_lines=head.header_lines,
        method=method,
        path=rest.rpartition(" ")[0],
        headers=head.headers,
        body=body,
        trailers=trailers,
        connection=connection,
    )


async def _act_http1(behaviour: Behaviour, seen: Seen, writer: asyncio.StreamWriter, name: str) -> bool:
    """Whether the connection may be used again."""
    match behaviour:
        case Answer():
            await _answer_http1(behaviour, seen, writer, name)
            return True
        case Hold():
            await behaviour.wait()
            await _answer_http1(behaviour.then, seen, writer, name)
            return True
        case Hang():
            await asyncio.Event().wait()
        case Garbage():
            writer.write(behaviour.data)
            await writer.drain()
        case Partial():
            head = encode("HTTP/1.1 200 OK", (("content-length", str(behaviour.length)),))
            writer.write(head + b"x" * behaviour.sent)
            await writer.drain()
        case Reset():
            # RST in place of FIN: lingering on for no time at all.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        case Close():
            pass
    return False


async def _answer_http1(answer: Answer, seen: Seen, writer: asyncio.StreamWriter, name: str) -> None:
    if answer.after_s:
        await asyncio.sleep(answer.after_s)
    body = echo(seen, name) if answer.body is None else answer.body
    given = {key.lower() for key, _ in answer.headers}
    headers = list(answer.headers)
    if answer.body is None and "content-type" not in given:
        headers.append(("content-type", "application/json"))
    if answer.trailers:
        headers.append(("transfer-encoding", "chunked"))
        ends = "".join(f"{key}: {value}\r\n" for key, value in answer.trailers).encode("latin-1")
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n" + ends + b"\r\n"
    elif not given & {"content-length", "transfer-encoding"} and answer.status not in {204, 304}:
        headers.append(("content-length", str(len(body))))
    if seen.method == "HEAD" or answer.status in {204, 304}:
        body = b""
    writer.write(encode(f"HTTP/1.1 {answer.status} Status", tuple(headers), body))
    with contextlib.suppress(ConnectionError):
        await writer.drain()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="origins", daemon=True).start()
    return loop


def _on_loop(work: Coroutine[object, object, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(10)
