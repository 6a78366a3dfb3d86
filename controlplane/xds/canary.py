"""A change shown to some clients first: who they are, and how one sees whether it does them good. Pure.

The cohort gets the new snapshot; everybody else keeps what is served. Envoy's own counters are what speaks: the share
of the cohort's requests that fail, against the time before and against the other Envoys in the same time. The services
are always in the cohort: the policy documents that the new routes name must be there first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from controlplane.snapshot.snapshot import Snapshot

RISE = 0.01
"""A cohort whose share of failed requests is higher by more than this is not well."""
FEW = 3
"""Fewer failures than this above what is expected are chance."""
ENOUGH = 20
"""The other Envoys say something from this many requests on."""
MOST_PLACES = 8


class Counters(Protocol):
    """What an Envoy has answered since it started."""

    @property
    def completed(self) -> int: ...

    @property
    def failed(self) -> int: ...

    @property
    def by_service(self) -> Mapping[str, int]:
        """Failures by service and status: `orders 503`."""
        ...


Readings = Mapping[str, Counters]
"""The counters of the Envoys that can be asked, by node id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Counters, or the difference between two readings of them."""

    completed: int = 0
    failed: int = 0
    by_service: Mapping[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of those completed, how many failed."""
        return self.failed / self.completed if self.completed > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A snapshot on trial with some clients."""

    snapshot: Snapshot
    shown: Snapshot
    """What the cohort gets meanwhile: the snapshot, and what those who do not have it still need of the services."""
    revision: str
    size: str
    cohort: frozenset[str] = frozenset()
    """The Envoys. Empty until one is connected."""
    services: frozenset[str] = frozenset()

    def includes(self, node_id: str) -> bool:
        """Whether this client has the new snapshot."""
        return node_id in self.cohort or node_id in self.services


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The cohort's requests since it has the change, against the time before and against the others."""

    before: Requests = Requests()
    cohort: Requests = Requests()
    others: Requests = Requests()
    others_before: Requests = Requests()

    def objection(self) -> str | None:
        """Why the cohort is not well, or None."""
        if _exceeds(self.cohort, self.before.share):
            against = ""
        elif self.others.completed >= ENOUGH and _exceeds(
            self.cohort, self.others.share + max(0.0, self.before.share - self.others_before.share)
        ):
            against = ", more than of the others"
        else:
            return None
        others = f", of the others' {self.others.share:.1%}" if self.others.completed else ""
        return (
            f"{self.cohort.share:.1%} of the canary's {self.cohort.completed} requests fail{against}"
            f" (5xx; before {self.before.share:.1%}{others}){_named(self.cohort.by_service)}"
        )


def choose(size: str, ids: Iterable[str], measured: AbstractSet[str] = frozenset()) -> frozenset[str]:
    """A number or a share of the clients, always the same ones; first those that can be measured.

    Raises ValueError with what would be right.
    """
    known = sorted(set(ids), key=lambda one: (one not in measured, blake2b(one.encode(), digest_size=8).digest()))
    text = size.strip()
    try:
        count = math.ceil(len(known) * float(text[:-1]) / 100) if text.endswith("%") else int(text)
        wanted = float(text.removesuffix("%"))
    except (ValueError, OverflowError):
        raise ValueError(f'"{size}": expected a number of Envoys or a share such as 10%') from None
    if wanted <= 0:
        raise ValueError(f'"{size}": a canary needs at least one Envoy')
    if wanted > 100 and text.endswith("%"):
        raise ValueError(f'"{size}": a canary has at most 100% of the Envoys')
    return frozenset(known[:count])


def between(start: Readings, end: Readings, who: AbstractSet[str] | None = None) -> Requests:
    """What these Envoys answered from one reading to the other; all of them where nobody is named."""
    completed = failed = 0
    by_service: Counter[str] = Counter()
    for name, now in end.items():
        if who is not None and name not in who:
            continue
        was = start.get(name, Requests())
        if _began_anew(was, now):
            was = Requests()
        completed += now.completed - was.completed
        failed += now.failed - was.failed
        by_service.update(now.by_service)
        by_service.subtract(was.by_service)
    return Requests(completed=completed, failed=failed, by_service={k: n for k, n in by_service.items() if n > 0})


def restarted(start: Readings, end: Readings, cohort: AbstractSet[str]) -> str | None:
    """An Envoy of the cohort whose counters began anew."""
    return next(
        (name for name in sorted(cohort & start.keys() & end.keys()) if _began_anew(start[name], end[name])), None
    )


def changed_places(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """Where in the manifests the change is: places of what is new or other. The first few."""
    found: dict[str, None] = {}
    for resource in after:
        was = before.get(resource.type_url, resource.name)
        if was is not None and was.version == resource.version:
            continue
        if not resource.parts:
            found |= dict.fromkeys(map(str, resource.origins))
            continue
        old = {part.key: part.body for part in was.parts} if was is not None else {}
        parts = (part for part in resource.parts if old.get(part.key) != part.body)
        found |= {str(part.origin): None for part in parts if part.origin is not None}
    return tuple(sorted(found))[:MOST_PLACES]


def _began_anew(was: Counters, now: Counters) -> bool:
    return now.completed < was.completed


def _exceeds(requests: Requests, expected: float) -> bool:
    return requests.failed - (expected + RISE) * requests.completed > FEW - 1


def _named(by_service: Mapping[str, int]) -> str:
    worst = sorted(by_service.items(), key=lambda one: -one[1])[:3]
    return "; " + ", ".join(f"service {name}: {count}" for name, count in worst) if worst else ""
