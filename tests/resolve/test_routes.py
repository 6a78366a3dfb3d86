"""Routes as users write them to routes in match order, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.ir.gateway import Gateway
from controlplane.ir.route import ErrorResponse, Forward, Route
from controlplane.manifests.load import Refused
from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment

SERVICES = """
gateway: {defaults: {auth: public}}
services:
  a: {endpoints: ["127.0.0.1:1"]}
  b: {endpoints: ["127.0.0.1:2"]}
"""
IDENTITY = """
identity:
  issuers: {main: {issuer: i, audiences: [x], secret: 01234567890123456789012345678901}}
"""


def read(folder: Path, *texts: str) -> Built | Refused:
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    return build(folder, {}, Deployment())


def gateway(folder: Path, *texts: str) -> Gateway:
    built = read(folder, *texts)
    assert isinstance(built, Built), [str(p) for p in built.problems]
    return built.gateway


def problems(folder: Path, *texts: str) -> list[str]:
    refused = read(folder, *texts)
    assert isinstance(refused, Refused)
    return [str(problem) for problem in refused.problems]


def names(gateway: Gateway, host: str = "*") -> list[str]:
    (table,) = gateway.route_tables
    (found,) = [h for h in table.virtual_hosts if h.name == host]
    return [route.name for route in found.routes]


def only(gateway: Gateway) -> Route:
    (route,) = gateway.routes
    return route


ROUTES = """
  - {path: /**, service: a}
  - {path: /a/:id, service: a}
  - {path: /a/new, service: a}
  - {path: /a/new, methods: [GET], service: a, name: get}
  - {path: /a/new, methods: [GET, PUT], service: a, name: get-or-put}
  - {path: /a/new, headers: {x-v: "2"}, service: a, name: v2}
  - {path: /a, service: a}
  - {path: /a/**, service: a}
"""
ORDER = ["/a", "get", "get-or-put", "v2", "/a/new", "/a/:id", "/a/**", "/**"]


def test_the_order_of_a_file_does_not_matter(tmp_path: Path) -> None:
    lines = ROUTES.strip("\n").split("\n")
    forwards = gateway(tmp_path, SERVICES, "routes:\n" + "\n".join(lines))
    backwards = gateway(tmp_path, SERVICES, "routes:\n" + "\n".join(reversed(lines)))
    assert sorted(names(forwards)) == sorted(ORDER)
    assert names(forwards) == names(backwards)
    assert [n for n in names(forwards) if n in ("get", "get-or-put", "/a/new")] == ["get", "get-or-put", "/a/new"]
    assert names(forwards).index("/a/new") < names(forwards).index("/a/:id") < names(forwards).index("/a/**")


def test_a_route_without_a_host_is_on_every_host_after_the_hosts_own(tmp_path: Path) -> None:
    found = gateway(
        tmp_path,
        SERVICES,
        """
routes:
  - {path: /**, service: a, name: everywhere}
  - {path: /**, hosts: "*.x.com", service: a, name: below-x}
  - {path: /**, hosts: api.x.com, service: a, name: api}
  - {path: /a, service: b, name: a}
""",
    )
    assert names(found, "api.x.com") == ["api", "below-x", "a", "everywhere"]
    assert names(found, "*.x.com") == ["below-x", "a", "everywhere"]
    assert names(found) == ["a", "everywhere"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("{path: /a/:x, service: a}", "{path: '/a/{y}', service: b}", id="parameters of other names"),
        pytest.param("{path: /a/, service: a}", "{path: /a, service: b}", id="a trailing slash"),
        pytest.param(
            "{path: /a, methods: [GET, PUT], service: a}",
            "{path: /a, methods: [PUT, POST], service: b}",
            id="methods that overlap and neither holds the other",
        ),
        pytest.param(
            "{path: /a, hosts: [x.y, z.y], service: a}", "{path: /a, hosts: z.y, service: b}", id="a host in common"
        ),
    ],
)
def test_routes_that_no_request_can_tell_apart_are_refused_with_both_places(
    tmp_path: Path, first: str, second: str
) -> None:
    (problem,) = problems(tmp_path, SERVICES, f"routes:\n  - {first}\n", f"routes:\n  - {second}\n")
    assert problem.startswith("2.yaml:2:")
    assert "1.yaml:2:" in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("{path: /a, methods: [GET], service: a}", "{path: /a, service: b}", id="one method and all"),
        pytest.param(
            "{path: /a, methods: [PUT], service: a}", "{path: /a, methods: [POST], service: b}", id="other methods"
        ),
        pytest.param("{path: /a, service: a}", "{path: /a, query: {q: '1'}, service: b}", id="a condition more"),
        pytest.param("{path: /a, hosts: x.y, service: a}", "{path: /a, service: b}", id="a host and all"),
    ],
)
def test_routes_that_some_request_can_tell_apart_are_fine(tmp_path: Path, first: str, second: str) -> None:
    assert len(list(gateway(tmp_path, SERVICES, f"routes:\n  - {first}\n  - {second}\n").routes)) >= 2


def test_every_unknown_name_is_reported_at_once_with_a_guess(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        SERVICES + "limits: {slow: {rate: 1/s, by: ip}}\n",
        "routes:\n  - {path: /a, service: aa}\n  - {path: /b, services: [{service: bb}], limits: [slwo]}\n",
    )
    assert [p.split(":")[1] for p in found] == ["2", "3", "3"]
    assert 'unknown service "aa"' in found[0]
    assert 'did you mean "slow"?' in " ".join(found)


def test_authentication_is_required_unless_a_route_says_public(tmp_path: Path) -> None:
    text = 'services: {a: {endpoints: ["h:1"]}}\nroutes:\n  - {path: /a, service: a}\n'
    assert only(gateway(tmp_path, text, IDENTITY)).authorization.mode == "required"


def test_where_nobody_could_pass_it_is_said(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 'services: {a: {endpoints: ["h:1"]}}\nroutes:\n  - {path: /a, service: a}\n')
    assert "auth: public" in problem


@pytest.mark.parametrize("order", [("open", "closed"), ("closed", "open")], ids=["open first", "closed first"])
def test_of_several_services_the_strictest_counts(tmp_path: Path, order: tuple[str, str]) -> None:
    services = ", ".join(f"{{service: {name}}}" for name in order)
    text = f"""
services:
  open: {{endpoints: ["h:1"], auth: public}}
  closed: {{endpoints: ["h:1"], auth: required}}
routes:
  - {{path: /a, services: [{services}]}}
"""
    assert only(gateway(tmp_path, text, IDENTITY)).authorization.mode == "required"


def test_maintenance_answers_in_place_of_the_service(tmp_path: Path) -> None:
    found = only(
        gateway(
            tmp_path, SERVICES, "routes:\n  - {path: /a, service: a, maintenance: {message: later, retry_after: 30s}}\n"
        )
    )
    assert isinstance(found.action, ErrorResponse)
    assert found.action.status == 503
    assert ("retry-after", "30") in found.response_headers.set


def test_only_safe_methods_are_retried_unless_asked(tmp_path: Path) -> None:
    action = only(gateway(tmp_path, SERVICES, "routes:\n  - {path: /a, service: a}\n")).action
    assert isinstance(action, Forward)
    assert action.retry is not None
    assert action.retry.methods == ("GET", "HEAD", "OPTIONS")


@pytest.mark.parametrize(
    ("route", "limit"),
    [
        pytest.param("{path: /a, service: a}", 10_000_000, id="10MB by default"),
        pytest.param("{path: /a, service: a, body_limit: 5KB}", 5_000, id="the route's own"),
        pytest.param("{path: /a, service: a, websocket: true}", None, id="none where the body is a stream"),
    ],
)
def test_body_limits(tmp_path: Path, route: str, limit: int | None) -> None:
    assert only(gateway(tmp_path, SERVICES, f"routes:\n  - {route}\n")).body_limit_bytes == limit


def test_equal_manifests_have_equal_resources_wherever_things_are_written(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    route = "- {path: /a, service: a}"
    first = read(one, SERVICES, f"routes:\n  {route}\n")
    second = read(other, f"# a comment\n\n\nroutes:\n\n  {route}\n", SERVICES)
    assert isinstance(first, Built)
    assert isinstance(second, Built)
    assert first.snapshot.version == second.snapshot.version
