"""Small resources made with the generated protos: enough for Envoy and gRPC clients to route a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.message import Message

from controlplane.origin import Origin
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Audience, Nested, Part, Resource, field, whole

ADS = config_source_pb2.ConfigSource(ads={}, resource_api_version="V3")


def packed(message: Message) -> any_pb2.Any:
    box = any_pb2.Any()
    box.Pack(message)
    return box


@cache
def cluster(name: str, *, timeout_ms: int = 1000, eds: bool = True, port: int = 0) -> Resource:
    """An EDS cluster, or with `eds=False` a static one."""
    message = cluster_pb2.Cluster(name=name)
    message.connect_timeout.FromMilliseconds(timeout_ms)
    if eds:
        message.type = cluster_pb2.Cluster.EDS
        message.eds_cluster_config.eds_config.CopyFrom(ADS)
    else:
        message.type = cluster_pb2.Cluster.STATIC
        message.load_assignment.CopyFrom(_assignment(name, [port]))
    return whole(types.CLUSTER, name, message.SerializeToString(deterministic=True))


@cache
def bad_cluster(name: str, *, origin: Origin | None = None) -> Resource:
    """Envoy refuses a negative time-out, without naming the cluster."""
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)
    message.connect_timeout.seconds = -1
    return whole(types.CLUSTER, name, message.SerializeToString(), *([origin] if origin else []))


@cache
def endpoints(name: str, *ports: int) -> Resource:
    return whole(types.ENDPOINT, name, _assignment(name, ports).SerializeToString(deterministic=True))


def _assignment(name: str, ports: Iterable[int]) -> endpoint_pb2.ClusterLoadAssignment:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    locality.locality.region = "here"
    locality.load_balancing_weight.value = 1
    for port in ports:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return message


def route(prefix: str, to: str, *, timeout_s: float | None = None) -> route_components_pb2.Route:
    message = route_components_pb2.Route()
    message.match.prefix = prefix
    message.route.cluster = to
    if timeout_s is not None:
        message.route.timeout.FromMilliseconds(int(timeout_s * 1000))
    return message


def bad_route(prefix: str) -> route_components_pb2.Route:
    """Envoy refuses a status below 100."""
    message = route_components_pb2.Route()
    message.match.prefix = prefix
    message.direct_response.status = 99
    return message


def answer(prefix: str, status: int) -> route_components_pb2.Route:
    message = route_components_pb2.Route()
    message.match.prefix = prefix
    message.direct_response.status = status
    return message


def bad_match(prefix: str) -> route_components_pb2.Route:
    """Envoy refuses the program that this expression becomes, whatever the route does."""
    message = route_components_pb2.Route()
    message.match.prefix = prefix
    message.match.headers.add(name="x-hash").string_match.safe_regex.regex = "[0-9a-f]{128}"
    message.direct_response.status = 200
    return message


def _unavailable(match: route_components_pb2.RouteMatch) -> bytes:
    message = route_components_pb2.Route(match=match)
    message.direct_response.status = 503
    return field(3, message.SerializeToString(deterministic=True))


def _last_resort(match: route_components_pb2.RouteMatch) -> bytes:
    """Nothing where the match has no expression."""
    plain = route_components_pb2.RouteMatch()
    plain.CopyFrom(match)
    for header in plain.headers:
        header.ClearField("string_match")
        header.present_match = True
    return _unavailable(plain) if plain != match else b""


def routes(name: str, table: Mapping[str, str | route_components_pb2.Route]) -> Resource:
    """A route configuration with one part per prefix: to a cluster, or a route as it is."""
    parts = []
    for number, (prefix, target) in enumerate(table.items(), 1):
        message = route(prefix, target) if isinstance(target, str) else target
        parts.append(
            Part(
                key=prefix,
                body=field(3, message.SerializeToString(deterministic=True)),
                fallback=_unavailable(message.match),
                last_resort=_last_resort(message.match),
                origin=Origin(file="routes.yaml", line=number, column=5),
            )
        )
    host = field(1, b"all") + field(2, b"*")
    return Resource(
        type_url=types.ROUTE,
        name=name,
        tree=(field(1, name.encode()), Nested(field=2, children=(host, *parts))),
    )


@cache
def listener(name: str, port: int, to: str, *, api: bool = False, stat_prefix: str = "in") -> Resource:
    """A listener whose routes are the route configuration `to`."""
    manager = hcm_pb2.HttpConnectionManager(stat_prefix=stat_prefix)
    manager.rds.route_config_name = to
    manager.rds.config_source.CopyFrom(ADS)
    manager.http_filters.add(name="router").typed_config.CopyFrom(packed(router_pb2.Router()))
    message = listener_pb2.Listener(name=name)
    if api:
        message.api_listener.api_listener.CopyFrom(packed(manager))
    else:
        address = message.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
        message.filter_chains.add().filters.add(name="http").typed_config.CopyFrom(packed(manager))
    audience = Audience.GRPC if api else Audience.ENVOY
    return whole(types.LISTENER, name, message.SerializeToString(deterministic=True), audience=audience)


def route_configuration(name: str, to: str) -> Resource:
    """For gRPC clients: one virtual host for every authority."""
    message = route_pb2.RouteConfiguration(name=name)
    host = message.virtual_hosts.add(name="all", domains=["*"])
    host.routes.append(route("", to))
    return whole(types.ROUTE, name, message.SerializeToString(deterministic=True))


def policy(name: str, text: str) -> Resource:
    config = extension_pb2.TypedExtensionConfig(name=name)
    config.typed_config.Pack(wrappers_pb2.StringValue(value=text))
    return whole(types.EXTENSION, name, config.SerializeToString(), audience=Audience.SERVICE)
