"""Redis slow, paused, killed, flushed, failing over: nobody waits, and what comes back is used again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from ratelimit.core.answer import Answer
from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.core.limits import Limits
from ratelimit.meters import Meters
from ratelimit.policy import Policy
from ratelimit.service import RateLimitService, share, wall_clock_us
from ratelimit.store.connect import connect
from ratelimit.store.redis import RedisStore, StoreDownError
from tests.ratelimit.requests import OK, OVER, limited, request, response
from tests.ratelimit.store.conftest import MakeRedis, Watcher
from tests.support.redis import Redis
from tests.support.waiting import until, until_sync

TIMEOUT_S = 0.05
LIMIT = {"by": ["ip"], "stage": "ip", "quota": {"requests": 4, "window_ms": 3_600_000}}
POLICY = Policy.model_validate(
    {"limits": {mode: {**LIMIT, "on_store_error": mode} for mode in ("allow", "deny", "local")}}
)
BUCKET = Budget(kind=Kind.TOKEN_BUCKET, requests=100, window_us=3_600_000_000, burst=100)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Iterator[Redis]:
    """A Redis of the test's own, to be mistreated."""
    redis = Redis(run_folder, name=f"r{uuid.uuid4().hex[:6]}").start()
    yield redis
    if redis.process.is_alive:
        os.kill(redis.process.pid, signal.SIGCONT)
    redis.stop()


