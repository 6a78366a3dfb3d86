"""What clients would not accept, and what is served instead.

A verdict concerns clients of one kind (agent and version): another version of Envoy may accept what this one rejects.
It concerns content, not names: as soon as the manifest's resource or part has other bytes, it is offered again. What
names a resource that is left out is kept back too, at its last accepted form, so that nothing dangles. And what such a
form names comes back with it if the manifests have taken it away: an edit that moves a service from addresses to a host
name takes its ClusterLoadAssignment away, without which its last accepted cluster would be nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from controlplane.origin import Origin
from controlplane.snapshot.consistency import Reference, part_references, references
from controlplane.snapshot.resource import Part, Resource, whole
from controlplane.snapshot.snapshot import EMPTY, Snapshot
from controlplane.xds.protocol import Verdict

VERDICTS_PER_KIND = 10_000
KINDS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One thing kept back from clients of a kind."""

    kind: str
    type_url: str
    name: str
    part: str | None
    digest: str
    """Of the rejected body: other content is another chance."""
    replacement: bytes
    text: str
    origins: tuple[Origin, ...]
    since: float
    client: str

    @property
    def key(self) -> tuple[str, str, str | None, str]:
        return (self.type_url, self.name, self.part, self.digest)

    def is_about(self, resource: Resource) -> bool:
        """The resource has the content that was rejected."""
        if self.part is None:
            return _digest(resource.body) == self.digest
        part = resource.parts_by_key.get(self.part)
        return part is not None and _digest(part.body) == self.digest


class Quarantine:
    """The verdicts of every kind of client."""

    def __init__(self, held: Iterable[Held] = ()) -> None:
        self._by_kind: dict[str, dict[tuple[str, str, str | None, str], Held]] = {}
        for one in held:
            self._by_kind.setdefault(one.kind, {})[one.key] = one

    def add(self, kind: str, client: str, verdict: Verdict, at: float) -> Held | None:
        """Remembers a verdict. None when it is known already."""
        held = Held(
            kind=kind,
            type_url=verdict.type_url,
            name=verdict.name,
            part=verdict.part,
            digest=_digest(verdict.rejected),
            replacement=verdict.replacement,
            text=verdict.text,
            origins=verdict.origins,
            since=at,
            client=client,
        )
        known = self._by_kind.setdefault(kind, {})
        if held.key in known or len(known) >= VERDICTS_PER_KIND:
            return None
        known[held.key] = held
        if len(self._by_kind) > KINDS:
            del self._by_kind[next(iter(self._by_kind))]
        return held

    def of_kind(self, kind: str) -> tuple[Held, ...]:
        return tuple(self._by_kind.get(kind, {}).values())

    def all(self) -> tuple[Held, ...]:
        return tuple(held for kind in self._by_kind.values() for held in kind.values())

    def by_type(self) -> Mapping[tuple[str, str], list[Held]]:
        """What is kept back, by the kind of client and the type URL."""
        found: dict[tuple[str, str], list[Held]] = {}
        for held in self.all():
            found.setdefault((held.kind, held.type_url), []).append(held)
        return found

    def about(self, snapshot: Snapshot) -> tuple[Held, ...]:
        """Verdicts that concern content of this snapshot."""
        return tuple(held for held in self.all() if _applies(held, snapshot))

    def forget_outdated(self, *snapshots: Snapshot) -> None:
        """Drops verdicts about content that is no longer what the manifests say."""
        for kind, known in self._by_kind.items():
            self._by_kind[kind] = {
                key: held for key, held in known.items() if any(_applies(held, snapshot) for snapshot in snapshots)
            }

    def drop(self, held: Held) -> None:
        """It is not kept back any more."""
        self._by_kind.get(held.kind, {}).pop(held.key, None)

    def effective(self, kind: str, snapshot: Snapshot, accepted: Snapshot = EMPTY) -> Snapshot:
        """What clients of the kind are served: the snapshot without what they rejected and what depends on that.

        `accepted` is what such clients accepted last: dependents fall back to it.
        """
        held = [one for one in self.of_kind(kind) if _applies(one, snapshot)]
        if not held:
            return snapshot
        replaced = _replacements(held, snapshot)
        refused = {Reference(*key) for key, one in replaced.items() if one is None}
        return _without_dangling(snapshot.replacing(replaced), accepted, refused)


def _applies(held: Held, snapshot: Snapshot) -> bool:
    resource = snapshot.get(held.type_url, held.name)
    return resource is not None and held.is_about(resource)


def _replacements(held: Iterable[Held], snapshot: Snapshot) -> Mapping[tuple[str, str], Resource | None]:
    out: dict[tuple[str, str], Resource | None] = {}
    parts: dict[tuple[str, str], dict[str, bytes]] = {}
    for one in held:
        resource = snapshot.get(one.type_url, one.name)
        if resource is None:
            continue
        key = (one.type_url, one.name)
        if one.part is not None:
            parts.setdefault(key, {})[one.part] = one.replacement
        elif one.replacement:
            out[key] = whole(one.type_url, one.name, one.replacement, *resource.origins, audience=resource.audience)
        else:
            out[key] = None
    for key, bodies in parts.items():
        resource = snapshot.get(*key)
        if key not in out and resource is not None:
            out[key] = resource.replacing(bodies)
    return out


def _without_dangling(snapshot: Snapshot, accepted: Snapshot, gone: set[Reference]) -> Snapshot:
    """Brings back what is missing, or keeps back whatever names it, until nothing is. What is `gone` stays away."""
    while dangling := [resource for resource in snapshot if not _resolves(references(resource), snapshot)]:
        spare = accepted.replacing(dict.fromkeys(gone))
        named = frozenset[Reference]().union(*map(references, dangling))
        changes: dict[tuple[str, str], Resource | None]
        changes = {name: spare.get(*name) for name in named if _is_in(spare, name) and not _is_in(snapshot, name)}
        if not changes:
            changes = {(one.type_url, one.name): _kept_back(one, snapshot, accepted, spare) for one in dangling}
        gone |= {Reference(*name) for name, one in changes.items() if one is None}
        snapshot = snapshot.replacing(changes)
    return snapshot


def _kept_back(resource: Resource, snapshot: Snapshot, accepted: Snapshot, spare: Snapshot) -> Resource | None:
    """The resource with the parts that dangle at their accepted form, or their fallback; else its accepted form."""
    before = accepted.get(resource.type_url, resource.name)
    old: Mapping[str, tuple[Part, frozenset[Reference]]] = (
        {part.key: (part, named) for part, named in part_references(before)} if before is not None else {}
    )
    bodies: dict[str, bytes] = {}
    for part, named in part_references(resource):
        if _resolves(named, snapshot):
            continue
        earlier = old.get(part.key)
        is_usable = earlier is not None and earlier[0].body != part.body and _resolves(earlier[1], snapshot, spare)
        bodies[part.key] = earlier[0].kept if earlier is not None and is_usable else part.fallback
    repaired = resource.replacing(bodies) if bodies else resource
    if _resolves(references(repaired), snapshot, spare):
        return repaired
    if before is not None and before.version != resource.version and _resolves(references(before), snapshot, spare):
        return before
    return None


def _resolves(named: Iterable[Reference], *anywhere: Snapshot) -> bool:
    return all(any(_is_in(snapshot, reference) for snapshot in anywhere) for reference in named)


def _is_in(snapshot: Snapshot, reference: Reference) -> bool:
    return snapshot.get(*reference) is not None


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=16).hexdigest()
