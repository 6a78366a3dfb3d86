"""An origin's HTTP/2 side: one connection, many streams, each answered as the origin was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.support.behaviour import Answer, Behaviour, Close, Garbage, Hang, Hold, Partial, Reset
from tests.support.seen import Seen, echo
from tests.support.wire import Headers

_PREFACE_LEFT = b"PRI * HTTP/2.0\r\n\r\n"


class Http2Service:
    """Serves one connection whose preface's first part was already read."""

    def __init__(self, take: Callable[[Seen], Behaviour], record: Callable[[Seen], None], number: int, name: str):
        self._take = take
        self._record = record
        self._number = number
        self._name = name
        self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        )
        self._headers: dict[int, Headers] = {}
        self._trailers: dict[int, Headers] = {}
        self._bodies: dict[int, bytearray] = {}
        self._window = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._connection.initiate_connection()
        try:
            chunk = _PREFACE_LEFT
            while chunk:
                for event in self._connection.receive_data(chunk):
                    self._on(event)
                self._flush()
                await writer.drain()
                chunk = await reader.read(1 << 16)
        except h2.exceptions.ProtocolError:
            self._flush()
        finally:
            for task in self._answers:
                task.cancel()

    def _flush(self) -> None:
        self._writer.write(self._connection.data_to_send())

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._headers[event.stream_id] = tuple(event.headers)
                self._bodies[event.stream_id] = bytearray()
            case h2.events.DataReceived():
                self._bodies[event.stream_id] += event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self._trailers[event.stream_id] = tuple(event.headers)
            case h2.events.StreamEnded():
                task = asyncio.ensure_future(self._act(event.stream_id))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
            case h2.events.WindowUpdated():
                self._window.set()

    async def _act(self, stream: int) -> None:
        headers = self._headers.pop(stream)
        pseudo = dict(headers)
        seen = Seen(
            protocol="HTTP/2",
            request_line=b"",
            header_lines=(),
            method=pseudo[":method"],
            path=pseudo.get(":path", ""),
            headers=headers,
            body=bytes(self._bodies.pop(stream)),
            trailers=self._trailers.pop(stream, ()),
            connection=self._number,
        )
        self._record(seen)
        behaviour = self._take(seen)
        if isinstance(behaviour, Hold):
            await behaviour.wait()
            behaviour = behaviour.then
        try:
            await self._do(stream, behaviour, echo(seen, self._name))
        except h2.exceptions.ProtocolError:
            return  # the stream is gone: its client did not wait
        self._flush()

    async def _do(self, stream: int, behaviour: Behaviour, echoed: bytes) -> None:
        match behaviour:
            case Answer():
                await self._answer(stream, behaviour, echoed)
            case Reset():
                self._connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case Partial():
                self._connection.send_headers(stream, [(":status", "200"), ("content-length", str(behaviour.length))])
                self._connection.send_data(stream, b"x" * behaviour.sent)
                self._connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case Garbage():
                self._writer.write(behaviour.data)
                self._writer.close()
            case Close():
                self._writer.close()
            case Hang() | Hold():
                pass

    async def _answer(self, stream: int, answer: Answer, echoed: bytes) -> None:
        if answer.after_s:
            await asyncio.sleep(answer.after_s)
        body = echoed if answer.body is None else answer.body
        headers = [(":status", str(answer.status)), *answer.headers]
        if not any(name == "content-type" for name, _ in headers):
            headers.append(("content-type", "application/json"))
        self._connection.send_headers(stream, headers, end_stream=not body and not answer.trailers)
        await self._send(stream, body, is_last=not answer.trailers)
        if answer.trailers:
            self._connection.send_headers(stream, answer.trailers, end_stream=True)

    async def _send(self, stream: int, body: bytes, *, is_last: bool) -> None:
        left = memoryview(body)
        while left:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room <= 0:
                self._window.clear()
                self._flush()
                await self._window.wait()
                continue
            part, left = left[:room], left[room:]
            self._connection.send_data(stream, bytes(part), end_stream=is_last and not left)
