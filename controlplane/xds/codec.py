"""Bytes on the wire to the words of the conversation and back.

Requests are parsed with the generated messages. Responses are written field by field around the resources' own bytes:
everything but the nonce is the same for every client with the same subscription, so it is encoded once and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from controlplane.snapshot.resource import VIRTUAL_HOST, Resource, field
from controlplane.xds.protocol import (
    NAMES_PER_TYPE,
    DeltaRequest,
    Node,
    ProtocolError,
    Response,
    SotwRequest,
    Variant,
    reason,
)

_NOT_FOUND = 5  # google.rpc.Code
_CACHE_BYTES = 64 << 20
_ENTRY_BYTES = 1 << 10
"""What an entry costs beside its bytes: small ones must not add up unseen."""
NAME_CHARACTERS = 4_096
ERROR_CHARACTERS = 8_192


def sotw_request(body: bytes) -> SotwRequest:
    """Raises ProtocolError for what is not a DiscoveryRequest, or is too large to be meant."""
    try:
        message = discovery_pb2.DiscoveryRequest.FromString(body)
    except DecodeError as failure:
        raise ProtocolError(f"not a DiscoveryRequest: {failure}") from failure
    return SotwRequest(
        type_url=message.type_url,
        names=_names([*message.resource_names, *(locator.name for locator in message.resource_locators)]),
        version=message.version_info,
        nonce=message.response_nonce,
        error=_error(message),
        node=_node(message),
    )


def delta_request(body: bytes, type_url: str | None = None) -> DeltaRequest:
    """Raises ProtocolError for what is not a DeltaDiscoveryRequest, or is too large to be meant.

    `type_url` is what the service implies.
    """
    try:
        message = discovery_pb2.DeltaDiscoveryRequest.FromString(body)
    except DecodeError as failure:
        raise ProtocolError(f"not a DeltaDiscoveryRequest: {failure}") from failure
    if (message.type_url or type_url) == VIRTUAL_HOST:  # in the end they are what somebody sent as a Host
        for names in (message.resource_names_subscribe, message.resource_names_unsubscribe):
            names[:] = [name for name in names if len(name) <= NAME_CHARACTERS]
    _names(message.initial_resource_versions)
    return DeltaRequest(
        type_url=message.type_url,
        subscribe=_names(
            [*message.resource_names_subscribe, *(one.name for one in message.resource_locators_subscribe)]
        ),
        unsubscribe=_names(
            [*message.resource_names_unsubscribe, *(one.name for one in message.resource_locators_unsubscribe)]
        ),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=_error(message),
        node=_node(message),
    )


class Encoder:
    """Responses to bytes. Keeps the newest shared parts, up to `cache_bytes`."""

    def __init__(self, identifier: str, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._control_plane = field(1, identifier.encode())
        self._cache: OrderedDict[object, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes
        self.hits = 0
        self.misses = 0

    def encode(self, response: Response) -> bytes:
        return self._shared(response) + field(5, response.nonce.encode())

    def _shared(self, response: Response) -> bytes:
        key = (
            response.variant,
            response.type_url,
            response.version,
            tuple((resource.name, resource.version) for resource in response.resources),
            response.removed,
            response.missing,
            tuple(response.aliases.items()),
            response.with_ttl,
            response.heartbeat,
        )
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            self.hits += 1
            return found
        self.misses += 1
        encoded = b"".join(self._fields(response))
        self._cache[key] = encoded
        self._cached_bytes += len(encoded) + _ENTRY_BYTES
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1]) + _ENTRY_BYTES
        return encoded

    def _fields(self, response: Response) -> Iterable[bytes]:
        is_delta = response.variant is Variant.DELTA
        yield field(1, response.version.encode())
        for resource in response.resources:
            if is_delta:
                yield field(2, _resource(resource, response))
            elif response.with_ttl and resource.ttl_s is not None:
                yield field(
                    2, _any("type.googleapis.com/envoy.service.discovery.v3.Resource", _resource(resource, response))
                )
            else:
                yield field(2, _any(resource.type_url, resource.body))
        if is_delta:
            yield from self._without_body(response)
            for name in response.removed:
                yield field(6, name.encode())
        yield field(4, response.type_url.encode())
        yield field(7 if is_delta else 6, self._control_plane)
        for name in response.missing:
            yield field(9 if is_delta else 7, _resource_error(name, response.type_url))

    @staticmethod
    def _without_body(response: Response) -> Iterable[bytes]:
        """On demand virtual hosts that do not exist: a resource with its name and aliases and no body."""
        present = {resource.name for resource in response.resources}
        for name, aliases in response.aliases.items():
            if name not in present:
                yield field(2, field(3, name.encode()) + b"".join(field(4, alias.encode()) for alias in aliases))


def _resource(resource: Resource, response: Response) -> bytes:
    out = [field(3, resource.name.encode()), field(1, resource.version.encode())]
    out.extend(field(4, alias.encode()) for alias in response.aliases.get(resource.name, ()))
    if not response.heartbeat:
        out.append(field(2, _any(resource.type_url, resource.body)))
    if response.with_ttl and resource.ttl_s is not None:
        ttl = Duration()
        ttl.FromNanoseconds(int(resource.ttl_s * 1e9))
        out.append(field(6, ttl.SerializeToString()))
    return b"".join(out)


def _any(type_url: str, body: bytes) -> bytes:
    return field(1, type_url.encode()) + field(2, body)


def _resource_error(name: str, type_url: str) -> bytes:
    kind = type_url.rpartition(".")[2]
    status = bytes((0x08, _NOT_FOUND)) + field(2, f'{kind} "{name}" does not exist'.encode())
    return field(1, field(1, name.encode())) + field(2, status)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    listed = tuple(names)
    if len(listed) > NAMES_PER_TYPE:
        raise ProtocolError(f"more than {NAMES_PER_TYPE} names in one request")
    if any(len(name) > NAME_CHARACTERS for name in listed):
        raise ProtocolError(f"a name of more than {NAME_CHARACTERS} characters")
    return listed


def _error(message: discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest) -> str | None:
    if not message.HasField("error_detail"):
        return None
    text: str = message.error_detail.message
    return reason(text)[:ERROR_CHARACTERS]


def _node(message: discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest) -> Node | None:
    if not message.HasField("node"):
        return None
    node: base_pb2.Node = message.node
    return Node(
        id=node.id,
        cluster=node.cluster,
        agent=node.user_agent_name,
        version=_build_version(node),
        features=frozenset(node.client_features),
        metadata=_strings(node),
    )


def _build_version(node: base_pb2.Node) -> str:
    if node.HasField("user_agent_build_version"):
        version = node.user_agent_build_version.version
        return f"{version.major_number}.{version.minor_number}.{version.patch}"
    text: str = node.user_agent_version
    return text


def _strings(node: base_pb2.Node) -> Mapping[str, str]:
    return {key: value.string_value for key, value in node.metadata.fields.items() if value.string_value}
