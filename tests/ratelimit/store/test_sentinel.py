"""Redis behind Sentinel: the master is found, and found again after a failover."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.store.connect import connect
from ratelimit.store.redis import RedisStore, StoreDownError
from tests.ratelimit.store.conftest import Watcher, ask
from tests.support.process import Process
from tests.support.redis import Redis, redis_binary
from tests.support.waiting import free_port, until, until_sync

BUDGET = Budget(kind=Kind.TOKEN_BUCKET, requests=3, window_us=3_600_000_000, burst=3)


class Sentinel:
    """A master, its replica, and a sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.master = Redis(folder, name="master").start()
        self.replica = Redis(folder, "--replicaof", "127.0.0.1", str(self.master.port), name="replica").start()
        self.port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 300\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        self.process = Process("sentinel", [redis_binary(), config, "--sentinel"], folder=folder).start()
        until_sync("the sentinel knowing the replica", lambda: f":{self.replica.port} " in self.process.log)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/mymaster"

    def stop(self) -> None:
        for process in (self.process, self.replica.process, self.master.process):
            process.stop()


@pytest.fixture
def sentinel(run_folder: Path) -> Iterator[Sentinel]:
    one = Sentinel(run_folder)
    yield one
    one.stop()


@pytest.fixture
async def store(sentinel: Sentinel) -> AsyncIterator[RedisStore]:
    one = RedisStore(connect(sentinel.url).client, observer=Watcher(), timeout_s=0.5)
    await one.start()
    yield one
    await one.close()


async def test_a_killed_master_is_replaced_and_the_replica_goes_on_counting(
    sentinel: Sentinel, store: RedisStore
) -> None:
    key = uuid.uuid4().bytes
    await ask(store, *[Take(key, BUDGET)] * 2)
    await until("the replica having it", lambda: sentinel.replica.command("DBSIZE") == b":1")

    sentinel.master.process.kill()

    async def counted() -> bool:
        try:
            (answer,) = await ask(store, Take(key, BUDGET, 0))
        except StoreDownError:
            return False
        return answer.remaining == 1

    await until("the new master in use", counted, within_s=20)
    answers = await ask(store, *[Take(key, BUDGET)] * 2)
    assert [answer.code for answer in answers] == [Code.OK, Code.OVER]
