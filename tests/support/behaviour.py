"""What an origin can be told to do with a request, as values."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field

from tests.support.wire import Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer with this; without a body, with the request as JSON."""

    status: int = 200
    headers: Headers = ()
    body: bytes | None = None
    trailers: Headers = ()
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with RST (HTTP/2: the stream, with INTERNAL_ERROR) in place of an answer."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection politely in place of an answer."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Answer with bytes that are not HTTP (HTTP/2: they end the connection)."""

    data: bytes = b"\x00\x01 this is not HTTP\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """Promise `length` bytes, send `sent` of them, then reset."""

    length: int = 1000
    sent: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Answer `then` once the test calls `release()`."""

    then: Answer = field(default_factory=Answer)
    _released: Future[None] = field(default_factory=Future)

    def release(self) -> None:
        if not self._released.done():
            self._released.set_result(None)

    async def wait(self) -> None:
        # Shielded, as one request that gives up must not cancel what the others wait for.
        await asyncio.shield(asyncio.wrap_future(self._released))


Behaviour = Answer | Reset | Close | Hang | Garbage | Partial | Hold
