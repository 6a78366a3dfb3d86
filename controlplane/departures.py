"""Policies that the manifests do not say any more, and that the routes of some client still name.

The authorization service remembers a policy that left its document for a minute, which is longer than Envoys usually
take to get the routes that go with the new one. A route can stay longer: at its last accepted form because Envoy
refuses the new one, or on its old service because the new one is not ready. Its callers would be denied then. So the
document keeps the policies that are named, for as long as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.http_filters.ext_authz import policies_named
from controlplane.translate.policies.departing import policies_of, with_policies
from extauthz.policy import RoutePolicy

EVERY_S = 2.0
GRACE_S = 10.0
"""Most routes are with every Envoy by then, and what they named before need not be kept at all."""


class Departures:
    """What documents have said that is not to be forgotten yet."""

    def __init__(self) -> None:
        self._kept: Mapping[str, RoutePolicy] = {}
        self._said: dict[str, tuple[Resource, float]] = {}  # by version, and until when

    def say(self, document: Resource | None, now: float) -> None:
        """The document is served, or about to be."""
        if document is not None:
            self._said[document.version] = (document, now)

    def look(self, said: Resource, in_use: Callable[[], Iterable[bytes]], now: float) -> bool:
        """Whether other policies are to be kept beside what is `said` than before. `in_use` are clients' routes."""
        left = [version for version, (_, until) in self._said.items() if now - until >= GRACE_S]
        if not left and not self._kept:
            return False
        named = frozenset[str]().union(*map(policies_named, in_use()))
        missing = named - policies_of(said).keys() if named else named
        before, older = self._kept, [self._said.pop(version)[0] for version in left]
        self._kept = {}
        if missing:
            known = dict(before)
            for document in older:
                known |= policies_of(document)
            self._kept = {name: known[name] for name in missing & known.keys()}
        return before.keys() != self._kept.keys()

    def joined(self, snapshot: Snapshot, key: tuple[str, str]) -> Snapshot:
        """The snapshot with what is kept in its document of that type and name."""
        document = snapshot.get(*key)
        if document is None or not self._kept:
            return snapshot
        return snapshot.replacing({key: with_policies(document, self._kept)})
