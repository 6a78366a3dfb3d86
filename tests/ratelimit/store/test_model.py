"""Every store against an exact model under a clock that is moved: never more than the model, never one less."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.store.connect import connect
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import RedisStore
from tests.ratelimit.clock import Clock
from tests.ratelimit.store.conftest import Watcher, ask
from tests.support.redis import Redis

QUOTAS = st.sampled_from(
    [(5, 60_000_000, 5), (7, 1_000_000, 3), (100, 30_000_000, 250), (3, 86_400_000_000, 1), (999, 1_000_003, 50)]
)


class Bucket:
    """A token bucket in fractions: no rounding anywhere."""

    def __init__(self, requests: int, window_us: int, burst: int) -> None:
        self.rate = Fraction(requests, window_us)
        self.burst = burst
        self.tokens = Fraction(burst)
        self.at = Fraction(0)

    def take(self, hits: int, now_us: float) -> bool:
        now = Fraction(now_us)
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < hits:
            return False
        self.tokens -= hits
        return True


class Against(RuleBasedStateMachine):
    """One bucket of a store beside the model. `store_of` and `loop` are set by each test."""

    store: MemoryStore | RedisStore
    clock: Clock
    loop: asyncio.AbstractEventLoop

    @initialize(quota=QUOTAS)
    def begin(self, quota: tuple[int, int, int]) -> None:
        requests, window_us, burst = quota
        self.key = uuid.uuid4().bytes
        self.budget = Budget(kind=Kind.TOKEN_BUCKET, requests=requests, window_us=window_us, burst=burst)
        self.model = Bucket(requests, window_us, burst)
        self.began = self.clock()
        self.admitted = 0

    @rule(hits=st.integers(1, 4), times=st.integers(1, 8))
    def take(self, hits: int, times: int) -> None:
        takes = [Take(self.key, self.budget, hits)] * times
        taken = self.loop.run_until_complete(ask(self.store, *takes))
        for said in taken:
            assert (said.code is Code.OK) == self.model.take(hits, self.clock())
            assert said.remaining == int(self.model.tokens)
            self.admitted += hits if said.code is Code.OK else 0

    @rule(seconds=st.one_of(st.floats(0, 2), st.sampled_from([0.000001, 1.0, 12.0, 60.0, 3600.0])))
    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @invariant()
    def never_more_than_burst_and_rate(self) -> None:
        if hasattr(self, "budget"):
            passed = Fraction(self.clock() - self.began)
            assert self.admitted <= self.budget.burst + passed * self.model.rate


SETTINGS = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_memory_is_exact(loop: asyncio.AbstractEventLoop) -> None:
    clock = Clock()
    kind = type("Memory", (Against,), {"store": MemoryStore(clock), "clock": clock, "loop": loop})

    run_state_machine_as_test(kind, settings=SETTINGS)


def test_redis_is_exact(loop: asyncio.AbstractEventLoop, redis_server: Redis) -> None:
    clock = Clock()
    redis_server.command("FLUSHALL")
    store = RedisStore(connect(redis_server.url).client, observer=Watcher(), timeout_s=2.0, clock=clock)
    kind = type("Shared", (Against,), {"store": store, "clock": clock, "loop": loop})

    run_state_machine_as_test(kind, settings=SETTINGS)

    loop.run_until_complete(store.close())


KINDS = list(Kind)


async def test_both_stores_agree_on_every_kind_of_step(redis_server: Redis) -> None:
    """Refunds, looks, debts, blocks and changed limits as well: the same answers to the microsecond."""
    import random

    redis_server.command("FLUSHALL")
    clock, dice = Clock(), random.Random(7)
    memory = MemoryStore(clock)
    shared = RedisStore(connect(redis_server.url).client, observer=Watcher(), timeout_s=2.0, clock=clock)
    budgets = [
        Budget(
            kind=kind,
            requests=requests,
            window_us=window_us,
            burst=burst,
            is_greedy=is_greedy,
            blocks_us=blocks_us,
            forget_us=3_600_000_000,
        )
        for kind in KINDS
        for requests, window_us, burst in ((5, 60_000_000, 5), (7, 1_000_000, 3), (100, 86_400_000_000, 250))
        for is_greedy in (False, True)
        for blocks_us in ((), (300_000_000, 900_000_000))
    ]
    for _ in range(4000):
        number = dice.randrange(len(budgets))
        key = b"%d.%d" % (number, dice.randrange(2))
        hits = dice.choice([0, 1, 1, 1, 2, -1, 7])
        takes = [Take(key, budgets[number], hits, dice.random() < 0.1)] * dice.choice([1, 1, 3])
        assert memory.take(takes) == await shared.take(takes)
        clock.now_us += dice.choice([0, 1, 1000, 777_777, 1_000_000, 60_000_000, 400_000_000])
    await shared.close()
