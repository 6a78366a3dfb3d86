"""What the control plane can say about itself and its clients: values, and their JSON.

`apply --wait`, `causeway status` and CSDS all read these; nothing here asks a client anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum

Json = dict[str, object]


class Verdict(Enum):
    """Where a client stands in regard to the revision being served."""

    SYNCED = "synced"
    PENDING = "pending"
    REJECTED = "rejected"
    """It accepted everything but what is kept back from it."""
    SILENT = "silent"
    """It has not answered for longer than it should take."""
    FROZEN = "frozen"
    """It is connected, but its admin interface does not answer any more: stopped, or stuck."""
    CANARY = "canary"
    """It has all of what is on trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    type: str
    """Short name: `Cluster`."""
    subscribed: str
    """`*`, or how many names."""
    holds: int
    accepted: int
    pending: int
    version: str
    state: str
    """ACKED, NACKED, WAITING (sent, not answered), or NONE."""
    acked_age_s: float | None
    nack: str | None
    nack_age_s: float | None
    nack_origins: tuple[str, ...]
    """Where in the manifests what was refused is, if that is known."""
    kept_back: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    id: str
    cluster: str
    agent: str
    version: str
    kind: str
    peer: str
    protocol: str
    connected_s: float
    heard_s: float
    verdict: Verdict
    revision: str
    """The newest revision that this client has in full."""
    since_s: float | None
    took_s: float | None
    """From the revision being out to this client having it in full; None while it has not."""
    lag_s: float
    """How long the served revision has been out without this client having it in full."""
    frozen_s: float | None = None
    drifted_to: str | None
    """Another id or cluster that it gave in mid-stream; it is served as who it said it was at first."""
    nacks: int
    responses: int
    bytes_sent: int
    types: tuple[TypeStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBack:
    """One thing of the manifests that some clients refuse."""

    kind: str
    type: str
    resource: str
    part: str | None
    origins: tuple[str, ...]
    text: str
    client: str
    age_s: float
    serving: str
    """`last accepted form`, `a 503 in its place`, or `nothing`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldChange:
    """A new state that was not put in service."""

    revision: str
    reason: str
    removes: tuple[str, ...]
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    revision: str
    version: str
    served_s: float
    source: str
    """`manifests`, or `last known good` after a start without usable manifests."""
    resources: dict[str, int]
    clients: tuple[ClientStatus, ...]
    kept_back: tuple[KeptBack, ...]
    problems: tuple[str, ...]
    """Of the last edit, when it was not put in service."""
    problems_age_s: float | None
    held: HeldChange | None

    def as_json(self) -> Json:
        document: Json = asdict(self, dict_factory=_plain)
        return document


def _plain(pairs: list[tuple[str, object]]) -> Json:
    return {key: value.value if isinstance(value, Enum) else value for key, value in pairs}
