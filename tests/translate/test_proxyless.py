"""Which services gRPC clients are offered, and by which clusters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2

from controlplane.ir.cluster import Cluster, Connections, Endpoint, Thresholds, UpstreamTls
from controlplane.ir.names import service_cluster
from controlplane.snapshot.resource import CLUSTER
from controlplane.translate.proxyless import proxyless_resources

ADDRESS = Endpoint(address="10.0.0.7", port=3000)
NAME = Endpoint(address="orders.example", port=3000, is_ip=False)
OTHER = replace(NAME, address="other.example")
EDS, LOGICAL_DNS = cluster_pb2.Cluster.EDS, cluster_pb2.Cluster.LOGICAL_DNS


def orders(*endpoints: Endpoint, is_grpc: bool = True, tls: UpstreamTls | None = None) -> Cluster:
    return Cluster(
        name=service_cluster("orders"),
        origin=None,
        endpoints=endpoints,
        protocol="http2",
        is_grpc=is_grpc,
        tls=tls,
        thresholds=Thresholds(
            max_connections=1,
            max_pending_requests=1,
            max_requests=1,
            retry_budget_percent=20,
            min_retry_concurrency=3,
        ),
        connections=Connections(connect_timeout_ms=2000),
    )


def clusters(cluster: Cluster) -> dict[str, int | list[str]]:
    """By name: the type, or what it is an aggregate of."""
    found: dict[str, int | list[str]] = {}
    for resource in proxyless_resources(cluster):
        if resource.type_url == CLUSTER:
            one = cluster_pb2.Cluster.FromString(resource.body)
            of = aggregate_pb2.ClusterConfig()
            found[one.name] = list(of.clusters) if one.cluster_type.typed_config.Unpack(of) else one.type
    return found


def each(*names: str) -> dict[str, int | list[str]]:
    clusters = [f"grpc/orders/{name}" for name in names]
    return {"grpc/orders/each": clusters, **dict.fromkeys(clusters, LOGICAL_DNS)}


@pytest.mark.parametrize(
    ("cluster", "offered"),
    [
        pytest.param(orders(ADDRESS), {"grpc/orders": EDS}, id="addresses"),
        pytest.param(orders(), {"grpc/orders": EDS}, id="no endpoint"),
        pytest.param(orders(NAME), {"grpc/orders/orders.example:3000": LOGICAL_DNS}, id="a host name"),
        pytest.param(orders(NAME, NAME), {"grpc/orders/orders.example:3000": LOGICAL_DNS}, id="the same one twice"),
        pytest.param(orders(OTHER, NAME), each("other.example:3000", "orders.example:3000"), id="names, as written"),
        pytest.param(
            orders(replace(OTHER, priority=1), NAME),
            each("orders.example:3000", "other.example:3000"),
            id="names, by priority",
        ),
        pytest.param(orders(ADDRESS, NAME), each("10.0.0.7:3000", "orders.example:3000"), id="an address and a name"),
        pytest.param(orders(ADDRESS, is_grpc=False), {}, id="not a gRPC service"),
        pytest.param(orders(ADDRESS, tls=UpstreamTls(verify=True)), {}, id="a service with TLS"),
        pytest.param(orders(Endpoint(address="/run/orders.sock", port=None)), {}, id="a Unix socket"),
        pytest.param(orders(NAME, Endpoint(address="/run/o.sock", port=None)), {}, id="a Unix socket beside a name"),
    ],
)
def test_what_grpc_clients_are_offered(cluster: Cluster, offered: dict[str, int | list[str]]) -> None:
    assert clusters(cluster) == offered
