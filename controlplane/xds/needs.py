"""Who needs whom, on one stream: what must be there before a form is offered, and what must not be taken away yet.

Routes, listeners and extensions wait for the clusters they name; that is all of "make". "Break" follows references
backwards: nothing goes while something the client holds, or is about to hold, still names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import Reference, references
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.channel import ABSENT, Channel, Form

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

    def is_ready(self, form: Resource) -> bool:
        """Every cluster the form names is accepted by this client, and no removal of it is on its way.

        As far as it asks for clusters on this stream.
        """
        clusters = self._channels.get(types.CLUSTER)
        if clusters is None or form.type_url == types.CLUSTER:
            return True
        return not any(
            clusters.acked.get(reference.name, ABSENT) is ABSENT or clusters.may_lack(reference.name)
            for reference in references(form)
            if reference.type_url == types.CLUSTER and clusters.subscription.covers(reference.name)
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
