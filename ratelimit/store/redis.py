"""Counters in Redis 6.2 or later, shared by every replica: one Redis, Sentinel, or Cluster.

Everything that is asked within one turn of the event loop goes to Redis in one call of `take.lua` per slot, so that
the price of a round trip is shared; while calls are in flight, what comes meanwhile is gathered for the next one. The
time is Redis's own. A counter's key has one of a fixed number of hash tags, which spreads counters over a cluster's
nodes and lets one call decide many of them; with a single Redis there is one tag, hence one call.

A breaker guards callers: the first call that is not answered within `timeout_s` opens it, every waiting and every new
take fails at once with StoreDownError, and a probe in the background closes it again.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Protocol, runtime_checkable
from zlib import crc32

import structlog
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ratelimit.core.budget import Blocked, Code, Take, Taken

_log = structlog.get_logger("ratelimit.store")

SCRIPT = files("ratelimit.store").joinpath("take.lua").read_bytes()
DIGEST = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
PREFIX = b"causeway:rl:"
CLUSTER_TAGS = 64
MOST_PER_CALL = 256
MOST_IN_FLIGHT = 2
MOST_PENDING = 50_000
PROBE_S = 0.1
HELD_UP_S = 0.005
REPLICA_TTL_S = 5

_ANSWER = struct.Struct("<Bddd")


class StoreDownError(Exception):
    """The store does not answer, or did not in time."""


@runtime_checkable
class Commands(Protocol):
    """The part of redis-py's asyncio clients that is used here; single, Sentinel and Cluster clients all have it."""

    async def execute_command(self, *args: object) -> object: ...
    async def aclose(self) -> None: ...


class Line(Protocol):
    """A connection of redis-py's."""

    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...
    async def read_response(self) -> object: ...
    async def disconnect(self, nowait: bool = False) -> None: ...


@runtime_checkable
class Lines(Protocol):
    """A connection pool of redis-py's; a Cluster client has none that is its own."""

    async def get_connection(self) -> Line: ...
    async def release(self, connection: Line) -> None: ...


class Observer(Protocol):
    """Who is told how the store does."""

    def store_answered(self, seconds: float, takes: int) -> None: ...
    def store_failed(self, reason: str) -> None: ...
    def breaker_changed(self, *, is_open: bool) -> None: ...


@dataclass(slots=True)
class _Asked:
    takes: Sequence[Take]
    answers: list[Taken | None]
    missing: int
    done: asyncio.Future[list[Taken]]


