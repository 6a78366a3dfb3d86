"""What stands in for a route whose match Envoy refuses: the same place and path, and no expression of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from google.protobuf.json_format import MessageToDict

from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import ROUTE, Part

BEFORE = """
gateway: {listeners: [{port: 8080}]}
routes:
"""


def only_part(folder: Path, conditions: str) -> Part:
    route = f'- {{path: "/m/:id", methods: [PUT], {conditions}, respond: {{status: 200}}, auth: public}}\n'
    (folder / "gateway.yaml").write_text(BEFORE + route)
    built = build(folder, {}, Deployment())
    assert isinstance(built, Built), [str(problem) for problem in built.problems]
    (table,) = built.snapshot.of_type(ROUTE).values()
    (part,) = table.parts
    return part


def only_route(body: bytes) -> Route:
    (route,) = VirtualHost.FromString(body).routes
    return route


@pytest.mark.parametrize(
    ("conditions", "plain"),
    [
        ("headers: {x-a: {regex: 'a+'}}", "headers: {x-a: {present: true}}"),
        ("query: {a: {regex: 'a+'}}", "query: {a: {present: true}}"),
        (
            "headers: {x-a: {regex: 'a+'}, x-b: {prefix: b}, x-c: {present: false}}",
            "headers: {x-a: {present: true}, x-b: {prefix: b}, x-c: {present: false}}",
        ),
    ],
)
def test_asks_that_a_value_is_there_where_the_route_asks_how_it_is(tmp_path: Path, conditions: str, plain: str) -> None:
    route = only_route(only_part(tmp_path, conditions).last_resort)
    assert route.match == only_route(only_part(tmp_path, plain).body).match
    assert route.direct_response.status == 503
    assert "route_rejected" in str(MessageToDict(route))


def test_there_is_none_where_the_route_has_no_expression(tmp_path: Path) -> None:
    part = only_part(tmp_path, "headers: {x-a: {suffix: a}}, query: {a: b}")
    assert part.last_resort == b""
    assert part.fallback != b""


def test_the_fallback_takes_no_request_that_the_route_would_not(tmp_path: Path) -> None:
    """What is refused may be anything but the match: then nothing else need suffer."""
    part = only_part(tmp_path, "headers: {x-a: {regex: 'a+'}}")
    assert only_route(part.fallback).match == only_route(part.body).match
