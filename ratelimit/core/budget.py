"""What a counter may let through, and what happened when it was asked: the values that stores and decisions share.

It must not know descriptors, configuration or any store.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """How a counter counts. The numbers are part of what is sent to Redis."""

    TOKEN_BUCKET = 0
    FIXED_WINDOW = 1
    SLIDING_WINDOW = 2


class Code(IntEnum):
    """What a counter answered."""

    OK = 0
    OVER = 1
    BLOCKED = 2  # refused because of an earlier violation
    NOW_BLOCKED = 3  # refused, and this is the violation


GREEDY = 1
"""Counts what it refuses, as the reference service does."""
RESCALES = 2
"""When the quota changes, the consumed share stays; without it the consumed amount stays."""
FORCED = 4
"""Takes whatever is left, and more: the cost is known only after the fact."""
UNBLOCKING = 8
"""Never starts a block: the limit is in shadow."""

_TAKE = struct.Struct("<BBddddBd")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Budget:
    """`requests` per `window_us`; `burst` is what a token bucket holds. `blocks_us` are the blocks by strike, none if
    empty; a further violation within `forget_us` of the last block's end is the next strike.
    """

    kind: Kind
    requests: int
    window_us: int
    burst: int
    is_greedy: bool = False
    rescales: bool = True
    is_shadow: bool = False
    blocks_us: tuple[int, ...] = ()
    forget_us: int = 0
    flags: int = field(init=False)
    lifetime_us: int = field(init=False)
    tail: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        flags = (GREEDY if self.is_greedy else 0) | (RESCALES if self.rescales else 0)
        flags |= UNBLOCKING if self.is_shadow or not self.blocks_us else 0
        object.__setattr__(self, "flags", flags)
        object.__setattr__(self, "lifetime_us", _lifetime_us(self))
        tail = struct.pack(f"<{len(self.blocks_us)}d", *self.blocks_us)
        object.__setattr__(self, "tail", tail)

    def packed(self, hits: int, *, forced: bool = False) -> bytes:
        """One take, as the Redis script reads it."""
        flags = self.flags | FORCED if forced else self.flags
        count = len(self.blocks_us)
        head = _TAKE.pack(self.kind, flags, self.requests, self.window_us, self.burst, hits, count, self.forget_us)
        return head + self.tail if count else head

    def block_us(self, strikes: int) -> int:
        """How long the block of the `strikes`-th violation lasts."""
        return self.blocks_us[min(strikes, len(self.blocks_us)) - 1]


def _lifetime_us(budget: Budget) -> int:
    """How long an untouched counter can matter at most, unless it is in debt."""
    match budget.kind:
        case Kind.TOKEN_BUCKET:
            return -(-budget.burst * budget.window_us // max(budget.requests, 1))
        case Kind.FIXED_WINDOW:
            return budget.window_us
        case Kind.SLIDING_WINDOW:
            return 2 * budget.window_us


class Take(NamedTuple):
    """Ask the counter `key` for `hits`: 0 only looks, less than 0 gives back."""

    key: bytes
    budget: Budget
    hits: int = 1
    is_forced: bool = False


class Taken(NamedTuple):
    """The answer to a Take.

    `wait_us` is the time until the same hits would be let through (when refused), or until there is more than now (when
    not); `reset_us` until all of it is back.
    """

    code: Code
    remaining: int
    wait_us: int
    reset_us: int


class Blocked(NamedTuple):
    """A counter that is refused until `until_us`."""

    key: bytes
    until_us: int
    strikes: int
