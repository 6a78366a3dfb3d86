"""What is served at one moment: an immutable set of resources, by type and by name.

Two snapshots with equal content are interchangeable: every version in here is derived from the resources' bytes. This
module must not know who asks for the resources, nor how they travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from types import MappingProxyType

from controlplane.snapshot.resource import Resource

_NOTHING: Mapping[str, Resource] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Resources by type and name. Compared by identity; `version` compares content."""

    by_type: Mapping[str, Mapping[str, Resource]]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Version of a type, where its owner numbers versions itself; the content's hash otherwise."""
    _versions: dict[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(resources: Iterable[Resource], *, labels: Mapping[str, str] | None = None) -> Snapshot:
        """The snapshot that holds exactly these. Raises ValueError when two of one type share a name."""
        by_type: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            named = by_type.setdefault(resource.type_url, {})
            if resource.name in named:
                raise ValueError(f"two resources of type {resource.type_url} are named {resource.name!r}")
            named[resource.name] = resource
        return Snapshot(by_type=by_type, labels=labels or {})

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        return self.by_type.get(type_url, _NOTHING)

    def get(self, type_url: str, name: str) -> Resource | None:
        return self.by_type.get(type_url, _NOTHING).get(name)

    def __iter__(self) -> Iterator[Resource]:
        for named in self.by_type.values():
            yield from named.values()

    def __len__(self) -> int:
        return sum(map(len, self.by_type.values()))

    def version_of(self, type_url: str) -> str:
        """Changes exactly when a resource of the type is added, changed or removed."""
        return self.labels.get(type_url) or self._content_of(type_url)

    def _content_of(self, type_url: str) -> str:
        if type_url not in self._versions:
            self._versions[type_url] = version_of(self.of_type(type_url))
        return self._versions[type_url]

    @cached_property
    def version(self) -> str:
        """Hash of the whole content: 16 hexadecimal digits."""
        lines = (f"{type_url}={self._content_of(type_url)}" for type_url in sorted(self.by_type))
        return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()

    def replacing(self, changes: Mapping[tuple[str, str], Resource | None]) -> Snapshot:
        """The same snapshot with some resources, named by type and name, exchanged, or left out where None."""
        if not changes:
            return self
        by_type = {type_url: dict(named) for type_url, named in self.by_type.items()}
        for (type_url, name), resource in changes.items():
            if resource is None:
                by_type.get(type_url, {}).pop(name, None)
            else:
                by_type.setdefault(type_url, {})[name] = resource
        return Snapshot(by_type=by_type, labels=self.labels)


EMPTY = Snapshot(by_type={})


def version_of(named: Mapping[str, Resource]) -> str:
    """The version of a set of resources of one type: a hash of their names and versions."""
    lines = (f"{name}={named[name].version}" for name in sorted(named))
    return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=64)
def changed_names(old: Snapshot, new: Snapshot, type_url: str) -> frozenset[str]:
    """Names of the type that were added, removed, or have another version. Shared by every stream that moves so."""
    before, after = old.of_type(type_url), new.of_type(type_url)
    changed = set(before.keys() - after.keys())
    for name, resource in after.items():
        was = before.get(name)
        if was is None or (was is not resource and was.version != resource.version):
            changed.add(name)
    return frozenset(changed)
