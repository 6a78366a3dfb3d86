"""Credentials verified before, so that they need not be verified again.

The cache is exact: an entry counts only while its credential would still pass for the same reason. It is dropped when
the credential ends, when the issuer's keys are no longer the very ones it was verified with, and when a revocation
names it; a new policy document starts with an empty cache. It is keyed by a keyed digest of the whole credential, so
it holds none, and bounded by what it may hold in memory; the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from extauthz.core.identity import Identity
from extauthz.core.jwt import Issuer

DEFAULT_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 4096
_PER_CREDENTIAL_BYTE: Final = 6
_MAX_DECISIONS: Final = 16

_Decision = TypeVar("_Decision")


@dataclass(slots=True)
class Entry(Generic[_Decision]):
    """A verified credential, and the decisions already made for it, by policy: each with the time it counts until."""

    identity: Identity
    issuer: Issuer | None
    epoch: int
    """The revocations' epoch in which it was last found not revoked."""
    cost: int
    decisions: dict[str, tuple[float, _Decision]] = field(default_factory=dict)

    def remember(self, policy: str, until: float, decision: _Decision) -> None:
        if len(self.decisions) >= _MAX_DECISIONS:
            self.decisions.clear()
        self.decisions[policy] = (until, decision)


class Cache(Generic[_Decision]):
    """Entries by digest. `secret` is random and of this process."""

    __slots__ = ("_bytes", "_entries", "_limit", "_secret", "hits", "misses")

    def __init__(self, secret: bytes, *, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._secret = secret
        self._limit = limit_bytes
        self._entries: OrderedDict[bytes, Entry[_Decision]] = OrderedDict()
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the entries take, estimated from above."""
        return self._bytes

    def digest(self, kind: bytes, credential: bytes) -> bytes:
        """The key of a credential."""
        return blake2b(credential, key=self._secret, person=kind, digest_size=20).digest()

    def get(self, digest: bytes) -> Entry[_Decision] | None:
        found = self._entries.get(digest)
        if found is not None:
            self._entries.move_to_end(digest)
        return found

    def put(
        self, digest: bytes, credential_bytes: int, identity: Identity, issuer: Issuer | None, epoch: int
    ) -> Entry[_Decision]:
        self.drop(digest)
        cost = _ENTRY_BYTES + _PER_CREDENTIAL_BYTE * credential_bytes
        entry: Entry[_Decision] = Entry(identity, issuer, epoch, cost)
        self._entries[digest] = entry
        self._bytes += cost
        while self._bytes > self._limit and self._entries:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.cost
        return entry

    def drop(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._bytes -= entry.cost
