"""How much a change would take away: emptied folders and half-written trees look like deletions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Part
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.status import HeldChange

FEW = 3
"""Removing up to this many of anything is never held: small gateways are edited by hand."""


@dataclass(slots=True)
class Waiting:
    """A change that is held until somebody confirms it, because of what it removes."""

    snapshot: Snapshot
    revision: str
    removes: tuple[str, ...]
    share: float
    since: float

    @property
    def reason(self) -> str:
        what = self.removes[0].partition(" ")[0]
        return f"removes {len(self.removes)} {what}s at once, more than {self.share:.0%} of those served"

    def told(self, now: float) -> HeldChange:
        """As the status has it."""
        return HeldChange(revision=self.revision, reason=self.reason, removes=self.removes, age_s=now - self.since)


def mass_deletion(before: Snapshot, after: Snapshot, share: float) -> tuple[str, ...]:
    """What the change removes, when it is more than the share of the services or of the routes; else nothing.

    Routes as somebody wrote them: one that stands in several virtual hosts or listeners is one.
    """
    for gone, had in (_clusters(before, after), _routes(before, after)):
        if len(gone) > FEW and len(gone) > share * had:
            return tuple(sorted(gone))
    return ()


def _clusters(before: Snapshot, after: Snapshot) -> tuple[set[str], int]:
    had = before.of_type(types.CLUSTER).keys()
    return {f"service {name}" for name in had - after.of_type(types.CLUSTER).keys()}, len(had)


def _routes(before: Snapshot, after: Snapshot) -> tuple[set[str], int]:
    had, has = _by_key(before), _by_key(after)
    gone = had.keys() - has.keys()
    if len(gone) <= FEW:
        return set(), len(had)
    written = {_written(part) for part in had.values()}
    return written - {_written(had[key]) for key in had.keys() & has.keys()}, len(written)


def _by_key(snapshot: Snapshot) -> Mapping[str, Part]:
    tables = [resource.parts_by_key for resource in snapshot.of_type(types.ROUTE).values()]
    return tables[0] if len(tables) == 1 else {key: part for table in tables for key, part in table.items()}


def _written(part: Part) -> str:
    """Where it was written is what a route is known by, wherever else it stands."""
    return f"route {part.origin}" if part.origin is not None else f"route {part.key}"
