"""The memory store's bounds: how much it keeps, what it lets go, what it never forgets."""

from __future__ import annotations

import subprocess
import sys

from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.store.memory import MemoryStore
from tests.ratelimit.clock import Clock

MINUTE_US = 60_000_000


def bucket(requests: int, **more: object) -> Budget:
    return Budget(kind=Kind.TOKEN_BUCKET, requests=requests, window_us=MINUTE_US, burst=requests, **more)  # type: ignore[arg-type]


def test_never_more_counters_than_allowed() -> None:
    store = MemoryStore(Clock(), max_counters=100)

    for i in range(1000):
        store.take([Take(b"%d" % i, bucket(5))])

    assert len(store) == 100


def test_counters_that_ran_out_are_let_go() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for i in range(1000):
        store.take([Take(b"%d" % i, bucket(5))])

    for _ in range(3):
        clock.forward(120)
        store.take([Take(b"one", bucket(5))])

    assert len(store) == 1


def test_a_counter_in_use_outlives_the_turning_of_generations() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    one = Budget(kind=Kind.TOKEN_BUCKET, requests=1, window_us=MINUTE_US, burst=3)
    store.take([Take(b"k", one, 3)])

    codes = []
    for _ in range(5):
        clock.forward(59)
        codes.append(store.take([Take(b"k", one, 2)])[0].code)

    assert codes == [Code.OVER, Code.OVER, Code.OK, Code.OVER, Code.OK]


def test_eviction_never_forgives_an_active_block() -> None:
    store = MemoryStore(Clock(), max_counters=10, max_blocks=5)
    strict = bucket(1, blocks_us=(10 * MINUTE_US,), forget_us=MINUTE_US)
    for i in range(20):
        store.take([Take(b"%d" % i, strict)] * 2)

    after = [store.take([Take(b"%d" % i, strict)])[0].code for i in range(5)]

    assert after == [Code.BLOCKED] * 5
    assert store.blocks == 5


def test_forgotten_blocks_make_room_for_new_ones() -> None:
    clock = Clock()
    store = MemoryStore(clock, max_blocks=2)
    strict = bucket(1, blocks_us=(MINUTE_US,), forget_us=MINUTE_US)
    for i in range(2):
        store.take([Take(b"%d" % i, strict)] * 2)
    clock.forward(121)

    assert store.take([Take(b"new", strict)] * 2)[1].code is Code.NOW_BLOCKED


MILLION = r"""
import re
from pathlib import Path
from ratelimit.core.budget import Budget, Kind, Take
from ratelimit.core.keys import identity
from ratelimit.store.memory import MemoryStore
store = MemoryStore(lambda: 1.7e15)
budget = Budget(kind=Kind.TOKEN_BUCKET, requests=100, window_us=60_000_000, burst=100)
for i in range(1_000_000):
    store.take([Take(b"0l" + identity(("causeway", "per-ip", f"203.0.{i >> 8 & 255}.{i}")), budget)])
assert len(store) == 1_000_000
# Of this process alone: what getrusage tells begins with the memory of the process that started it.
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_a_million_counters_fit_in_300_mb() -> None:
    ran = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=120)

    assert int(ran.stdout) * 1024 < 300_000_000  # VmHWM is in KiB (proc(5))
