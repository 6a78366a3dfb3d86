"""Resources of the types that a gateway seldom has: secrets, extensions, virtual hosts and clusters on demand.

Each takes the source that Envoy gets what it names from: the aggregated stream, or a service for each type.
"""

from __future__ import annotations

from dataclasses import replace

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.on_demand.v3 import on_demand_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf.message import Message

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource, whole
from serving.tls import TlsFiles
from tests.xds.made import ADS, packed

Source = config_source_pb2.ConfigSource


def by_type(protocol: str, port: int) -> Source:
    """A stream of its own for each type, to a control plane on the port."""
    source = Source(resource_api_version="V3")
    api = source.api_config_source
    api.api_type = config_source_pb2.ApiConfigSource.ApiType.Value(protocol)
    api.transport_api_version = config_source_pb2.V3
    service = api.grpc_services.add().google_grpc
    service.target_uri, service.stat_prefix = f"127.0.0.1:{port}", "xds"
    return source


def _resource(type_url: str, name: str, message: Message) -> Resource:
    return whole(type_url, name, message.SerializeToString(deterministic=True))


def with_ttl(resource: Resource, ttl_s: float) -> Resource:
    return replace(resource, ttl_s=ttl_s)


def cluster(name: str, source: Source = ADS, *, timeout_ms: int = 1000) -> Resource:
    """An EDS cluster."""
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    message.connect_timeout.FromMilliseconds(timeout_ms)
    message.eds_cluster_config.eds_config.CopyFrom(source)
    return _resource(types.CLUSTER, name, message)


def secret(name: str, files: TlsFiles) -> Resource:
    """A certificate and its key."""
    message = secret_pb2.Secret(name=name)
    message.tls_certificate.certificate_chain.inline_bytes = files.certificate.read_bytes()
    message.tls_certificate.private_key.inline_bytes = files.key.read_bytes()
    return _resource(types.SECRET, name, message)


def trusting(name: str, authority: str) -> Resource:
    """A cluster without endpoints whose servers are trusted by the secret `authority`."""
    tls = tls_pb2.UpstreamTlsContext()
    tls.common_tls_context.validation_context_sds_secret_config.name = authority
    tls.common_tls_context.validation_context_sds_secret_config.sds_config.CopyFrom(ADS)
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)
    message.transport_socket.name = "tls"
    message.transport_socket.typed_config.CopyFrom(packed(tls))
    return _resource(types.CLUSTER, name, message)


def extension(name: str, value: str, *, header: str = "x-extension") -> Resource:
    """An HTTP filter that adds a header to every response."""
    mutation = header_mutation_pb2.HeaderMutation()
    added = mutation.mutations.response_mutations.add().append.header
    added.key, added.value = header, value
    return _resource(
        types.EXTENSION, name, extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(mutation))
    )


def bad_extension(name: str) -> Resource:
    """Envoy refuses a mutation of a header without a name."""
    mutation = header_mutation_pb2.HeaderMutation()
    mutation.mutations.response_mutations.add().append.header.value = "x"
    return _resource(
        types.EXTENSION, name, extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(mutation))
    )


def virtual_host(table: str, name: str, *domains: str, says: str = "", to: str = "") -> Resource:
    """One host of the route configuration `table`: it answers with `says`, or routes to a cluster."""
    full = f"{table}/{name}"
    host = route_components_pb2.VirtualHost(name=full, domains=domains)
    route = host.routes.add()
    route.match.prefix = "/"
    if to:
        route.route.cluster = to
    else:
        route.direct_response.status = 200
        route.direct_response.body.inline_string = says
    return _resource(types.VIRTUAL_HOST, full, host)


def bad_virtual_host(table: str, name: str, *domains: str) -> Resource:
    """Envoy refuses a status below 100."""
    full = f"{table}/{name}"
    host = route_components_pb2.VirtualHost(name=full, domains=domains)
    route = host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 99
    return _resource(types.VIRTUAL_HOST, full, host)


def routes_on_demand(name: str, source: Source = ADS, *, says: str = "") -> Resource:
    """A route configuration whose virtual hosts come on demand, but for `static.test`, which answers `says`."""
    table = route_pb2.RouteConfiguration(name=name)
    table.vhds.config_source.CopyFrom(source)
    host = table.virtual_hosts.add(name="static", domains=["static.test"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 200
    route.direct_response.body.inline_string = says
    return _resource(types.ROUTE, name, table)


def routes_by_header(name: str, header: str) -> Resource:
    """Every request goes to the cluster that its header names."""
    table = route_pb2.RouteConfiguration(name=name)
    route = table.virtual_hosts.add(name="all", domains=["*"]).routes.add()
    route.match.prefix = "/"
    route.route.cluster_header = header
    return _resource(types.ROUTE, name, table)


def listener(
    name: str,
    port: int,
    to: str,
    source: Source = ADS,
    *,
    certificate: str = "",
    extensions: tuple[str, ...] = (),
    on_demand: on_demand_pb2.OnDemand | None = None,
) -> Resource:
    """A listener with the route configuration `to`, and on request TLS by a secret, extensions, things on demand."""
    manager = hcm_pb2.HttpConnectionManager(stat_prefix=name)
    manager.rds.route_config_name = to
    manager.rds.config_source.CopyFrom(source)
    for extension_name in extensions:
        found = manager.http_filters.add(name=extension_name).config_discovery
        found.config_source.CopyFrom(source)
        found.type_urls.append("type.googleapis.com/" + header_mutation_pb2.HeaderMutation.DESCRIPTOR.full_name)
    if on_demand is not None:
        manager.http_filters.add(name="on_demand").typed_config.CopyFrom(packed(on_demand))
    manager.http_filters.add(name="router").typed_config.CopyFrom(packed(router_pb2.Router()))
    message = listener_pb2.Listener(name=name)
    address = message.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    chain = message.filter_chains.add()
    chain.filters.add(name="http").typed_config.CopyFrom(packed(manager))
    if certificate:
        tls = tls_pb2.DownstreamTlsContext()
        tls.common_tls_context.tls_certificate_sds_secret_configs.add(name=certificate).sds_config.CopyFrom(source)
        chain.transport_socket.name = "tls"
        chain.transport_socket.typed_config.CopyFrom(packed(tls))
    return _resource(types.LISTENER, name, message)


def on_demand(clusters: Source | None = None) -> on_demand_pb2.OnDemand:
    """The filter that waits for virtual hosts, and with a source for clusters too."""
    filter_ = on_demand_pb2.OnDemand()
    if clusters is not None:
        filter_.odcds.source.CopyFrom(clusters)
    return filter_
