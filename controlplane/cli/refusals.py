"""What the Envoy binary refuses of a snapshot, each thing with the place it is made of.

Envoy stops at the first thing that it does not like and seldom names it. So it is asked again about less and less: the
first of all things that it takes no more is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import Reference, references
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot

MOST = 10
"""Enough to put right for one time. Each takes Envoy as many starts as the number of things has binary digits."""

_ORDER = (types.SECRET, types.CLUSTER, types.LISTENER)
"""What is named comes before what names it."""

Ask = Callable[[Snapshot], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What Envoy says, and where that is written. No places: it is nothing that the manifests say."""

    text: str
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class _Thing:
    """A resource, or a route: wherever it stands, in several tables and hosts."""

    origins: tuple[Origin, ...]
    resource: Resource | None = None
    body: bytes = b""

    def names(self, other: _Thing) -> bool:
        if self.resource is None or other.resource is None:
            return False
        return Reference(other.resource.type_url, other.resource.name) in references(self.resource)


def refusals(snapshot: Snapshot, ask: Ask) -> tuple[Refusal, ...]:
    """Everything that Envoy refuses, at most `MOST`. `ask` is what Envoy says of a snapshot, None where it agrees."""
    things = list(_things(snapshot))
    found: list[Refusal] = []
    while len(found) < MOST and (text := ask(_only(snapshot, things))) is not None:
        if (alone := ask(_only(snapshot, ()))) is not None:
            return (*found, Refusal(text=alone))
        taken, refused = 0, len(things)
        while refused - taken > 1:
            middle = (taken + refused) // 2
            said = ask(_only(snapshot, things[:middle]))
            if said is None:
                taken = middle
            else:
                refused, text = middle, said
        guilty = things[refused - 1]
        found.append(Refusal(text=text, origins=guilty.origins))
        things = [one for one in things if one is not guilty and not one.names(guilty)]
    return tuple(found)


def _things(snapshot: Snapshot) -> Iterator[_Thing]:
    for type_url in _ORDER:
        for resource in snapshot.of_type(type_url).values():
            yield _Thing(resource.origins, resource=resource)
    routes = {part.body: part for table in snapshot.of_type(types.ROUTE).values() for part in table.parts}
    for part in routes.values():
        yield _Thing((part.origin,) if part.origin is not None else (), body=part.body)


def _only(snapshot: Snapshot, things: Sequence[_Thing]) -> Snapshot:
    resources = {id(one.resource) for one in things}
    bodies = {one.body for one in things}
    return Snapshot.of(
        _with_routes(resource, bodies)
        for resource in snapshot
        if resource.type_url not in _ORDER or id(resource) in resources
    )


def _with_routes(resource: Resource, bodies: Collection[bytes]) -> Resource:
    left_out = {part.key: b"" for part in resource.parts if part.body not in bodies}
    return resource.replacing(left_out) if left_out else resource