class RedisStore:
    """`take` returns an awaitable of the answers. `clock` moves the time in tests; None is Redis's own."""

    def __init__(
        self,
        client: Commands,
        *,
        observer: Observer,
        tags: int = 1,
        timeout_s: float = 0.03,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._client = client
        self._observer = observer
        self._timeout_s = timeout_s
        self._clock = clock
        self._tags = [b"%b{%d}:" % (PREFIX, number) for number in range(tags)]
        self._queues = [_Queue(self, b"%bblocked" % tag) for tag in self._tags]
        self._probe: asyncio.Task[None] | None = None
        pool = getattr(client, "connection_pool", None)
        self._pool = pool if isinstance(pool, Lines) else None
        self._idle: list[Line] = []
        self.is_open = False

    def take(self, takes: Sequence[Take]) -> asyncio.Future[list[Taken]]:
        """The answers to come, in order. Raises StoreDownError, at once or when they are awaited."""
        if self.is_open:
            raise StoreDownError("the store did not answer; its breaker is open")
        loop = asyncio.get_running_loop()
        asked = _Asked(takes, [None] * len(takes), len(takes), loop.create_future())
        for i, each in enumerate(takes):
            self._queue_of(each.key).put(asked, i, loop)
        return asked.done

    async def start(self) -> None:
        """Connects; a store that is down now is looked for in the background.

        Every connection is made here: the first decisions, which may be many at once, have no time for that.
        """
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(*(self._execute(b"PING") for _ in range(MOST_IN_FLIGHT)))
        except (RedisError, OSError, TimeoutError) as failure:
            self.trip(failure)

    async def blocked(self, most: int = 1000) -> list[Blocked]:
        """Who is blocked now, at most `most` of them. Raises StoreDownError."""
        found: list[Blocked] = []
        for tag, queue in zip(self._tags, self._queues, strict=True):
            now = self._clock() if self._clock else time.time() * 1e6
            rows = await self._admin(
                "ZRANGEBYSCORE", queue.index, f"({int(now)}", "+inf", "WITHSCORES", "LIMIT", 0, most
            )
            pairs = _pairs(rows)
            found += [Blocked(key.removeprefix(tag), int(score), 0) for key, score in pairs]
        return found[:most]

    async def clear(self, key: bytes) -> bool:
        """Forgets the counter and its block. Whether there was either. Raises StoreDownError."""
        queue = self._queue_of(key)
        full = queue.tag + key
        removed = await self._admin("DEL", full)
        await self._admin("ZREM", queue.index, full)
        return bool(removed)

    async def announce(self, replica: str) -> int:
        """Says that this replica lives and returns how many do. Raises StoreDownError."""
        key, now = PREFIX + b"{0}:replicas", time.time()
        await self._admin("ZADD", key, now, replica)
        await self._admin("ZREMRANGEBYSCORE", key, "-inf", now - REPLICA_TTL_S)
        await self._admin("EXPIRE", key, 60)
        count = await self._admin("ZCARD", key)
        return count if isinstance(count, int) and count > 0 else 1

    async def close(self) -> None:
        if self._probe:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe
        for queue in self._queues:
            await queue.close()
        await self._forget_lines()
        with suppress(RedisError, OSError):
            await self._client.aclose()

    def trip(self, failure: BaseException) -> None:
        """Opens the breaker: nobody waits for the store until a probe is answered."""
        reason = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
        self._observer.store_failed(type(failure).__name__)
        for queue in self._queues:
            queue.fail(StoreDownError(reason))
        if self.is_open:
            return
        self.is_open = True
        self._observer.breaker_changed(is_open=True)
        _log.warning("the store does not answer: limits decide by their on_store_error", reason=reason)
        self._probe = asyncio.get_running_loop().create_task(self._look_for_store())

    async def call(self, keys: Sequence[bytes], packed: bytes) -> bytes:
        """One call of the script. Raises RedisError, OSError or TimeoutError."""
        now = b"%d" % int(self._clock()) if self._clock else b""
        began = time.perf_counter()
        try:
            answer = await self._execute(b"EVALSHA", DIGEST, b"%d" % len(keys), *keys, packed, now)
        except NoScriptError:  # after FLUSH, a restart, a failover
            answer = await self._execute(b"EVAL", SCRIPT, b"%d" % len(keys), *keys, packed, now)
        self._observer.store_answered(time.perf_counter() - began, len(keys) - 1)
        if not isinstance(answer, bytes):
            raise RedisError(f"the script answered {type(answer).__name__}")
        return answer

    async def _execute(self, *words: bytes) -> object:
        """One command. Where there is one Redis, on a connection that is kept: the client's own way, through its pool,
        retries and instruments, costs several times the round trip.
        """
        if self._pool is None:
            return await self._client.execute_command(words[0].decode(), *words[1:])
        line = self._idle.pop() if self._idle else await self._pool.get_connection()
        try:
            await line.send_packed_command(_packed(words), check_health=False)
            answer = await line.read_response()
        except ResponseError:  # Redis answered: the connection is in order
            self._idle.append(line)
            raise
        except BaseException:  # also when it was given up: an answer that still comes must not meet the next question
            await line.disconnect(nowait=True)
            await self._pool.release(line)
            raise
        self._idle.append(line)
        return answer

    async def _forget_lines(self) -> None:
        """Gives the kept connections back, closed: whoever answers next may be another Redis."""
        idle, self._idle = self._idle, []
        for line in idle:
            await line.disconnect(nowait=True)
            if self._pool is not None:
                await self._pool.release(line)

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    def _queue_of(self, key: bytes) -> _Queue:
        return self._queues[crc32(key) % len(self._queues)] if len(self._queues) > 1 else self._queues[0]

    async def _admin(self, *args: object) -> object:
        try:
            async with asyncio.timeout(1):
                return await self._client.execute_command(*args)
        except (RedisError, OSError, TimeoutError) as failure:
            raise StoreDownError(str(failure) or type(failure).__name__) from failure

    async def _look_for_store(self) -> None:
        await self._forget_lines()
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                # A write, so that a replica that was promoted too little, or a full disk, does not pass for health.
                async with asyncio.timeout(max(self._timeout_s, 0.5)):
                    await self._client.execute_command("SET", PREFIX + b"{0}:probe", b"1", "EX", 10)
            except (RedisError, OSError, TimeoutError):
                continue
            self.is_open = False
            self._observer.breaker_changed(is_open=False)
            _log.info("the store answers again")
            return


class _Queue:
    """What waits for one tag. A call takes all of it; several may be in flight."""

    def __init__(self, store: RedisStore, index: bytes) -> None:
        self.index = index
        self.tag = index.removesuffix(b"blocked")
        self._store = store
        self._waiting: list[tuple[_Asked, int]] = []
        self._in_flight: dict[asyncio.Task[None], list[tuple[_Asked, int]]] = {}
        self._is_scheduled = False

    def put(self, asked: _Asked, i: int, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._waiting) >= MOST_PENDING:
            raise StoreDownError(f"more than {MOST_PENDING} decisions wait for the store")
        self._waiting.append((asked, i))
        if not self._is_scheduled and len(self._in_flight) < MOST_IN_FLIGHT:
            self._is_scheduled = True
            loop.call_soon(self._send, loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        while self._waiting and len(self._in_flight) < MOST_IN_FLIGHT:
            batch, self._waiting = self._waiting[:MOST_PER_CALL], self._waiting[MOST_PER_CALL:]
            task = loop.create_task(self._ask(batch))
            self._in_flight[task] = batch
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        if self._waiting and not self._is_scheduled:
            self._send(asyncio.get_running_loop())

    async def _ask(self, batch: list[tuple[_Asked, int]]) -> None:
        tag = self.tag
        takes = [asked.takes[i] for asked, i in batch]
        keys = [tag + each.key for each in takes]
        keys.append(self.index)
        packed = b"".join([each.budget.packed(each.hits, forced=each.is_forced) for each in takes])
        try:
            async with asyncio.timeout(None) as deadline:
                timer = _expire_after(self._store.timeout_s, deadline)
                try:
                    answer = await self._store.call(keys, packed)
                finally:
                    timer.cancel()
        except (RedisError, OSError, TimeoutError) as failure:
            _fail(batch, StoreDownError(str(failure) or type(failure).__name__))
            self._store.trip(failure)
            return
        for (asked, i), (code, left, wait, reset) in zip(batch, _ANSWER.iter_unpack(answer), strict=True):
            asked.answers[i] = Taken(_CODES[code], int(left), int(wait), int(reset))
            asked.missing -= 1
            if asked.missing == 0 and not asked.done.done():
                asked.done.set_result([answer for answer in asked.answers if answer is not None])

    def fail(self, failure: StoreDownError) -> None:
        """Answers everything that waits, and everything that is on its way, with `failure`."""
        waiting, self._waiting = self._waiting, []
        _fail(waiting, failure)
        for batch in self._in_flight.values():
            _fail(batch, failure)

    async def close(self) -> None:
        self.fail(StoreDownError("the store was closed"))
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _expire_after(timeout_s: float, deadline: asyncio.Timeout) -> asyncio.TimerHandle:
    """Ends what has the deadline, unless it is we who are late: a loop that was held up listens first to what Redis may
    long have answered, and is not so quick to call it dead."""
    loop = asyncio.get_running_loop()
    due = loop.time() + timeout_s

    def expire() -> None:
        now = loop.time()
        deadline.reschedule(now + timeout_s / 2 if now - due > HELD_UP_S else now)

    return loop.call_at(due, expire)


_CODES = tuple(Code)


def _fail(batch: Sequence[tuple[_Asked, int]], failure: StoreDownError) -> None:
    for asked, _ in batch:
        if not asked.done.done():
            asked.done.set_exception(failure)


def _packed(words: Sequence[bytes]) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _pairs(rows: object) -> list[tuple[bytes, float]]:
    """WITHSCORES as RESP2 and RESP3 give it."""
    if not isinstance(rows, list):
        return []
    if rows and isinstance(rows[0], (list, tuple)):
        return [(key, float(score)) for key, score in rows]
    return [(key, float(score)) for key, score in zip(rows[::2], rows[1::2], strict=True)]
