"""References are read from the bytes: every kind of them, missing or there."""

from __future__ import annotations

import gc
import weakref

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import Reference, check, part_references, references
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from tests.xds import made


def a_listener(*filters: object, http: tuple[hcm_pb2.HttpFilter, ...] = ()) -> Resource:
    message = listener_pb2.Listener(name="l")
    chain = message.filter_chains.add()
    for one in filters:
        chain.filters.add(name="f").typed_config.CopyFrom(made.packed(one))
    if http:
        manager = hcm_pb2.HttpConnectionManager(http_filters=http)
        chain.filters.add(name="http").typed_config.CopyFrom(made.packed(manager))
    return whole(types.LISTENER, "l", message.SerializeToString())


def a_route(**action: object) -> Resource:
    message = route_components_pb2.Route(route=route_components_pb2.RouteAction(**action))
    return made.routes("rc", {"/": message})


def a_cluster(message: cluster_pb2.Cluster) -> Resource:
    return whole(types.CLUSTER, message.name, message.SerializeToString())


def with_tls() -> Resource:
    context = tls_pb2.UpstreamTlsContext()
    context.common_tls_context.tls_certificate_sds_secret_configs.add(name="cert").sds_config.CopyFrom(made.ADS)
    message = cluster_pb2.Cluster(name="c")
    message.transport_socket.name = "tls"
    message.transport_socket.typed_config.CopyFrom(made.packed(context))
    return a_cluster(message)


def aggregate() -> Resource:
    message = cluster_pb2.Cluster(name="c")
    message.cluster_type.typed_config.CopyFrom(made.packed(aggregate_pb2.ClusterConfig(clusters=["x", "y"])))
    return a_cluster(message)


def ext_authz() -> hcm_pb2.HttpFilter:
    config = ext_authz_pb2.ExtAuthz()
    config.grpc_service.envoy_grpc.cluster_name = "authz"
    return hcm_pb2.HttpFilter(name="authz", typed_config=made.packed(config))


def discovered() -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name="later", config_discovery={"config_source": made.ADS})


def weighted() -> Resource:
    split = route_components_pb2.WeightedCluster(
        clusters=[{"name": "x", "weight": {"value": 1}}, {"name": "y", "weight": {"value": 1}}]
    )
    return a_route(weighted_clusters=split)


C, E, S, R, X = types.CLUSTER, types.ENDPOINT, types.SECRET, types.ROUTE, types.EXTENSION
CASES = {
    "a route names its cluster": (a_route(cluster="x"), {(C, "x")}),
    "a route names its weighted clusters": (weighted(), {(C, "x"), (C, "y")}),
    "a route names its mirror": (
        a_route(cluster="x", request_mirror_policies=[{"cluster": "m"}]),
        {(C, "x"), (C, "m")},
    ),
    "a route that names the cluster by header names none": (a_route(cluster_header="x-c"), set()),
    "a route that answers itself names none": (made.routes("rc", {"/": made.bad_route("/")}), set()),
    "an EDS cluster names its endpoints": (made.cluster("c"), {(E, "c")}),
    "an EDS cluster may name them otherwise": (
        a_cluster(cluster_pb2.Cluster(name="c", type=3, eds_cluster_config={"service_name": "s"})),
        {(E, "s")},
    ),
    "a static cluster names nothing": (made.cluster("c", eds=False, port=1), set()),
    "an aggregate cluster names its clusters": (aggregate(), {(C, "x"), (C, "y")}),
    "a cluster with TLS names its certificate": (with_tls(), {(S, "cert")}),
    "a listener names its routes": (made.listener("l", 80, "rc"), {(R, "rc")}),
    "an api listener too": (made.listener("l", 80, "rc", api=True), {(R, "rc")}),
    "a TCP proxy names its cluster": (a_listener(tcp_proxy_pb2.TcpProxy(cluster="t")), {(C, "t")}),
    "an HTTP filter names its service's cluster": (a_listener(http=(ext_authz(),)), {(C, "authz")}),
    "a discovered HTTP filter is named": (a_listener(http=(discovered(),)), {(X, "later")}),
}


@pytest.mark.parametrize(("resource", "named"), CASES.values(), ids=CASES.keys())
def test_references(resource: Resource, named: set[tuple[str, str]]) -> None:
    assert references(resource) == {Reference(*one) for one in named}


@pytest.mark.parametrize(("resource", "named"), CASES.values(), ids=CASES.keys())
def test_each_missing_reference_is_a_problem(resource: Resource, named: set[tuple[str, str]]) -> None:
    assert {one.reference for one in check(Snapshot.of([resource]))} == {Reference(*one) for one in named}


def test_parts_know_what_they_alone_name() -> None:
    table = made.routes("rc", {"/a": "x", "/b": "y"})
    assert {part.key: {one.name for one in named} for part, named in part_references(table)} == {
        "/a": {"x"},
        "/b": {"y"},
    }


def test_a_problem_says_where() -> None:
    (problem,) = check(Snapshot.of([made.routes("rc", {"/a": "nowhere"})]))
    assert str(problem) == 'routes.yaml:1:5: RouteConfiguration "rc" names Cluster "nowhere", which is missing'


def test_a_whole_gateway_resolves() -> None:
    behind = [made.cluster("c"), made.endpoints("c", 1)]
    assert check(Snapshot.of([*behind, made.routes("rc", {"/": "c"}), made.listener("l", 1, "rc")])) == ()


def test_bytes_of_another_kind_name_nothing() -> None:
    assert references(whole(types.CLUSTER, "c", b"\xff\xff\xff")) == frozenset()


def test_what_is_known_of_a_resource_goes_with_it() -> None:
    """Every edit makes another route table: were each kept, the process would grow by one with every edit."""
    table = made.routes("rc", {"/a": "x"})
    assert references(table) == references(made.routes("rc", {"/a": "x"}))
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None
