"""One gRPC stream: reads requests into the state machine, writes what it says, until either side ends.

The writer asks the machine for a response only when the last one is on its way, so a slow client holds up nobody and
nothing queues for it. This is the shell of `stream`: it has the clock and the task, and no rule of the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc

from controlplane.xds.codec import Encoder, delta_request, sotw_request
from controlplane.xds.protocol import Node, ProtocolError, Variant
from controlplane.xds.stream import Stream
from serving.server import Call


class Owner(Protocol):
    """What a session tells the control plane it belongs to."""

    def joined(self, session: Session) -> None:
        """The client said who it is."""

    def quiet(self, session: Session) -> None:
        """There is nothing to say to the client now: verdicts, acknowledgements and gates may have changed."""

    def left(self, session: Session) -> None: ...


class Session:
    """One client's stream, as long as it lasts."""

    def __init__(
        self,
        stream: Stream,
        owner: Owner,
        encoder: Encoder,
        clock: Callable[[], float],
        peer: str,
        identity: frozenset[str] = frozenset(),
    ) -> None:
        self.stream = stream
        self.peer = peer
        self.identity = identity
        self.began = clock()
        self.heard_at = self.began
        self.bytes_sent = 0
        self.responses = 0
        self.nacks = 0
        self.drifted_to: Node | None = None
        """Who the client says it is since it said something else."""
        self.revision = ""
        """The newest revision of which this client has accepted everything it asks for."""
        self.revision_at: float | None = None
        self.is_settled = False
        """The stream was settled when it was looked at last."""
        self._owner = owner
        self._encoder = encoder
        self._clock = clock
        self._wake = asyncio.Event()
        self._joined_as: Node | None = None
        self._is_over = False
        self._refusal = ""

    @property
    def is_refusing(self) -> bool:
        """Something that it should have is not offered to it, for what it said."""
        return any(channel.pinned for channel in self.stream.channels.values())

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def end(self) -> None:
        self._is_over = True
        self._wake.set()

    def refuse(self, reason: str) -> None:
        """Ends with FAILED_PRECONDITION: nothing of what is served is for this client."""
        self._refusal = reason
        self.end()

    async def run(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The responses, one at a time. Ends with INVALID_ARGUMENT when the client breaks the protocol."""
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self.end())
        try:
            while not self._is_over:
                self._wake.clear()
                now = self._clock()
                response = self.stream.next(now)
                if response is None:
                    self._owner.quiet(self)
                    await self._sleep(now)
                    continue
                body = self._encoder.encode(response)
                self.bytes_sent += len(body)
                self.responses += 1
                yield body
            if self._refusal:
                await call.abort(grpc.StatusCode.FAILED_PRECONDITION, self._refusal)
            if reading.done() and not reading.cancelled():
                broken = reading.exception()
                if isinstance(broken, ProtocolError):
                    await call.abort(grpc.StatusCode.INVALID_ARGUMENT, str(broken))
        finally:
            reading.cancel()
            self._owner.left(self)

    async def _sleep(self, now: float) -> None:
        wake_at = self.stream.wake_at()
        if wake_at is None:
            await self._wake.wait()
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, wake_at - now), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        is_delta = self.stream.variant is Variant.DELTA
        async for body in requests:
            request = delta_request(body, self.stream.type_url) if is_delta else sotw_request(body)
            now = self._clock()
            self.heard_at = now
            if request.error is not None:
                self.nacks += 1
            self.stream.receive(request, now)
            if request.node and self.stream.node and self.stream.node_drifted and request.node != self.stream.node:
                self.drifted_to = request.node
            if self.stream.node is not None and self.stream.node != self._joined_as:
                self._joined_as = self.stream.node
                self._owner.joined(self)
            self._wake.set()
