"""Each store under one contract: memory, one Redis, a cluster of three."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from inspect import isawaitable
from pathlib import Path

import pytest
import redis

from ratelimit.core.budget import Take, Taken
from ratelimit.store.connect import connect
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import RedisStore
from tests.ratelimit.clock import Clock
from tests.support.redis import Redis
from tests.support.waiting import until_sync

SLOTS = 16_384


class Watcher:
    """What a store told its observer."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.failures: list[str] = []
        self.breaker: list[bool] = []

    def store_answered(self, seconds: float, takes: int) -> None:
        self.calls.append(takes)

    def store_failed(self, reason: str) -> None:
        self.failures.append(reason)

    def breaker_changed(self, *, is_open: bool) -> None:
        self.breaker.append(is_open)


Store = MemoryStore | RedisStore


async def ask(store: Store, *takes: Take) -> Sequence[Taken]:
    """What the store answers, whichever it is."""
    answer = store.take(takes)
    return await answer if isawaitable(answer) else answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def redis_url(redis_server: Redis) -> str:
    return redis_server.url


@pytest.fixture(scope="module")
def cluster_url(run_folder: Path) -> Iterator[str]:
    """Three Redis servers that form a cluster."""
    nodes = [
        Redis(run_folder, "--cluster-enabled", "yes", "--cluster-config-file", f"n{i}.conf", name=f"n{i}")
        for i in range(3)
    ]
    for node in nodes:
        node.start()
    for number, node in enumerate(nodes):
        slots = map(str, range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        assert node.command("CLUSTER", "ADDSLOTS", *slots) == b"+OK"
        assert node.command("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port)) == b"+OK"
    until_sync("a cluster of three", lambda: all(_is_formed(node.port) for node in nodes), within_s=30)
    yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    for node in nodes:
        node.stop()


def _is_formed(port: int) -> bool:
    with redis.Redis(port=port) as client:
        told = client.execute_command("CLUSTER INFO")
        text: dict[object, object] = told if isinstance(told, dict) else {}
        return text.get("cluster_state") == "ok" and text.get("cluster_known_nodes") == "3"


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


MakeRedis = Callable[..., Awaitable[RedisStore]]


@pytest.fixture
async def make_redis(watcher: Watcher) -> AsyncIterator[MakeRedis]:
    """Makes stores on a Redis URL, closed after the test."""
    made: list[RedisStore] = []

    async def make(url: str, **how: object) -> RedisStore:
        connected = connect(url)
        options: dict[str, object] = {"observer": watcher, "tags": connected.tags, "timeout_s": 2.0, **how}
        store = RedisStore(connected.client, **options)  # type: ignore[arg-type]
        made.append(store)
        await store.start()
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture(params=["memory", "redis", "cluster"])
async def store(request: pytest.FixtureRequest, clock: Clock, make_redis: MakeRedis) -> Store:
    match request.param:
        case "memory":
            return MemoryStore(clock)
        case "redis":
            server = request.getfixturevalue("redis_server")
            server.command("FLUSHALL")
            return await make_redis(server.url, clock=clock)
        case _:
            return await make_redis(request.getfixturevalue("cluster_url"), clock=clock)
