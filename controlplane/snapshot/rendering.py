"""Resources for people and for Envoy's own validation: as JSON values, secrets never shown.

`as_value` shows one resource; `static_config` turns a whole snapshot into the static resources of a bootstrap, in which
nothing is left to be discovered, so that `envoy --mode validate` can judge it without a control plane.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from controlplane.snapshot.consistency import message_type, references
from controlplane.snapshot.resource import (
    CLUSTER,
    ENDPOINT,
    EXTENSION,
    LISTENER,
    ROUTE,
    SECRET,
    Audience,
    Resource,
)

REDACTED = "[redacted]"
_SECRET_KEYS = frozenset({"secret", "pepper", "peppers", "hash", "digest", "key", "jwks", "private_key"})
_TLS = "envoy.transport_sockets.tls"


def as_value(resource: Resource) -> dict[str, Any]:
    """The resource as a JSON value with Envoy's field names. What is secret reads `[redacted]`."""
    message = _parsed(resource)
    if resource.type_url == SECRET:
        message = tls_pb2.Secret.FromString(resource.body)
        certificate = message.tls_certificate
        if certificate.HasField("private_key"):
            certificate.private_key.inline_string = REDACTED
    value: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if resource.type_url == EXTENSION and resource.audience is Audience.SERVICE:
        document = value.get("typed_config", {})
        document["value"] = redacted(json.loads(document.get("value", "{}")))
    shown: dict[str, Any] = _without_keys(value)
    return shown


def redacted(value: Any) -> Any:
    """A policy document's JSON with every secret in it replaced."""
    match value:
        case dict():
            return {key: _shown(key, item) for key, item in value.items()}
        case list():
            return [redacted(item) for item in value]
        case _:
            return value


def _shown(key: str, item: Any) -> Any:
    if key in _SECRET_KEYS and not isinstance(item, dict):
        return None if item is None else REDACTED
    if key == "url" and isinstance(item, str) and "@" in item:
        return item.partition("://")[0] + "://" + REDACTED + "@" + item.rpartition("@")[2]
    return redacted(item)


def _without_keys(value: Any) -> Any:
    """Private keys inside of transport sockets."""
    match value:
        case dict():
            return {
                key: {"inline_string": REDACTED} if key == "private_key" else _without_keys(item)
                for key, item in value.items()
            }
        case list():
            return [_without_keys(item) for item in value]
        case _:
            return value


def static_config(resources: Iterable[Resource]) -> dict[str, Any]:
    """`static_resources` of a bootstrap with everything inlined. It holds secrets: for a private file only."""
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        references(resource)  # see _parsed
        by_type.setdefault(resource.type_url, {})[resource.name] = resource
    clusters = [_static_cluster(one, by_type.get(ENDPOINT, {})) for one in by_type.get(CLUSTER, {}).values()]
    listeners = [_static_listener(one, by_type.get(ROUTE, {})) for one in by_type.get(LISTENER, {}).values()]
    secrets = [tls_pb2.Secret.FromString(one.body) for one in by_type.get(SECRET, {}).values()]
    return {
        "static_resources": {
            "listeners": list(map(_to_value, listeners)),
            "clusters": list(map(_to_value, clusters)),
            "secrets": list(map(_to_value, secrets)),
        }
    }


def _static_cluster(resource: Resource, endpoints: Mapping[str, Resource]) -> Message:
    cluster = cluster_pb2.Cluster.FromString(resource.body)
    if cluster.type == cluster_pb2.Cluster.EDS:
        cluster.ClearField("eds_cluster_config")
        cluster.type = cluster_pb2.Cluster.STATIC
        assignment = endpoint_pb2.ClusterLoadAssignment()
        if resource.name in endpoints:
            assignment = endpoint_pb2.ClusterLoadAssignment.FromString(endpoints[resource.name].body)
        assignment.cluster_name = resource.name
        cluster.load_assignment.CopyFrom(assignment)
    return cluster


def _static_listener(resource: Resource, tables: Mapping[str, Resource]) -> Message:
    listener = listener_pb2.Listener.FromString(resource.body)
    for chain in listener.filter_chains:
        for one in chain.filters:
            manager = http_connection_manager_pb2.HttpConnectionManager()
            if not one.typed_config.Unpack(manager):
                continue
            if manager.HasField("rds"):
                table = tables[manager.rds.route_config_name]
                manager.route_config.CopyFrom(route_pb2.RouteConfiguration.FromString(table.body))
            one.typed_config.Pack(manager)
        if chain.transport_socket.name == _TLS:
            context = tls_pb2.DownstreamTlsContext()
            chain.transport_socket.typed_config.Unpack(context)
            for config in context.common_tls_context.tls_certificate_sds_secret_configs:
                config.ClearField("sds_config")  # a secret of the bootstrap itself
            chain.transport_socket.typed_config.Pack(context)
    return listener


def _parsed(resource: Resource) -> Message:
    references(resource)  # imports the generated module of every message packed inside, which printing needs
    kind = message_type(resource.type_url)
    if kind is None:
        raise ValueError(f"no such type: {resource.type_url}")
    return kind.FromString(resource.body)


def _to_value(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return value
