"""One xDS resource as bytes, with its content version and the places in the manifests it came from.

A resource is immutable. Its version is a hash of its bytes, so equal content has an equal version in every process and
after every restart, and what did not change is never sent again.

Some resources hold many things of the user's (a RouteConfiguration holds every route of a listener). Such a resource
is kept as a tree of encoded fields, so that one `Part` can be replaced or left out when Envoy rejects it, without
anyone decoding or rebuilding the rest. This module knows protobuf's wire format for length-delimited fields and nothing
else of protobuf; it must not know manifests, ir, or gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from hashlib import blake2b

from controlplane.origin import Origin

_PREFIX = "type.googleapis.com/"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
VIRTUAL_HOST = _PREFIX + "envoy.config.route.v3.VirtualHost"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
RATE_LIMIT_CONFIG = _PREFIX + "ratelimit.config.ratelimit.v3.RateLimitConfig"


class Audience(Enum):
    """Who may see a resource. Envoy's wildcard subscriptions must not meet what is meant for others."""

    ENVOY = "envoy"
    GRPC = "grpc"  # proxyless gRPC clients: api_listeners, asked for by name only
    SERVICE = "service"  # our own services' policy documents: they hold secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing of the user's inside a larger resource: a whole encoded field, tag and length included.

    `fallback` stands in when `body` is rejected and no earlier accepted form exists: for a route, the same match
    answered 503, because leaving a route out would hand its paths to a more general route with weaker rules.
    `last_resort` stands in where the fallback is rejected too, because it repeats what was rejected in the match.

    `alone` is the same thing saying everything itself, where `body` leaves something to the fields around it: it means
    the same inside any later form of the resource.
    """

    key: str
    body: bytes
    alone: bytes = b""
    fallback: bytes = b""
    last_resort: bytes = b""
    origin: Origin | None = None

    @property
    def kept(self) -> bytes:
        """What to keep of it when the resource around it changes."""
        return self.alone or self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """A length-delimited field whose content is itself a tree."""

    field: int
    children: tuple[Node, ...]


Node = bytes | Part | Nested


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A named resource of one type. `tree` is its content; `body` its bytes (what goes into `Any.value`)."""

    type_url: str
    name: str
    tree: tuple[Node, ...]
    origins: tuple[Origin, ...] = ()
    audience: Audience = Audience.ENVOY
    ttl_s: float | None = None
    """How long a client that knows about time to live keeps it without hearing of it again."""

    @cached_property
    def body(self) -> bytes:
        return b"".join(map(_encode, self.tree))

    @cached_property
    def version(self) -> str:
        """Hash of the content: 16 hexadecimal digits."""
        lifetime = b"" if self.ttl_s is None else f"ttl={self.ttl_s}".encode()
        return blake2b(self.body, digest_size=8, person=lifetime[:16]).hexdigest()

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every part, in order, at any depth."""
        found: list[Part] = []
        _gather(self.tree, found)
        return tuple(found)

    @cached_property
    def parts_by_key(self) -> Mapping[str, Part]:
        """Its parts, by what they are called."""
        return {part.key: part for part in self.parts}

    def replacing(self, replacements: Mapping[str, bytes]) -> Resource:
        """The same resource with the bodies of the parts named by key replaced; `b""` leaves a part out."""
        return Resource(
            type_url=self.type_url,
            name=self.name,
            tree=_replace(self.tree, replacements),
            origins=self.origins,
            audience=self.audience,
            ttl_s=self.ttl_s,
        )


def whole(type_url: str, name: str, body: bytes, *origins: Origin, audience: Audience = Audience.ENVOY) -> Resource:
    """A resource with no parts: accepted or rejected as one."""
    return Resource(type_url=type_url, name=name, tree=(body,), origins=origins, audience=audience)


def field(number: int, payload: bytes) -> bytes:
    """`payload` as a length-delimited protobuf field (wire type 2)."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def _encode(node: Node) -> bytes:
    match node:
        case bytes():
            return node
        case Part():
            return node.body
        case Nested():
            # Most nodes are parts, thousands of them in one.
            children = [child.body if type(child) is Part else _encode(child) for child in node.children]
            return field(node.field, b"".join(children))


def _gather(tree: tuple[Node, ...], found: list[Part]) -> None:
    for node in tree:
        if type(node) is Part:
            found.append(node)
        elif type(node) is Nested:
            _gather(node.children, found)


def _replace(tree: tuple[Node, ...], replacements: Mapping[str, bytes]) -> tuple[Node, ...]:
    def one(node: Node) -> Node:
        match node:
            case Part() if node.key in replacements:
                return replace(node, body=replacements[node.key], alone=b"")
            case Nested():
                return Nested(field=node.field, children=_replace(node.children, replacements))
            case _:
                return node

    return tuple(map(one, tree))


def varint(value: int) -> bytes:
    """A protobuf varint of a value that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
