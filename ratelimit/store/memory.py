"""Counters in this process: exact, bounded, and the default.

A counter's state is a few packed doubles in a dict, so that a million of them stay under 300 MB. Counters are kept in
two generations per lifetime class (the next power of two of what their budget says): a counter that is asked moves to
the young generation, and when a class's lifetime has passed, what is still in the old one has run out and is let go, a
few at a time. When the bound is reached, what was not asked for longest goes first. Blocks are kept apart and are never
evicted while they last: where there is no room for another one, the counter stays merely over its limit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ratelimit.core.bucket import take
from ratelimit.core.budget import FORCED, UNBLOCKING, Blocked, Budget, Code, Kind, Take, Taken

MAX_COUNTERS = 1_000_000
MAX_BLOCKS = 1_000_000
_RECLAIMED_PER_TAKE = 4

_THREE = struct.Struct("<3d")
_FOUR = struct.Struct("<4d")


@dataclass(slots=True)
class _Block:
    until_us: float
    strikes: int
    forget_us: float


class _Class:
    """The counters of one lifetime class."""

    __slots__ = ("lifetime_us", "old", "turns_at_us", "young")

    def __init__(self, lifetime_us: int) -> None:
        self.lifetime_us = lifetime_us
        self.young: dict[bytes, bytes] = {}
        self.old: dict[bytes, bytes] = {}
        self.turns_at_us = 0.0


class MemoryStore:
    """`take` answers at once. `clock` gives microseconds since the epoch."""

    def __init__(
        self, clock: Callable[[], float], *, max_counters: int = MAX_COUNTERS, max_blocks: int = MAX_BLOCKS
    ) -> None:
        self._clock = clock
        self._max_counters = max_counters
        self._max_blocks = max_blocks
        self._classes: dict[int, _Class] = {}
        self._class_of: dict[int, _Class] = {}
        self._blocks: dict[bytes, _Block] = {}
        self._dying: list[dict[bytes, bytes]] = []
        self._sweep: list[bytes] = []

    def __len__(self) -> int:
        return sum(len(c.young) + len(c.old) for c in self._classes.values())

    @property
    def blocks(self) -> int:
        """How many blocks are remembered, over or not."""
        return len(self._blocks)

    def take(self, takes: Sequence[Take]) -> list[Taken]:
        """The answers, in order."""
        now = self._clock()
        return [self._take(key, budget, hits, is_forced, now) for key, budget, hits, is_forced in takes]

    def _take(self, key: bytes, budget: Budget, hits: int, is_forced: bool, now: float) -> Taken:
        flags = budget.flags | FORCED if is_forced else budget.flags
        is_blockable = not flags & UNBLOCKING and hits >= 0 and not is_forced
        block = self._blocks.get(key) if self._blocks else None
        if block is not None and is_blockable and block.until_us > now:
            left = int(block.until_us - now)
            return Taken(Code.BLOCKED, 0, left, left)

        counters = self._class_of.get(budget.lifetime_us) or self._class(budget.lifetime_us)
        if now >= counters.turns_at_us:
            self._turn(counters, now)
        young = counters.young
        packed = young.get(key)
        if packed is None and counters.old:
            packed = counters.old.pop(key, None)
        if packed is None and len(self._classes) > 1:
            packed = self._from_elsewhere(key, counters)
        layout = _FOUR if budget.kind is Kind.SLIDING_WINDOW else _THREE
        state = layout.unpack(packed) if packed is not None else None
        is_over, left, wait, reset, new, _ = take(budget, state, hits, now, forced=is_forced)
        if is_over and hits > 0 and is_blockable and (block is not None or self._has_room_for_block(now)):
            wait = reset = self._block(key, block, budget, now)
            young.pop(key, None)
            return Taken(Code.NOW_BLOCKED, 0, int(wait), int(reset))
        if new is not None:
            if packed is None:
                self._make_room()
            young[key] = layout.pack(*new)
        elif packed is not None:
            young.pop(key, None)
        if self._dying:
            self._reclaim()
        return Taken(Code.OVER if is_over else Code.OK, left, int(wait), int(reset))

    def blocked(self, most: int = 1000) -> list[Blocked]:
        """Who is blocked now, at most `most` of them."""
        now = self._clock()
        found = (Blocked(k, int(b.until_us), b.strikes) for k, b in self._blocks.items() if b.until_us > now)
        return [blocked for blocked, _ in zip(found, range(most), strict=False)]

    def clear(self, key: bytes) -> bool:
        """Forgets the counter and its block. Whether there was either."""
        had_block = self._blocks.pop(key, None) is not None
        had = [generation.pop(key, None) for c in self._classes.values() for generation in (c.young, c.old)]
        return had_block or any(packed is not None for packed in had)

    async def close(self) -> None:
        self._classes.clear()
        self._class_of.clear()

    def _class(self, lifetime_us: int) -> _Class:
        rounded = 1 << max(20, (lifetime_us - 1).bit_length())
        counters = self._classes.setdefault(rounded, _Class(rounded))
        if len(self._class_of) > 10_000:
            self._class_of.clear()
        self._class_of[lifetime_us] = counters
        return counters

    def _from_elsewhere(self, key: bytes, counters: _Class) -> bytes | None:
        """The counter from the class it had before its limit was changed."""
        for other in self._classes.values():
            if other is not counters and (packed := other.young.pop(key, None) or other.old.pop(key, None)):
                return packed
        return None

    def _turn(self, counters: _Class, now: float) -> None:
        """The young become the old. What is older than that has run out, or is in debt and forgiven."""
        if counters.old:
            self._dying.append(counters.old)
        counters.old, counters.young = counters.young, {}
        if now >= counters.turns_at_us + counters.lifetime_us and counters.old:
            self._dying.append(counters.old)
            counters.old = {}
        counters.turns_at_us = now + counters.lifetime_us

    def _reclaim(self) -> None:
        """Lets a few go, so that no request waits while a million are freed."""
        dying = self._dying[-1]
        for _ in range(_RECLAIMED_PER_TAKE):
            if not dying:
                self._dying.pop()
                return
            dying.popitem()

    def _make_room(self) -> None:
        if len(self) < self._max_counters:
            return
        oldest = max(self._classes.values(), key=lambda c: len(c.old) or -1)
        if not oldest.old:
            oldest = max(self._classes.values(), key=lambda c: len(c.young))
            oldest.old, oldest.young = oldest.young, {}
        oldest.old.popitem()

    def _has_room_for_block(self, now: float) -> bool:
        """Whether another block can be remembered; forgotten ones make room, a few per call."""
        if len(self._blocks) < self._max_blocks:
            return True
        if not self._sweep:
            self._sweep = list(self._blocks)
        for _ in range(min(16, len(self._sweep))):
            key = self._sweep.pop()
            block = self._blocks.get(key)
            if block is not None and now > block.until_us + block.forget_us:
                del self._blocks[key]
        return len(self._blocks) < self._max_blocks

    def _block(self, key: bytes, block: _Block | None, budget: Budget, now: float) -> float:
        is_repeated = block is not None and now - block.until_us <= budget.forget_us
        strikes = block.strikes + 1 if block is not None and is_repeated else 1
        lasts = float(budget.block_us(strikes))
        self._blocks[key] = _Block(now + lasts, strikes, budget.forget_us)
        return lasts
