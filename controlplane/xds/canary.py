"""A change shown to some clients first: who they are, and whether it does them good.

The cohort gets the new snapshot; everybody else keeps what is served. When the whole cohort has accepted it, refused
nothing, and its share of failed requests does not rise for a while, everybody gets it; else it is taken back. The
services are always in the cohort: the policy documents that the new routes name must be there first.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from controlplane.snapshot.snapshot import Snapshot

POLL_S = 0.5
RISE = 0.01
"""A cohort whose share of failed requests is higher by more than this, against before, is not well."""
ACCEPT_S = 30.0


class Counters(Protocol):
    """What an Envoy has answered since it started."""

    @property
    def completed(self) -> int: ...

    @property
    def failed(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Counters, added up."""

    completed: int
    failed: int


Ask = Callable[[], Awaitable[Mapping[str, Counters]]]
"""The counters of the Envoys that can be asked, by node id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A snapshot on trial with some clients."""

    snapshot: Snapshot
    revision: str
    cohort: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    is_good: bool
    reason: str


def choose(size: str, ids: Iterable[str]) -> frozenset[str]:
    """A number or a share of the clients, always the same ones. Raises ValueError with what would be right."""
    known = sorted(set(ids), key=lambda one: blake2b(one.encode(), digest_size=8).digest())
    text = size.strip()
    try:
        count = math.ceil(len(known) * float(text[:-1]) / 100) if text.endswith("%") else int(text)
    except ValueError:
        raise ValueError(f'"{size}": expected a number of Envoys or a share such as 10%') from None
    if count < 1:
        raise ValueError(f'"{size}": a canary needs at least one Envoy')
    return frozenset(known[:count])


async def judge(
    cohort: frozenset[str], has_accepted: Callable[[], bool], refusals: Callable[[], tuple[str, ...]], ask: Ask,
    *, watch_s: float, accept_s: float = ACCEPT_S,
) -> Judgement:  # fmt: skip
    """Waits for the cohort's acceptance, then watches it."""
    loop = asyncio.get_running_loop()
    before = _total(await ask(), cohort)
    deadline = loop.time() + accept_s
    while not has_accepted():
        if reasons := refusals():
            return Judgement(is_good=False, reason=reasons[0])
        if loop.time() > deadline:
            return Judgement(is_good=False, reason=f"not accepted by every client of the canary within {accept_s:g} s")
        await asyncio.sleep(min(POLL_S, watch_s, 0.05))
    if reasons := refusals():
        return Judgement(is_good=False, reason=reasons[0])
    start = _total(await ask(), cohort)
    until = loop.time() + watch_s
    while loop.time() < until:
        await asyncio.sleep(min(POLL_S, max(0.0, until - loop.time())))
        share = _share(start, _total(await ask(), cohort))
        if share > _share(Requests(completed=0, failed=0), before) + RISE:
            return Judgement(is_good=False, reason=f"{share:.1%} of the canary's requests fail")
    return Judgement(is_good=True, reason=f"accepted by {len(cohort)}, no more errors within {watch_s:g} s")


def _total(counters: Mapping[str, Counters], cohort: frozenset[str]) -> Requests:
    those = [one for name, one in counters.items() if name in cohort]
    return Requests(completed=sum(one.completed for one in those), failed=sum(one.failed for one in those))


def _share(before: Requests, after: Requests) -> float:
    completed = after.completed - before.completed
    return (after.failed - before.failed) / completed if completed > 0 else 0.0
