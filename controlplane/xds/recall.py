"""Understanding a client that comes back: it names versions, what was served lately says what they were.

What is known is what the client holds; what is not known may be anything, and nothing is taken away under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from controlplane.snapshot.resource import Resource
from controlplane.xds.channel import ABSENT, Channel, Elsewhere


class Memory(Protocol):
    """What was served lately (`snapshot.history.History`)."""

    def resource(self, type_url: str, name: str, version: str) -> Resource | None: ...

    def state(self, type_url: str, version: str) -> Mapping[str, Resource] | None: ...

    def note_state(self, type_url: str, version: str, resources: Iterable[Resource]) -> None: ...


def each(memory: Memory, channel: Channel, versions: Mapping[str, str]) -> None:
    """Incremental: the client says the version of each resource."""
    for name, version in versions.items():
        if channel.subscription.covers(name):
            known = memory.resource(channel.type_url, name, version)
            unknown = Elsewhere(version) if version else ABSENT
            channel.sent[name] = channel.acked[name] = known or unknown


def state(memory: Memory, channel: Channel, version: str, is_visible: Callable[[Channel, Resource], bool]) -> bool:
    """State of the world: the client says the version of the type. False when that is not known any more."""
    known = memory.state(channel.type_url, version)
    if known is None:
        return False
    for name, resource in known.items():
        if is_visible(channel, resource):
            channel.sent[name] = channel.acked[name] = resource
    channel.last_version = version
    return True


def named(memory: Memory, channel: Channel, version: str, names: Iterable[str]) -> None:
    """State of the world, by name: all is sent again, and until that is accepted the old forms may be in use."""
    known = memory.state(channel.type_url, version) or {}
    for name in names:
        channel.sent[name] = channel.acked[name] = known.get(name) or Elsewhere(version)
