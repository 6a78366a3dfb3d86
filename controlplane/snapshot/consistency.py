"""Which resources a resource refers to, read from its bytes, and whether a snapshot has all of them.

Envoy acknowledges routes to clusters it does not have, and the removal of clusters that routes still use: both answer
503 from then on. So nothing may be served whose references do not resolve, and the conversation with each client needs
to know who refers to whom. References are read per `Part` and remembered by content: an edit costs what it changed.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from controlplane.memo import by_identity, same
from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Nested, Node, Part, Resource, field
from controlplane.snapshot.snapshot import Snapshot


class Reference(NamedTuple):
    type_url: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dangling:
    """`resource` names `reference`, which the snapshot does not hold."""

    type_url: str
    resource: str
    reference: Reference
    origin: Origin | None

    def __str__(self) -> str:
        kind, wanted = self.type_url.rpartition(".")[2], self.reference.type_url.rpartition(".")[2]
        where = self.origin or "generated"
        return f'{where}: {kind} "{self.resource}" names {wanted} "{self.reference.name}", which is missing'


_SMALL_BYTES = 2_048


def check(snapshot: Snapshot) -> tuple[Dangling, ...]:
    """Every reference of the snapshot that does not resolve inside it."""
    return tuple(
        Dangling(type_url=resource.type_url, resource=resource.name, reference=reference, origin=origin)
        for resource in snapshot
        if not all(snapshot.get(*reference) for reference in references(resource))
        for reference, origin in _located(resource)
        if snapshot.get(*reference) is None
    )


def references(resource: Resource) -> frozenset[Reference]:
    """Everything the resource names: clusters, route configurations, endpoints, secrets, extension configurations."""
    named = resource.__dict__.get(_Named.__name__)
    if not isinstance(named, _Named):
        key = (resource.type_url, resource.name, resource.version)
        named = _known.get(key)
        if named is None:
            named = _known[key] = _Named(_named(resource))
        resource.__dict__[_Named.__name__] = named
    return named.references


def part_references(resource: Resource) -> Iterator[tuple[Part, frozenset[Reference]]]:
    """Each part of the resource with what it alone names."""
    type_url = same(resource.type_url)
    for path, part in _paths(resource.tree, ()):
        yield part, _of_part(part, type_url, same(path))


class _Named:
    """What all resources of one content name. Kept by each of them, so that it goes with the last."""

    __slots__ = ("__weakref__", "references")

    def __init__(self, references: frozenset[Reference]) -> None:
        self.references = references


_known: WeakValueDictionary[tuple[str, str, str], _Named] = WeakValueDictionary()


def _named(resource: Resource) -> frozenset[Reference]:
    type_url = same(resource.type_url)
    inside = _of_body(type_url, _skeleton(resource.tree))
    parts: dict[tuple[int, ...], list[Part]] = {}
    _gather(resource.tree, (), parts)
    named = {id(one): one for path, some in parts.items() for one in _of_part.each(some, type_url, path)}
    return inside.union(*named.values())


def _located(resource: Resource) -> Iterator[tuple[Reference, Origin | None]]:
    seen: set[Reference] = set()
    for part, named in part_references(resource):
        for reference in named:
            seen.add(reference)
            yield reference, part.origin
    for reference in references(resource) - seen:
        yield reference, resource.origins[0] if resource.origins else None


def _paths(tree: tuple[Node, ...], path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Part]]:
    for node in tree:
        match node:
            case Part():
                yield path, node
            case Nested():
                yield from _paths(node.children, (*path, node.field))
            case bytes():
                pass


def _gather(tree: tuple[Node, ...], path: tuple[int, ...], parts: dict[tuple[int, ...], list[Part]]) -> None:
    """The parts by where they are, in few steps where they are many."""
    parts.setdefault(same(path), []).extend([node for node in tree if type(node) is Part])
    for node in tree:
        if type(node) is Nested:
            _gather(node.children, (*path, node.field), parts)


def _skeleton(tree: tuple[Node, ...]) -> bytes:
    """The tree's bytes without its parts: still a valid message, since every part is a whole field."""
    out = []
    for node in tree:
        match node:
            case bytes():
                out.append(node)
            case Nested():
                out.append(field(node.field, _skeleton(node.children)))
            case Part():
                pass
    return b"".join(out)


def _wrapped(path: tuple[int, ...], body: bytes) -> bytes:
    """A part inside the messages that surround it: parsed as the resource's type, it is its only content."""
    for number in reversed(path):
        body = field(number, body)
    return body


@by_identity(131_072)
def _of_part(part: Part, type_url: str, path: tuple[int, ...]) -> frozenset[Reference]:
    named: frozenset[Reference] = same(_of_body(type_url, _wrapped(path, part.body)))  # alike for most parts
    return named


