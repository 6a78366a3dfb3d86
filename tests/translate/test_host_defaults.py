"""What a virtual host says for its routes: every route means what it would mean if it said everything itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf import any_pb2

from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import ROUTE, Part, Resource

BEFORE = """
gateway: {listeners: [{port: 8080}]}
identity:
  issuers: {main: {issuer: i, audiences: [x], secret: "01234567890123456789012345678901"}}
services:
  plain: {endpoints: ["127.0.0.1:1"]}
  stubborn: {endpoints: ["127.0.0.1:1"], retry: {attempts: 3}}
  once: {endpoints: ["127.0.0.1:1"], retry: {attempts: 0}}
routes:
"""
ROUTES = {
    "required": "service: plain, auth: required",
    "public": "service: plain, auth: public",
    "admins": "service: plain, auth: {roles: [admin]}",
    "open": "service: plain, auth: {on_failure: allow}",
    "stubborn": "service: stubborn, auth: required",
    "once": "service: once, auth: required",
    "small bodies": "service: plain, auth: required, body_limit: 10B",
    "any bodies": "service: plain, auth: required, body_limit: none",
    "redirect": "redirect: {path: /elsewhere}, auth: public",
    "answer": "respond: {status: 204}, auth: public",
}
OFF = any_pb2.Any()
OFF.Pack(route_components_pb2.FilterConfig(disabled=True))


def table(folder: Path, *kinds: str) -> Resource:
    lines = [f'- {{path: "/{number}", {ROUTES[kind]}}}\n' for number, kind in enumerate(kinds)]
    (folder / "gateway.yaml").write_text(BEFORE + "".join(lines))
    built = build(folder, {}, Deployment())
    assert isinstance(built, Built), [str(problem) for problem in built.problems]
    (found,) = built.snapshot.of_type(ROUTE).values()
    return found


def host_of(resource: Resource) -> route_components_pb2.VirtualHost:
    (host,) = route_pb2.RouteConfiguration.FromString(resource.body).virtual_hosts
    return host


def meaning(
    route: route_components_pb2.Route, host: route_components_pb2.VirtualHost
) -> tuple[route_components_pb2.Route, dict[str, any_pb2.Any]]:
    """The route with what it takes over from its host, as Envoy resolves it."""
    filters = dict(host.typed_per_filter_config) | dict(route.typed_per_filter_config)
    whole = route_components_pb2.Route()
    whole.CopyFrom(route)
    whole.typed_per_filter_config.clear()
    if whole.HasField("route"):
        retry = route.route.retry_policy if route.route.HasField("retry_policy") else host.retry_policy
        whole.route.retry_policy.CopyFrom(retry)
    return whole, {name: setting for name, setting in filters.items() if setting != OFF}


def alone(part: Part) -> Sequence[route_components_pb2.Route]:
    return tuple(route_components_pb2.VirtualHost.FromString(part.kept).routes)


MIXES = [
    *itertools.product(ROUTES, repeat=2),
    *((kind,) * 3 + (other,) * 2 for kind, other in itertools.permutations(ROUTES, 2)),
    tuple(ROUTES),
    ("required",) * 12 + tuple(ROUTES),
]


def test_a_route_means_the_same_with_its_host_as_alone(tmp_path: Path) -> None:
    nobody = route_components_pb2.VirtualHost()
    for kinds in MIXES:
        resource = table(tmp_path, *kinds)
        host = host_of(resource)
        said = [meaning(route, host) for route in host.routes]
        wanted = [meaning(route, nobody) for part in resource.parts for route in alone(part)]
        assert said == wanted, kinds


def test_what_most_say_is_said_once(tmp_path: Path) -> None:
    resource = table(tmp_path, *["required"] * 5, "once", "public", "redirect")
    host = host_of(resource)
    assert set(host.typed_per_filter_config) == {
        "causeway.body_limit.announced",
        "envoy.filters.http.buffer",
        "envoy.filters.http.ext_authz",
    }
    assert host.retry_policy.num_retries.value == 1
    usual = [
        route for route in host.routes if not route.typed_per_filter_config and not route.route.HasField("retry_policy")
    ]
    assert len(usual) == 5 * 2, "each with its trailing slash"


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(("required",), id="a single route"),
        pytest.param(("required", "redirect"), id="a half is no majority"),
        pytest.param(("redirect", "answer", "redirect"), id="nothing to say"),
    ],
)
def test_where_there_is_no_majority_each_route_speaks_for_itself(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    host = host_of(table(tmp_path, *kinds))
    assert not host.typed_per_filter_config


def test_routes_in_place_of_rejected_ones_ask_nobody(tmp_path: Path) -> None:
    """They answer 503 at once, whatever the host says of its routes."""
    resource = table(tmp_path, *["required"] * 5)
    names = set(host_of(resource).typed_per_filter_config)
    for part in resource.parts:
        for route in route_components_pb2.VirtualHost.FromString(part.fallback).routes:
            assert route.direct_response.status == 503
            assert dict(route.typed_per_filter_config) == dict.fromkeys(names, OFF)
