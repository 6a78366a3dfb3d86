"""What a client asks for of one type: names, collections (`folder/*`), everything, or any mix of them.

Rules: xDS protocol, "How the client specifies what resources to return". A client that never named anything asks for
everything (listeners and clusters); once it named something, or "*", an empty list asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from controlplane.xds.protocol import NAMES_PER_TYPE, ProtocolError

WILDCARD = "*"


@dataclass(slots=True)
class Subscription:
    legacy_allowed: bool
    has_collections: bool = True
    """`folder/*` means everything in the folder. Else it is a name like any other."""
    names: set[str] = field(default_factory=set)
    folders: frozenset[str] = frozenset()
    """Of collections, with the slash: `folder/`."""
    is_wildcard: bool = False
    has_named: bool = False

    def covers(self, name: str) -> bool:
        return self.is_wildcard or name in self.names or any(map(name.startswith, self.folders))

    def replace(self, names: Iterable[str]) -> set[str]:
        """State of the world: the whole list at once. Returns the names asked for that were not before."""
        listed = set(names)
        if not listed and not self.has_named:
            self.is_wildcard = self.legacy_allowed
            return set()
        self.has_named = True
        self.is_wildcard = WILDCARD in listed
        # Some clients say [""] where they mean none.
        wanted = listed - {WILDCARD, ""}
        added, self.names = wanted - self.names, wanted
        self._note_folders()
        return {name for name in added if not self._is_collection(name)}

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str], *, is_first: bool) -> set[str]:
        """Incremental: what is added and taken back. Returns the names that must be answered, known or not.

        Raises ProtocolError for more names than are meant: request by request a client could add to them for ever.
        """
        added, dropped = set(subscribe), set(unsubscribe)
        if is_first and not added and self.legacy_allowed:
            self.is_wildcard = True
        if WILDCARD in added:
            self.is_wildcard = True
        if WILDCARD in dropped - added:
            self.is_wildcard = False
        self.has_named = self.has_named or bool(added)
        named = added - {WILDCARD, ""}
        # Taken back by name while everything is asked for: the client must hear what the wildcard still gives it.
        still_meant = (dropped & self.names) - added if self.is_wildcard else set()
        self.names = (self.names | named) - (dropped - named)
        if len(self.names) > NAMES_PER_TYPE:
            raise ProtocolError(f"more than {NAMES_PER_TYPE} names of one type on one stream")
        self._note_folders()
        return {name for name in named | still_meant if not self._is_collection(name)}

    def single(self) -> Iterator[str]:
        """The names that mean one resource each."""
        return (name for name in self.names if not self._is_collection(name))

    def _note_folders(self) -> None:
        self.folders = frozenset(name[:-1] for name in self.names if self._is_collection(name))

    def _is_collection(self, name: str) -> bool:
        return self.has_collections and len(name) > 2 and name.endswith("/*")
