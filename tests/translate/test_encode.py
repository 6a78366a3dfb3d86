"""Our encoder against the library's own and against protobuf's parser."""

from __future__ import annotations

from datetime import timedelta

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy_data_plane.google.protobuf import Struct, Value

from controlplane.translate.encode import encode, full_name, packed

ROUTE = route_v3.Route(
    name="orders",
    match=route_v3.RouteMatch(
        prefix="/a",
        headers=[route_v3.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))],
    ),
    route=route_v3.RouteAction(
        cluster="c", timeout=timedelta(seconds=3, milliseconds=20), auto_host_rewrite=False, idle_timeout=timedelta(0)
    ),
    typed_per_filter_config={"b": packed(core.Address(pipe=core.Pipe(path="/x"))), "a": packed(core.Address())},
)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        pytest.param(ROUTE, route_components_pb2.Route, id="nested messages, maps, wrappers and durations"),
        pytest.param(
            cluster_v3.Cluster(
                name="x",
                type=cluster_v3.ClusterDiscoveryType.EDS,
                lb_policy=cluster_v3.ClusterLbPolicy.RANDOM,
                outlier_detection=cluster_v3.OutlierDetection(consecutive_5xx=0, max_ejection_percent=100),
                per_connection_buffer_limit_bytes=0,
            ),
            cluster_pb2.Cluster,
            id="enums, and wrappers of zero, which are not absent",
        ),
        pytest.param(core.Address(), address_pb2.Address, id="an empty message"),
    ],
)
def test_the_bytes_are_what_the_library_would_write(message, kind) -> None:
    assert kind.FromString(encode(message)) == kind.FromString(bytes(message))


def test_equal_maps_have_equal_bytes_whatever_their_order() -> None:
    one = Struct(fields={"a": Value(string_value="1"), "b": Value(number_value=0.0)})
    other = Struct(fields={"b": Value(number_value=0.0), "a": Value(string_value="1")})
    assert encode(one) == encode(other)


def test_an_empty_message_in_a_repeated_field_keeps_its_number() -> None:
    """The library writes it as field 1, whatever the field is."""
    policy = route_v3.RetryPolicy(retriable_headers=[route_v3.HeaderMatcher()])
    assert len(route_components_pb2.RetryPolicy.FromString(encode(policy)).retriable_headers) == 1


def test_names_of_nested_types_are_dotted() -> None:
    assert full_name(cluster_v3.ClusterEdsClusterConfig) == "envoy.config.cluster.v3.Cluster.EdsClusterConfig"