def _of_body(type_url: str, body: bytes) -> frozenset[Reference]:
    """What is small is often there many times. What is large is another one after each edit, and not worth its room."""
    return _of_small_body(type_url, body) if len(body) <= _SMALL_BYTES else _read(type_url, body)


@lru_cache(maxsize=65_536)
def _of_small_body(type_url: str, body: bytes) -> frozenset[Reference]:
    return _read(type_url, body)


def _read(type_url: str, body: bytes) -> frozenset[Reference]:
    kind = message_type(type_url)
    if kind is None:
        return frozenset()
    try:
        message = kind.FromString(body)
    except DecodeError:
        return frozenset()
    return frozenset(_walk(message))


def _walk(message: Message) -> Iterator[Reference]:
    """References of the message and of everything inside it, through `Any`."""
    full_name = message.DESCRIPTOR.full_name
    if full_name == _ANY:
        yield from _of_body(message.type_url, message.value)
        return
    yield from _direct(full_name, message)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or not _may_refer(descriptor.message_type):
            continue
        if not descriptor.is_repeated:
            yield from _walk(value)
        elif descriptor.message_type.GetOptions().map_entry:
            if descriptor.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    yield from _walk(item)
        else:
            for item in value:
                yield from _walk(item)


_NAMES_CLUSTER = {
    "envoy.config.route.v3.RouteAction": "cluster",
    "envoy.config.route.v3.RouteAction.RequestMirrorPolicy": "cluster",
    "envoy.config.route.v3.WeightedCluster.ClusterWeight": "name",
    "envoy.config.core.v3.GrpcService.EnvoyGrpc": "cluster_name",
    "envoy.config.core.v3.HttpUri": "cluster",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": "cluster",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": "name",
}
_DISCOVERABLE = {
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "envoy.config.listener.v3.Filter",
    "envoy.config.listener.v3.ListenerFilter",
}


def _direct(full_name: str, message: Message) -> Iterator[Reference]:
    attribute = _NAMES_CLUSTER.get(full_name)
    if attribute is not None:
        name = getattr(message, attribute)
        if name:
            yield Reference(types.CLUSTER, name)
    elif full_name == "envoy.config.cluster.v3.Cluster":
        if message.type == message.EDS and not message.HasField("cluster_type"):
            yield Reference(types.ENDPOINT, message.eds_cluster_config.service_name or message.name)
    elif full_name == "envoy.extensions.clusters.aggregate.v3.ClusterConfig":
        for name in message.clusters:
            yield Reference(types.CLUSTER, name)
    elif full_name == "envoy.extensions.filters.network.http_connection_manager.v3.Rds":
        yield Reference(types.ROUTE, message.route_config_name)
    elif full_name == "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":
        if message.HasField("sds_config"):
            yield Reference(types.SECRET, message.name)
    elif full_name in _DISCOVERABLE and message.HasField("config_discovery"):
        yield Reference(types.EXTENSION, message.name)


_ANY = "google.protobuf.Any"
_REFERRING = {
    _ANY,
    *_NAMES_CLUSTER,
    *_DISCOVERABLE,
    "envoy.config.cluster.v3.Cluster",
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig",
}


@cache
def _may_refer(descriptor: Descriptor) -> bool:
    """Whether a message of this type can hold a reference, at any depth: most cannot, and are not looked into."""
    seen, open_ = set(), [descriptor]
    while open_:
        one = open_.pop()
        if one.full_name in _REFERRING:
            return True
        if one.full_name not in seen:
            seen.add(one.full_name)
            open_.extend(field.message_type for field in one.fields if field.message_type is not None)
    return False


_KNOWN_ROOTS = re.compile(r"(envoy|xds|udpa|ratelimit)(\.[a-z0-9_]+)+\.v\d+(alpha|beta)?\d*$")


@lru_cache(maxsize=1_024)
def message_type(type_url: str) -> type[Message] | None:
    """The generated class of a type URL, its module imported on the way; None for types that do not ship with us."""
    full_name = type_url.rpartition("/")[2]
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(full_name)
    except KeyError:
        package = full_name.rpartition(".")[0]
        if not _KNOWN_ROOTS.match(package):
            return None
        try:
            folder = importlib.import_module(package)
            for module in pkgutil.iter_modules(folder.__path__):
                if module.name.endswith("_pb2"):
                    importlib.import_module(f"{package}.{module.name}")
            descriptor = pool.FindMessageTypeByName(full_name)
        except (ImportError, KeyError):
            return None
    message_class: type[Message] = message_factory.GetMessageClass(descriptor)
    return message_class
