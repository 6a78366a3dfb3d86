"""Where revocations are kept, and how every replica hears of them within a second.

In Redis they are a stream: each replica reads it from where it was, so that none is lost over a broken connection, and
a blocking read hands a new one over at once. Without Redis they are a file in the state folder that the workers of one
host append to and follow. Either way the index in memory is what requests are checked against; a store that is away
takes nothing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from extauthz.core.revocations import Revocation, Revocations
from extauthz.jwks import write_private
from extauthz.policy import MemoryRevocations, Policy, RedisRevocations
from serving.secret import Secret

LONGEST_S: Final = 31 * 86_400
POLL_S: Final = 0.25
BLOCK_MS: Final = 500
SILENCE_S: Final = 3.0
_FIELD: Final = "revocation"
_BATCH: Final = 10_000

_log = structlog.get_logger("extauthz.revocation")


class Store(Protocol):
    """Where revocations come from, and go to."""

    def problem(self) -> str | None: ...
    async def follow(self, index: Revocations) -> None: ...
    async def publish(self, revocation: Revocation) -> None: ...


class StoreUnavailable(Exception):  # noqa: N818
    """The revocation could not be stored: it is not in force, and whoever made it must know."""


def store_for(policy: Policy, folder: Path | None) -> Store:
    """The store a document asks for."""
    match policy.revocations:
        case MemoryRevocations():
            return FileStore(folder / "revocations.log" if folder is not None else None)
        case RedisRevocations() as settings:
            return RedisStore(
                settings.url, settings.prefix, snapshot=folder / "revocations.snapshot" if folder is not None else None
            )


class FileStore:
    """An append-only file, or nothing but memory when there is no folder."""

    def __init__(self, file: Path | None, *, wall: Callable[[], float] = time.time) -> None:
        self._file = file
        self._wall = wall
        self._read = 0
        self._inode = 0
        self._index: Revocations | None = None

    def problem(self) -> str | None:
        return None

    async def follow(self, index: Revocations) -> None:
        """Takes in what is in the file and what is appended to it, until cancelled."""
        self._index = index
        while True:
            self.poll()
            await asyncio.sleep(POLL_S)

    async def publish(self, revocation: Revocation) -> None:
        """In force here at once, and in the other workers within `POLL_S`. Raises StoreUnavailable."""
        if self._file is None:
            if self._index is not None:
                self._index.add([revocation], self._wall())
            return
        try:
            append(self._file, revocation)
        except OSError as error:
            raise StoreUnavailable(str(error)) from error
        self.poll()

    def poll(self) -> None:
        """Takes in what was appended since the last time."""
        if self._file is None or self._index is None:
            return
        try:
            status = self._file.stat()
            if status.st_ino != self._inode or status.st_size < self._read:
                self._inode, self._read = status.st_ino, 0
            if status.st_size == self._read:
                return
            with self._file.open("rb") as file:
                file.seek(self._read)
                lines, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return
        self._read += len(lines) + len(newline)
        self._index.add(_parsed(lines.splitlines()), self._wall())


def append(file: Path, revocation: Revocation) -> None:
    """Adds a line to a revocation file, whole, on disk. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, revocation.dump().encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


class RedisStore:
    """A stream in Redis, the same for every replica."""

    def __init__(
        self,
        url: Secret,
        prefix: str,
        *,
        snapshot: Path | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = f"{prefix}:stream"
        self._snapshot = snapshot
        self._wall = wall
        self._clock = clock
        self._heard = float("-inf")
        self._last_id = "0-0"
        self._redis: Redis = Redis.from_url(url.reveal(), socket_connect_timeout=1.0, socket_timeout=2.0, protocol=2)

    def problem(self) -> str | None:
        """Why revocations made now might not be known here, or None."""
        return None if self._clock() - self._heard < SILENCE_S else "the revocation store does not answer"

    async def follow(self, index: Revocations) -> None:
        """Takes in the stream from its beginning and then what is added, until cancelled."""
        self._restore(index)
        try:
            while True:
                try:
                    await self._read(index)
                except (RedisError, OSError, TimeoutError) as error:
                    if self.problem() is not None:
                        _log.warning("revocation store does not answer", error=str(error))
                    await asyncio.sleep(POLL_S)
        finally:
            with contextlib.suppress(RedisError, OSError):
                await self._redis.aclose()

    async def publish(self, revocation: Revocation) -> None:
        """Hands it to every replica. Raises StoreUnavailable."""
        oldest = int((self._wall() - LONGEST_S) * 1000)
        try:
            await self._redis.xadd(
                self._stream, {_FIELD: revocation.dump()}, minid=f"{max(0, oldest)}", approximate=True
            )
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error)) from error

    async def close(self) -> None:
        await self._redis.aclose()

    async def _read(self, index: Revocations) -> None:
        block = BLOCK_MS if self._heard > float("-inf") else None
        answer: object = await self._redis.xread({self._stream: self._last_id}, count=_BATCH, block=block)
        self._heard = self._clock()
        entries = list(_entries(answer))
        if not entries:
            return
        index.add(_parsed([line for _, line in entries]), self._wall())
        self._last_id = entries[-1][0]
        await asyncio.to_thread(self._keep, [one.dump() for one in index])

    def _restore(self, index: Revocations) -> None:
        if self._snapshot is None:
            return
        with contextlib.suppress(OSError):
            index.add(_parsed(self._snapshot.read_bytes().splitlines()), self._wall())

    def _keep(self, lines: list[str]) -> None:
        if self._snapshot is None:
            return
        try:
            write_private(self._snapshot, "\n".join(lines))
        except OSError as error:
            _log.warning("revocations not kept on disk", error=str(error))


def _entries(answer: object) -> Iterator[tuple[str, bytes]]:
    """The entries of an XREAD of one stream: ids and the text of their only field."""
    for _, entries in answer if isinstance(answer, list) else ():
        for entry_id, fields in entries:
            yield entry_id.decode(), fields.get(_FIELD.encode(), b"")


def _parsed(lines: list[bytes]) -> list[Revocation]:
    found: list[Revocation] = []
    for line in lines:
        try:
            found.append(Revocation.parse(line))
        except ValueError as error:
            _log.error("a revocation cannot be read", error=str(error))
    return found
