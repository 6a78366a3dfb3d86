"""Who needs whom, on one stream: what must be there before a form is offered, and what must not be taken away yet.

Routes, listeners and extensions wait for the clusters they name; that is all of "make". One cluster that is slow to
warm keeps Envoy from accepting any, and from refusing: the others are known by their endpoints, which it accepts one by
one (unless it tries their health first). To those that are late nothing is moved that works; what is new goes out.

"Break" follows references backwards: nothing goes while something the client holds, or is about to hold, names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import lru_cache

from envoy.config.cluster.v3 import cluster_pb2

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import Reference, part_references, references
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.channel import ABSENT, Channel, Form

WARMING_S = 5.0
"""For so long routes wait for a client to accept their clusters. One that says nothing for longer has a cluster that is
slow to warm: Envoy accepts none before all are warm."""


class Standing(Enum):
    """How a client stands to a cluster that it should have."""

    MISSING = "missing"
    """It was not sent, or only just, or may have been removed."""
    LATE = "late"
    """It was sent, and the client says nothing: it may be warming. Envoy answers 503 for it until it is warm."""
    WARM = "warm"


_REFERRERS: Mapping[str, frozenset[str]] = {
    types.CLUSTER: frozenset({types.LISTENER, types.ROUTE, types.VIRTUAL_HOST, types.EXTENSION}),
    types.ENDPOINT: frozenset({types.CLUSTER}),
    types.SECRET: frozenset({types.LISTENER, types.CLUSTER}),
    types.EXTENSION: frozenset({types.LISTENER}),
    types.ROUTE: frozenset({types.LISTENER}),
}


class Needs:
    """The references of one client's channels."""

    __slots__ = ("_channels", "_expected", "_unknown", "_used", "is_arriving")

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels
        self.is_arriving = False
        """The client has come back and not yet said everything that it has."""
        self._used: set[Reference] | None = None
        self._unknown: frozenset[str] = frozenset()
        self._expected: set[Reference] = set()

    def outdated(self) -> None:
        """Something was sent, answered or forgotten."""
        self._used = None

    def is_ready(self, form: Resource, now: float) -> bool:
        """Every cluster the form names is there for this client, or has had its time to become warm.

        As far as it asks for clusters on this stream.
        """
        return not any(self._standing(name, now) is Standing.MISSING for name in self._clusters_of(form))

    def as_far_as_warm(self, target: Resource, accepted: Form, now: float) -> Resource:
        """The target, but what it would move to a cluster that is late stays where the client has it.

        What is new goes out all the same: it works as soon as the cluster does.
        """
        late = {name for name in self._clusters_of(target) if self._standing(name, now) is Standing.LATE}
        if not late or not isinstance(accepted, Resource) or accepted.version == target.version:
            return target
        if not target.parts:
            return accepted
        stay = {
            part.key: before.kept
            for part, named in part_references(target)
            if not late.isdisjoint(one.name for one in named if one.type_url == types.CLUSTER)
            and (before := accepted.parts_by_key.get(part.key)) is not None
            and before.kept != part.kept
        }
        return target.replacing(stay) if stay else target

    def looked_at_again(self) -> Iterator[float]:
        """When clusters that are not accepted yet count as late."""
        clusters = self._channels.get(types.CLUSTER)
        if clusters is not None:
            offered = {name for offer in clusters.offers.values() for name in offer.changes}
            yield from (clusters.first_sent[name][1] + WARMING_S for name in offered & clusters.first_sent.keys())

    def _clusters_of(self, form: Resource) -> list[str]:
        clusters = self._channels.get(types.CLUSTER)
        if clusters is None or form.type_url == types.CLUSTER:
            return []
        named = (one.name for one in references(form) if one.type_url == types.CLUSTER)
        return [name for name in named if clusters.subscription.covers(name)]

    def _standing(self, name: str, now: float) -> Standing:
        clusters = self._channels[types.CLUSTER]
        if clusters.acked.get(name, ABSENT) is not ABSENT and not clusters.may_lack(name):
            return Standing.WARM
        form = clusters.offered_form(name)
        _, sent_at = clusters.first_sent.get(name, ("", now))
        if not isinstance(form, Resource) or now - sent_at < WARMING_S:
            return Standing.MISSING
        is_warm = self._has_endpoints_of(form) and not _has_health_checks(form.body)
        return Standing.WARM if is_warm else Standing.LATE

    def _has_endpoints_of(self, cluster: Resource) -> bool:
        """The client has accepted the endpoints that were sent after the cluster: it has the cluster."""
        endpoints = self._channels.get(types.ENDPOINT)
        named = [one.name for one in references(cluster) if one.type_url == types.ENDPOINT]
        return (
            endpoints is not None
            and bool(named)
            and all(
                isinstance(endpoints.acked.get(name), Resource)
                and name not in endpoints.owed
                and endpoints.offered_form(name) is None
                for name in named
            )
        )

    def is_used(self, type_url: str, name: str) -> bool:
        """Something the client holds names the resource, or might: content from an earlier life is not known here."""
        if self.is_arriving and type_url in _REFERRERS:
            return True
        if Reference(type_url, name) in self._named():
            return True
        return bool(_REFERRERS.get(type_url, frozenset()) & self._unknown)

    def expect(self, forms: Iterable[Form]) -> None:
        """The client has these now, and will ask for what they name."""
        for form in forms:
            if isinstance(form, Resource):
                self._expected |= {name for name in references(form) if name.type_url != types.CLUSTER}

    def are_asked_for(self, target: Snapshot) -> bool:
        """The client has asked for, and accepted, everything that what it holds names. An Envoy that has its clusters
        is about to ask for listeners."""
        clusters = self._channels.get(types.CLUSTER)
        if clusters is not None and clusters.subscription.is_wildcard and types.LISTENER not in self._channels:
            return False
        self._expected = {name for name in self._expected if target.get(*name) is not None and not self._has(name)}
        if self._expected:
            self._expected &= self._named()  # what named it may be gone again: a listener whose extension was refused
        return not self._expected

    def has_asked_for_all(self) -> bool:
        """A client that came back has said what it has of every type that what it holds names."""
        clusters = self._channels.get(types.CLUSTER)
        if clusters is not None and clusters.subscription.is_wildcard and types.LISTENER not in self._channels:
            return False
        return all(
            name.type_url in self._channels and self._channels[name.type_url].subscription.covers(name.name)
            for channel in self._channels.values()
            for form in channel.acked.values()
            if isinstance(form, Resource)
            for name in references(form)
            if name.type_url in (types.ROUTE, types.EXTENSION)
        )

    def _has(self, reference: Reference) -> bool:
        channel = self._channels.get(reference.type_url)
        return channel is not None and channel.acked.get(reference.name, ABSENT) is not ABSENT

    def _named(self) -> set[Reference]:
        """Everything that what the client holds names."""
        if self._used is not None:
            return self._used
        used: set[Reference] = set()
        unknown = set()
        for channel in self._channels.values():
            for form in channel.held():
                if isinstance(form, Resource):
                    used |= references(form)
                elif form is not ABSENT:
                    unknown.add(channel.type_url)
        self._used, self._unknown = used, frozenset(unknown)
        return used


@lru_cache(maxsize=4_096)
def _has_health_checks(cluster: bytes) -> bool:
    return bool(cluster_pb2.Cluster.FromString(cluster).health_checks)
