"""The rate limit service between its transports and its store: bytes in, bytes out.

Configuration is swapped whole (`use`). A decision is made in one go where the store answers at once (memory), else it
waits for the store; while that is away, each limit decides as it declares.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, Protocol

from google.protobuf.message import DecodeError

from ratelimit.core.answer import ALLOWED, DENIED, Answer, Style, answer
from ratelimit.core.budget import Blocked, Budget, Take, Taken
from ratelimit.core.limits import Limits
from ratelimit.core.plan import UNKNOWN_LIMIT, Descriptor, Override, RequestError, Rules, plan
from ratelimit.core.reference import Config
from ratelimit.core.rule import OnStoreError, Planned
from ratelimit.messages import Request
from ratelimit.meters import Meters
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import StoreDownError

LOCAL_COUNTERS = 200_000


class Store(Protocol):
    """Where counters are. Both stores have this; the memory store answers `take` at once."""

    def take(self, takes: Sequence[Take]) -> list[Taken] | Awaitable[list[Taken]]: ...
    def blocked(self, most: int = 1000) -> list[Blocked] | Awaitable[list[Blocked]]: ...
    def clear(self, key: bytes) -> bool | Awaitable[bool]: ...


class _Asked(NamedTuple):
    """A request on its way."""

    domain: str
    descriptors: Sequence[Descriptor]
    hits_addend: int
    planned: Sequence[Planned]
    began: float


class RateLimitService:
    """`decide(request)` answers a serialised RateLimitRequest. `clock` gives microseconds since the epoch."""

    def __init__(
        self, store: Store, meters: Meters, *, style: Style | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        self.store = store
        self.meters = meters
        self.rules = Rules()
        self.replicas = 1
        self._clock = clock or wall_clock_us
        self._style = style or Style()
        self._local = MemoryStore(self._clock, max_counters=LOCAL_COUNTERS)

    def use(self, *, limits: Limits | None = None, config: Config | None = None) -> None:
        """Puts limits, or the reference service's configuration, into effect; the other stays."""
        self.rules = Rules(limits or self.rules.limits, self.rules.config if config is None else config, True)
        if limits is not None:
            self._style = replace(self._style, headers=limits.policy.headers)

    async def decide(self, request: bytes) -> bytes:
        """The serialised RateLimitResponse. Raises RequestError, or StoreDownError where that is what was asked for."""
        return (await self.answer(request)).response

    async def answer(self, request: bytes) -> Answer:
        """As `decide`, with what was decided."""
        answer = self.begin(request)
        return answer if isinstance(answer, Answer) else await answer

    def begin(self, request: bytes) -> Answer | Awaitable[Answer]:
        """The answer at once, where no store need be waited for; else one to wait for. Raises as `decide`."""
        began = time.perf_counter()
        self.meters.requests += 1
        try:
            domain, descriptors, hits = parse(request)
            planned = plan(self.rules, domain, descriptors, hits)
        except RequestError:
            self.meters.request_errors += 1
            raise
        asked = _Asked(domain, descriptors, hits, planned, began)
        takes = [each.take for each in planned if each.take is not None]
        if UNKNOWN_LIMIT in planned:
            self.meters.unknown_limits += 1
        if not takes:
            return self._told(asked, ())
        try:
            taken = self.store.take(takes)
        except StoreDownError:
            taken = self._without_store(planned)
        return self._told(asked, taken) if isinstance(taken, list) else self._wait(asked, taken)

    async def _wait(self, asked: _Asked, taking: Awaitable[list[Taken]]) -> Answer:
        try:
            taken = await taking
        except StoreDownError:
            taken = self._without_store(asked.planned)
        return self._told(asked, taken)

    def _told(self, asked: _Asked, taken: Sequence[Taken]) -> Answer:
        meters, planned = self.meters, asked.planned
        if taken:
            meters.decided(planned, taken)
        now = self._clock()
        told = answer(
            planned,
            taken,
            self._style,
            now,
            domain=asked.domain,
            descriptors=asked.descriptors,
            hits_addend=asked.hits_addend,
        )
        if told.violated:
            meters.refused(told.violated, now, is_shadowed=told.is_shadowed)
        meters.seconds.add(time.perf_counter() - asked.began)
        return told

    def explain(self, request: bytes) -> list[Planned]:
        """What a request would ask of which counters. Raises RequestError."""
        domain, descriptors, hits = parse(request)
        return plan(self.rules, domain, descriptors, hits)

    def _without_store(self, planned: Sequence[Planned]) -> list[Taken]:
        """What each limit declares for this case. Raises StoreDownError where one declares nothing."""
        taken: list[Taken] = []
        for rule, take, _ in planned:
            if rule is None or take is None:
                continue
            self.meters.without_store(rule)
            match rule.on_store_error:
                case OnStoreError.ALLOW:
                    taken.append(ALLOWED)
                case OnStoreError.DENY:
                    taken.append(DENIED)
                case OnStoreError.LOCAL:
                    taken += self._local.take([take._replace(budget=share(take.budget, self.replicas))])
                case OnStoreError.FAIL:
                    self.meters.store_errors += 1
                    raise StoreDownError("the store does not answer")
        return taken


def parse(request: bytes) -> tuple[str, list[Descriptor], int]:
    """Domain, descriptors and hits of a serialised RateLimitRequest. Raises RequestError."""
    try:
        message = Request.FromString(request)
    except DecodeError:
        raise RequestError("not a RateLimitRequest") from None
    descriptors = [
        Descriptor(
            [(entry.key, entry.value) for entry in each.entries],
            each.hits_addend.value if each.HasField("hits_addend") else None,
            Override(each.limit.requests_per_unit, each.limit.unit) if each.HasField("limit") else None,
            each.is_negative_hits,
        )
        for each in message.descriptors
    ]
    return message.domain, descriptors, message.hits_addend


@lru_cache(maxsize=10_000)
def share(budget: Budget, replicas: int) -> Budget:
    """One replica's part of a budget, rounded down but never nothing of something."""
    if replicas <= 1:
        return budget
    return replace(
        budget,
        requests=max(1, budget.requests // replicas) if budget.requests else 0,
        burst=max(1, budget.burst // replicas) if budget.burst else 0,
    )


def wall_clock_us() -> float:
    """Microseconds since the epoch."""
    return time.time_ns() / 1000
