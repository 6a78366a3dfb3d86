"""Services for gRPC clients that speak xDS themselves (`xds:///orders`), without a proxy between.

A gRPC service is offered under its own name: an api_listener with its routes inside and a cluster in the form gRPC
accepts (found by EDS, round robin, no filter but the router). These are for gRPC clients that ask by name; Envoy's
wildcard never meets them. A service whose endpoints are DNS names, or that wants TLS, is not offered: gRPC finds
endpoints as addresses only, and its TLS settings come from its own bootstrap.
"""

from __future__ import annotations

from datetime import timedelta

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3

from controlplane.ir.cluster import Cluster
from controlplane.ir.names import proxyless_cluster, service_of
from controlplane.memo import by_identity
from controlplane.snapshot.resource import CLUSTER, LISTENER, Audience, Resource, whole
from controlplane.translate.cluster import ADS
from controlplane.translate.encode import encode, packed


def proxyless_resources(cluster: Cluster) -> tuple[Resource, ...]:
    """What a gRPC client needs for `xds:///<service>`; nothing where the service cannot be offered."""
    is_offered = cluster.is_grpc and cluster.tls is None and all(endpoint.is_ip for endpoint in cluster.endpoints)
    return _resources(cluster) if is_offered else ()


@by_identity(4096)
def _resources(cluster: Cluster) -> tuple[Resource, ...]:
    service, name = service_of(cluster.name), proxyless_cluster(cluster.name)
    origins = (cluster.origin,) if cluster.origin else ()
    route = route_v3.Route(
        match=route_v3.RouteMatch(prefix="/"),
        route=route_v3.RouteAction(cluster=name, timeout=timedelta(0)),
    )
    manager = hcm_v3.HttpConnectionManager(
        route_config=route_v3.RouteConfiguration(
            name=name, virtual_hosts=[route_v3.VirtualHost(name=name, domains=["*"], routes=[route])]
        ),
        http_filters=[hcm_v3.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_v3.Router()))],
    )
    listener = listener_v3.Listener(name=service, api_listener=listener_v3.ApiListener(api_listener=packed(manager)))
    found_by_eds = cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        # The endpoints are those that Envoy has too.
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=ADS, service_name=cluster.name),
        lb_policy=cluster_v3.ClusterLbPolicy.ROUND_ROBIN,
        connect_timeout=timedelta(milliseconds=cluster.connections.connect_timeout_ms),
    )
    return (
        whole(CLUSTER, name, encode(found_by_eds), *origins, audience=Audience.GRPC),
        whole(LISTENER, service, encode(listener), *origins, audience=Audience.GRPC),
    )
