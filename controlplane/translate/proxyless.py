"""Services for gRPC clients that speak xDS themselves (`xds:///orders`), without a proxy between.

A gRPC service is offered under its own name: an api_listener with its routes inside and a cluster in the form gRPC
accepts (round robin, no filter but the router). These are for gRPC clients that ask by name; Envoy's wildcard never
meets them. Endpoints that are addresses are found by EDS. A host name is a cluster of its own, which the client
resolves; of several, one follows the other where it cannot be reached: gRPC knows no cluster of several names, and
clusters that share by weight would go on sending to one that is down. A service that wants TLS or listens on a Unix
socket is not offered: gRPC's TLS settings come from its own bootstrap, and its endpoints have ports.
"""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.clusters.aggregate.v3 as aggregate_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3

from controlplane.ir.cluster import Cluster
from controlplane.ir.names import ClusterName, proxyless_aggregate, proxyless_cluster, proxyless_endpoint, service_of
from controlplane.memo import by_identity
from controlplane.snapshot.resource import CLUSTER, LISTENER, Audience, Resource, whole
from controlplane.translate.address import address
from controlplane.translate.cluster import ADS
from controlplane.translate.encode import encode, packed


def proxyless_resources(cluster: Cluster) -> tuple[Resource, ...]:
    """What a gRPC client needs for `xds:///<service>`; nothing where the service cannot be offered."""
    has_ports = all(endpoint.port is not None for endpoint in cluster.endpoints)
    return _resources(cluster) if cluster.is_grpc and cluster.tls is None and has_ports else ()


@by_identity(4096)
def _resources(cluster: Cluster) -> tuple[Resource, ...]:
    service, origins = service_of(cluster.name), (cluster.origin,) if cluster.origin else ()
    clusters = (_of_addresses if all(endpoint.is_ip for endpoint in cluster.endpoints) else _of_names)(cluster)
    route = route_v3.Route(
        match=route_v3.RouteMatch(prefix="/"),
        route=route_v3.RouteAction(cluster=clusters[0].name, timeout=timedelta(0)),
    )
    name = proxyless_cluster(cluster.name)
    manager = hcm_v3.HttpConnectionManager(
        route_config=route_v3.RouteConfiguration(
            name=name, virtual_hosts=[route_v3.VirtualHost(name=name, domains=["*"], routes=[route])]
        ),
        http_filters=[hcm_v3.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_v3.Router()))],
    )
    listener = listener_v3.Listener(name=service, api_listener=listener_v3.ApiListener(api_listener=packed(manager)))
    return (
        *(whole(CLUSTER, one.name, encode(one), *origins, audience=Audience.GRPC) for one in clusters),
        whole(LISTENER, service, encode(listener), *origins, audience=Audience.GRPC),
    )


def _of_addresses(cluster: Cluster) -> tuple[cluster_v3.Cluster]:
    """The endpoints are those that Envoy has too."""
    found_by_eds = _cluster(cluster, proxyless_cluster(cluster.name))
    found_by_eds.type = cluster_v3.ClusterDiscoveryType.EDS
    found_by_eds.eds_cluster_config = cluster_v3.ClusterEdsClusterConfig(eds_config=ADS, service_name=cluster.name)
    return (found_by_eds,)


def _of_names(cluster: Cluster) -> tuple[cluster_v3.Cluster, ...]:
    """A cluster for each endpoint; where there are several, the one of them all first, in the order of priority."""
    endpoints = sorted(cluster.endpoints, key=attrgetter("priority"))
    places = dict.fromkeys((one.address, one.port) for one in endpoints if one.port is not None)
    each = tuple(_resolved(cluster, host, port) for host, port in places)
    if len(each) == 1:
        return each
    one_after_the_other = _cluster(cluster, proxyless_aggregate(cluster.name))
    one_after_the_other.cluster_type = cluster_v3.ClusterCustomClusterType(
        name="envoy.clusters.aggregate",
        typed_config=packed(aggregate_v3.ClusterConfig(clusters=[one.name for one in each])),
    )
    return (one_after_the_other, *each)


def _resolved(cluster: Cluster, host: str, port: int) -> cluster_v3.Cluster:
    resolved = _cluster(cluster, proxyless_endpoint(cluster.name, host, port))
    resolved.type = cluster_v3.ClusterDiscoveryType.LOGICAL_DNS
    endpoint = endpoint_v3.LbEndpoint(endpoint=endpoint_v3.Endpoint(address=address(host, port)))
    resolved.load_assignment = endpoint_v3.ClusterLoadAssignment(
        cluster_name=resolved.name, endpoints=[endpoint_v3.LocalityLbEndpoints(lb_endpoints=[endpoint])]
    )
    return resolved


def _cluster(cluster: Cluster, name: ClusterName) -> cluster_v3.Cluster:
    return cluster_v3.Cluster(
        name=name,
        lb_policy=cluster_v3.ClusterLbPolicy.ROUND_ROBIN,
        connect_timeout=timedelta(milliseconds=cluster.connections.connect_timeout_ms),
    )
