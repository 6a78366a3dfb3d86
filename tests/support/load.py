"""Steady traffic on kept-open connections, with every answer counted: what a change under load must not disturb."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence

from tests.support.client import Address, read_response
from tests.support.waiting import until
from tests.support.wire import Headers, encode

HOST = "gateway.test"
_GRACE_S = 10.0


class Load:
    """`async with Load(address, ["/a"]) as load:` runs until the block ends; then `load.outcomes` is complete.

    An outcome is a status code as text, or the name of what went wrong. A connection that the gateway announced to
    close (`connection: close`) is opened anew; one that closes unannounced is a failure, as a client would see it.
    """

    def __init__(
        self,
        address: Address,
        paths: Sequence[str],
        *,
        connections: int = 6,
        headers: tuple[tuple[str, str], ...] = (),
    ):
        self.outcomes: Counter[str] = Counter()
        self.first_failures: list[str] = []
        self.slowest_s = 0.0
        self._address = address
        self._paths = itertools.cycle(paths)
        self._headers = headers
        self._connections = connections
        self._ending = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        _, late = await asyncio.wait(self._workers, timeout=_GRACE_S)
        for worker in late:
            worker.cancel()
            self._fail("unanswered", f"a request was not answered within {_GRACE_S:g} s of the end")

    @property
    def total(self) -> int:
        return self.outcomes.total()

    @property
    def failures(self) -> dict[str, int]:
        """Every outcome but 200."""
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "200"}

    async def more(self, count: int, *, within_s: float = 30.0) -> None:
        """Wait until this many more requests were answered."""
        goal = self.total + count
        await until(f"{goal} requests", lambda: self.total >= goal, within_s=within_s)

    def _fail(self, outcome: str, text: str) -> None:
        self.outcomes[outcome] += 1
        if len(self.first_failures) < 20:
            self.first_failures.append(text)

    def _answered(self, status: int, headers: Headers, body: bytes) -> None:
        if status == 200:
            self.outcomes["200"] += 1
        else:
            self._fail(str(status), f"{status} {dict(headers)} {body[:300]!r}")

    async def _work(self) -> None:
        while not self._ending:
            try:
                reader, writer = await self._address.connect()
            except OSError as error:
                self._fail(type(error).__name__, f"connecting: {error}")
                await asyncio.sleep(0.01)
                continue
            try:
                await self._converse(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._fail(type(error).__name__, f"on an open connection: {error}")
            finally:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after another until the gateway closes the connection, or the end."""
        while not self._ending:
            started = time.monotonic()
            writer.write(encode(f"GET {next(self._paths)} HTTP/1.1", (("host", HOST), *self._headers)))
            response = await read_response(reader)
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)
            self._answered(response.status, response.headers, response.body)
            if response.header("connection") == "close":
                return
