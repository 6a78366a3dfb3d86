"""What was served lately, so that a client that comes back is understood: it names versions, we know their content.

A client that reconnects says which version of each resource it holds (incremental), or which version of a type (state
of the world). While those are remembered here, nothing is sent twice and nothing it still uses is removed under it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping

from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot

REMEMBERED = 16


class History:
    """The newest snapshots, newest first."""

    def __init__(self, snapshots: Iterable[Snapshot] = (), *, remembered: int = REMEMBERED) -> None:
        self._snapshots: deque[Snapshot] = deque(snapshots, maxlen=remembered)
        self._between: OrderedDict[tuple[str, str], Mapping[str, Resource]] = OrderedDict()

    def remember(self, snapshot: Snapshot) -> None:
        if not any(known is snapshot for known in self._snapshots):
            self._snapshots.appendleft(snapshot)

    def note_state(self, type_url: str, version: str, resources: Iterable[Resource]) -> None:
        """A client was given this in the middle of a change: a state that no snapshot ever had."""
        self._between[type_url, version] = {resource.name: resource for resource in resources}
        while len(self._between) > 4 * REMEMBERED:
            self._between.popitem(last=False)

    def resource(self, type_url: str, name: str, version: str) -> Resource | None:
        """The resource that had this version, if it was served lately."""
        for snapshot in self._snapshots:
            found = snapshot.get(type_url, name)
            if found is not None and found.version == version:
                return found
        return None

    def state(self, type_url: str, version: str) -> Mapping[str, Resource] | None:
        """Every resource of the type when the type had this version, if that was lately."""
        for snapshot in self._snapshots:
            if type_url in snapshot.by_type and snapshot.version_of(type_url) == version:
                return snapshot.of_type(type_url)
        return self._between.get((type_url, version))
