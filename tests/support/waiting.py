"""Waiting for a condition, with a limit and a sentence for the failure. Tests never sleep for a guess of time."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.01


class NeverHappenedError(AssertionError):
    """The condition a test waited for did not come true in time."""


async def until(what: str, condition: Callable[[], T | Awaitable[T]], *, within_s: float = 15.0) -> T:
    """The first truthy result of `condition`, asked again and again. Raises NeverHappenedError naming `what`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        result = await answer if inspect.isawaitable(answer) else answer
        if result:
            return result
        if time.monotonic() > deadline:
            raise NeverHappenedError(f"not within {within_s:g} s: {what} (last seen: {result!r})")
        await asyncio.sleep(_PAUSE_S)


def until_sync(what: str, condition: Callable[[], T], *, within_s: float = 15.0) -> T:
    """As `until`, for fixtures that run outside an event loop."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise NeverHappenedError(f"not within {within_s:g} s: {what} (last seen: {result!r})")
        time.sleep(_PAUSE_S)
    return result


def free_port() -> int:
    """A loopback port nobody listens on at this moment.

    Taken from below the ephemeral range: a port from `bind(0)` can become the source port of somebody's outgoing
    connection before its owner listens on it.
    """
    for offset in itertools.islice(_OFFSETS, 500):
        port = _LOWEST_PORT + offset % _PORTS
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NeverHappenedError("no free loopback port below the ephemeral range")


_LOWEST_PORT = 15000
_PORTS = 16000
_OFFSETS = itertools.count(random.SystemRandom().randrange(_PORTS))
