"""The words of the conversation: what clients ask and what they are told, as values.

Nothing here knows protobuf or gRPC; `codec` turns bytes into these and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource


class Variant(Enum):
    SOTW = "sotw"
    DELTA = "delta"


ORDER = (
    types.CLUSTER,
    types.ENDPOINT,
    types.SECRET,
    types.EXTENSION,
    types.LISTENER,
    types.ROUTE,
    types.VIRTUAL_HOST,
    types.RATE_LIMIT_CONFIG,
)
"""Make before break, in the order in which additions and changes are sent. Removals follow the references backwards."""

FULL_STATE = frozenset({types.LISTENER, types.CLUSTER, types.RATE_LIMIT_CONFIG})
"""State of the world: a response of these types holds everything; what it does not hold is deleted."""

REPEATED = frozenset({types.SECRET, types.EXTENSION})
"""What listeners and clusters are made of: an Envoy keeps it as long as it asks for it, so that one that drains has it.
State of the world: a response of these types repeats what the client has. Envoy's unified mux reads less as none."""

LEGACY_WILDCARD = frozenset({types.LISTENER, types.CLUSTER, types.RATE_LIMIT_CONFIG})
"""A client that never named a resource of these types asks for all of them."""

_PRINTED, _AFTER_PRINTED = "goo.gle/debug", "\n: "

NAMES_PER_TYPE = 100_000
"""On one stream, and so in one request: what a client was given it can say back when it connects anew."""

REQUEST_BYTES = 32 << 20
"""As much as so many names with their versions are, of 300 bytes each: a client that was refused them would come back
with the same for ever."""

TTL_FEATURE = "xds.config.supports-resource-ttl"
SOTW_WRAPPER_FEATURE = "xds.config.resource-in-sotw"


_NOT_THE_LISTENER_S = re.compile(
    r"cannot bind|address (already )?in use|cannot assign requested address|certificate|private key", re.IGNORECASE
)


class ProtocolError(Exception):
    """The client broke the protocol; its stream ends with INVALID_ARGUMENT and this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Who a client says it is."""

    id: str = ""
    cluster: str = ""
    agent: str = ""
    version: str = ""
    features: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> str:
        """Clients of a kind accept and reject the same resources. Who does not say what it is has a kind of its own."""
        return f"{self.agent}/{self.version}" if self.agent else f"node {self.id}"

    @property
    def release(self) -> tuple[int, int] | None:
        """The first two numbers of its version; None where it says none."""
        match self.version.split("."):
            case [major, minor, *_] if major.isdecimal() and minor.isdecimal():
                return int(major), int(minor)
            case _:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwRequest:
    type_url: str = ""
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None
    """The client's reason for rejecting the response it names by nonce; None when it accepts."""
    node: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    type_url: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None
    node: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response. `nonce` is the stream's own; everything else may be equal for many streams."""

    variant: Variant
    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    """Incremental: names the client should forget, or asked for and cannot have."""
    missing: tuple[str, ...] = ()
    """Names asked for that do not exist: told as resource errors."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """On-demand virtual hosts: the names they were asked for by. A name here without a resource does not exist."""
    with_ttl: bool = False
    heartbeat: bool = False
    """The resources are the ones already sent: only their names, versions and time to live travel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a client will not accept: a whole resource, or one part of it, and what it is given instead."""

    type_url: str
    name: str
    version: str
    """Version of the resource as it was offered."""
    part: str | None
    rejected: bytes
    """The rejected body: of the part, or of the whole resource."""
    replacement: bytes
    """What stands in: the last accepted form, a part's fallback, or nothing."""
    text: str
    """The client's own words."""
    origins: tuple[Origin, ...] = ()

    @property
    def may_pass(self) -> bool:
        """A listener that is not to blame itself: its address is taken on the client's host, or Envoy judges it by a
        certificate that is a resource of its own."""
        return self.type_url == types.LISTENER and _NOT_THE_LISTENER_S.search(self.text) is not None


def reason(text: str) -> str:
    """What Envoy says without the messages that it prints with it: `goo.gle/debugonly`, their fields, and `: ` on a
    line of its own, before what is wrong with them. They are long, and may hold secrets."""
    kept, at = [], 0
    while (start := text.find(_PRINTED, at)) >= 0 and (end := text.find(_AFTER_PRINTED, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(_AFTER_PRINTED)
    return "".join((*kept, text[at:]))