class Running:
    def __init__(self, store: RedisStore, meters: Meters) -> None:
        self.store = store
        self.meters = meters
        self.service = RateLimitService(store, meters)
        self.service.use(limits=Limits(POLICY))

    async def code(self, limit: str) -> int:
        answer: Answer = await self.service.answer(request("causeway", limited(limit, ("ip", "1.1.1.1"))))
        return int(response(answer.response).overall_code)

    async def timed(self, limit: str, count: int) -> list[float]:
        """How long decisions take, one after the other."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await self.code(limit)
            times.append(time.perf_counter() - began)
        return sorted(times)


@pytest.fixture
async def running(server: Redis) -> AsyncIterator[Running]:
    meters = Meters()
    store = RedisStore(connect(server.url).client, observer=meters, timeout_s=TIMEOUT_S)
    await store.start()
    yield Running(store, meters)
    await store.close()


def pause(server: Redis) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)


def resume(server: Redis) -> None:
    os.kill(server.process.pid, signal.SIGCONT)


async def test_the_first_decisions_wait_for_no_connection(running: Running, server: Redis) -> None:
    """A worker that has just started gets its share of everything at once."""
    looking = connect(server.url).client
    await looking.execute_command("PING")
    before = (await looking.execute_command("INFO", "stats"))["total_connections_received"]

    takes = [Take(b"k%d" % number, BUCKET, 1) for number in range(300)]  # more than one call holds
    await asyncio.gather(*(running.store.take([take]) for take in takes))

    after = (await looking.execute_command("INFO", "stats"))["total_connections_received"]
    await looking.aclose()
    assert after == before


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_process_that_is_held_up_does_not_blame_redis(run: Callable[..., None], server: Redis) -> None:
    """A machine with too much to do: the answer is there, but nobody has read it yet."""

    async def held_up() -> None:
        store = RedisStore(connect(server.url).client, observer=Meters(), timeout_s=TIMEOUT_S)
        await store.start()
        pause(server)
        asked = store.take([Take(b"k", BUCKET, 1)])
        await asyncio.sleep(TIMEOUT_S / 5)  # the call is on its way
        resume(server)
        free_again = time.monotonic() + TIMEOUT_S * 2
        until_sync("the loop being free again", lambda: time.monotonic() > free_again)
        (taken,) = await asked
        assert taken.code is Code.OK
        assert not store.is_open
        await store.close()

    run(held_up())


async def test_each_limit_does_what_it_declares(running: Running, server: Redis) -> None:
    server.stop()

    assert [await running.code("allow") for _ in range(6)] == [OK] * 6
    assert [await running.code("deny") for _ in range(2)] == [OVER] * 2
    assert [await running.code("local") for _ in range(6)] == [OK] * 4 + [OVER] * 2
    assert running.meters.decided_without_store == {
        ("allow", "allow"): 6,
        ("deny", "deny"): 2,
        ("local", "local"): 6,
    }


async def test_a_replica_counts_its_share_locally(running: Running, server: Redis) -> None:
    running.service.replicas = 2
    server.stop()

    assert [await running.code("local") for _ in range(3)] == [OK, OK, OVER]


@pytest.mark.parametrize(("requests", "replicas", "each"), [(10, 1, 10), (10, 3, 3), (2, 5, 1)])
def test_a_share_is_rounded_down_but_never_nothing(requests: int, replicas: int, each: int) -> None:
    budget = Budget(kind=Kind.TOKEN_BUCKET, requests=requests, window_us=1_000_000, burst=requests)

    assert share(budget, replicas).burst == each


@pytest.mark.parametrize("outage", ["paused", "killed"])
async def test_nobody_waits_during_an_outage_and_it_ends_by_itself(
    running: Running, server: Redis, outage: str
) -> None:
    assert await running.code("local") == OK
    pause(server) if outage == "paused" else server.process.kill()

    first = await running.timed("local", 1)
    assert first[0] < TIMEOUT_S + 0.5, "the first waits for the time-out, no longer"
    # Who waited for the store would wait for the time-out. The middle, as the machine may have other things to do.
    times = await running.timed("local", 300)
    assert times[len(times) // 2] < TIMEOUT_S / 2
    assert running.meters.is_breaker_open

    resume(server) if outage == "paused" else server.start()
    await until("the store being asked again", lambda: not running.meters.is_breaker_open, within_s=2)
    before = running.meters.store_takes
    await running.code("local")
    assert running.meters.store_takes == before + 1
    assert running.meters.breaker_openings == 1


async def test_many_at_once_wait_for_one_time_out_only(running: Running, server: Redis) -> None:
    pause(server)
    began = time.perf_counter()

    codes = await asyncio.gather(*[running.code("deny") for _ in range(200)])

    assert codes == [OVER] * 200
    assert time.perf_counter() - began < TIMEOUT_S + 0.5


async def test_a_flush_costs_the_counts_and_nothing_else(running: Running, server: Redis) -> None:
    assert [await running.code("deny") for _ in range(5)][-1] == OVER
    server.command("FLUSHALL")
    server.command("SCRIPT", "FLUSH")

    assert await running.code("deny") == OK
    assert not running.meters.is_breaker_open


async def test_a_store_that_is_down_at_the_start_is_found_later(server: Redis) -> None:
    server.stop()
    meters = Meters()
    store = RedisStore(connect(server.url).client, observer=meters, timeout_s=TIMEOUT_S)
    await store.start()
    assert store.is_open

    server.start()

    await until("the store being asked", lambda: not store.is_open, within_s=3)
    await store.close()


async def test_a_replica_that_cannot_write_is_not_asked(running: Running, server: Redis, run_folder: Path) -> None:
    """A failover that went wrong: the address leads to a replica."""
    await running.code("deny")
    server.command("REPLICAOF", "127.0.0.1", "1")

    await running.code("deny")
    assert running.meters.is_breaker_open
    server.command("REPLICAOF", "NO", "ONE")
    await until("the store being asked again", lambda: not running.meters.is_breaker_open, within_s=2)


async def test_two_replicas_under_parallel_load_admit_exactly_the_limit(
    redis_server: Redis, make_redis: MakeRedis
) -> None:
    stores = [await make_redis(redis_server.url) for _ in range(2)]
    key = uuid.uuid4().bytes

    answers = await asyncio.gather(*[stores[i % 2].take([Take(key, BUCKET)]) for i in range(1000)])

    assert sum(answer.code is Code.OK for (answer,) in answers) == 100


async def test_everything_of_one_turn_goes_in_one_call(
    redis_server: Redis, make_redis: MakeRedis, watcher: Watcher
) -> None:
    store = await make_redis(redis_server.url)

    await asyncio.gather(*[store.take([Take(b"k%d" % i, BUCKET)]) for i in range(64)])

    assert watcher.calls == [64]


async def test_counters_expire(redis_server: Redis, make_redis: MakeRedis) -> None:
    store = await make_redis(redis_server.url)
    key = uuid.uuid4().hex.encode()
    second = Budget(kind=Kind.TOKEN_BUCKET, requests=10, window_us=1_000_000, burst=10)

    await store.take([Take(key, second)])

    ttl = int(redis_server.command("PTTL", f"causeway:rl:{{0}}:{key.decode()}").removeprefix(b":"))
    assert 0 < ttl <= 2000


async def test_after_it_was_closed_a_store_answers_nothing(redis_server: Redis) -> None:
    store = RedisStore(connect(redis_server.url).client, observer=Watcher())
    waiting = asyncio.ensure_future(store.take([Take(b"k", BUCKET)]))
    await asyncio.sleep(0)
    await store.close()

    with pytest.raises(StoreDownError):
        await waiting


async def test_replicas_are_counted(redis_server: Redis, make_redis: MakeRedis) -> None:
    store = await make_redis(redis_server.url)
    redis_server.command("DEL", "causeway:rl:{0}:replicas")

    assert [await store.announce(name) for name in ("a", "b", "a")] == [1, 2, 2]


def test_the_wall_clock_is_in_microseconds() -> None:
    assert abs(wall_clock_us() / 1e6 - time.time()) < 1


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("http://x", "no way to reach Redis"),
            ("redis://a:1,b:2", "redis\\+sentinel:// or redis\\+cluster://"),
            ("redis+sentinel://a:1", "names the service"),
            ("redis://a:x", "no host and port"),
            ("redis://a:1/one", "no database number"),
            ("redis://a:1?timeout=3", "unknown in the Redis URL: timeout"),
        ],
    )
    def test_a_wrong_url_says_what_is_wrong(self, url: str, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            connect(url)

    def test_no_message_shows_the_password(self) -> None:
        with pytest.raises(ValueError) as refused:
            connect("redis://user:hunter2@a:1,b:2")

        assert "hunter2" not in str(refused.value)
