"""How much a change would take away: emptied folders and half-written trees look like deletions. Pure."""

from __future__ import annotations

from controlplane.snapshot import resource as types
from controlplane.snapshot.snapshot import Snapshot

FEW = 3
"""Removing up to this many of anything is never held: small gateways are edited by hand."""


def mass_deletion(before: Snapshot, after: Snapshot, share: float) -> tuple[str, ...]:
    """What the change removes, when it is more than the share of the services or of the routes; else nothing."""
    for gone, had in (_clusters(before, after), _routes(before, after)):
        if len(gone) > FEW and len(gone) > share * had:
            return tuple(sorted(gone))
    return ()


def _clusters(before: Snapshot, after: Snapshot) -> tuple[set[str], int]:
    had = before.of_type(types.CLUSTER).keys()
    return {f"service {name}" for name in had - after.of_type(types.CLUSTER).keys()}, len(had)


def _routes(before: Snapshot, after: Snapshot) -> tuple[set[str], int]:
    had = _route_keys(before)
    return {f"route {key}" for key in had - _route_keys(after)}, len(had)


def _route_keys(snapshot: Snapshot) -> frozenset[str]:
    return frozenset().union(*(resource.parts_by_key for resource in snapshot.of_type(types.ROUTE).values()))
