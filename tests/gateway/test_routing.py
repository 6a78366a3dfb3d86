"""Routes through a real Envoy: the most specific one wins, whatever the order in the files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.client import Connection
from tests.support.expect import Ask, Got, Row, Saw, check
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.path_oracle import Requested, Written, chosen, shape, winner

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

# Few words, so that patterns and paths meet often.
_LITERALS = ("a", "b", "a.b", "a-b", "%20", "a+b")
_PATTERN_SEGMENT = st.sampled_from((*_LITERALS[:3], "a", "b", ":p", "{p}", "*"))


def _pattern(parts: list[str], has_rest: bool) -> str:
    """Parameters are numbered: a pattern may not name one twice."""
    named = [part.replace("p", f"p{number}") if "p" in part else part for number, part in enumerate(parts)]
    return "/" + "/".join([*named, "**"] if has_rest else named)


_PATTERN = st.builds(_pattern, st.lists(_PATTERN_SEGMENT, max_size=4), st.booleans())
_TABLE = st.lists(_PATTERN, min_size=1, max_size=14)
_PATH_SEGMENT = st.sampled_from((*_LITERALS, "a", "b", "ab", "c", "axb", "**", "*"))
_PATH = st.builds(
    lambda parts, slash: "/" + "/".join(parts) + ("/" if slash and parts else ""),
    st.lists(_PATH_SEGMENT, max_size=5),
    st.booleans(),
)
_CASES = st.lists(st.tuples(_TABLE, st.lists(_PATH, min_size=20, max_size=40)), min_size=10, max_size=25)


def _distinct(table: list[str]) -> list[str]:
    """One pattern per shape: two that no path can tell apart are refused, which is tested elsewhere."""
    return list({shape(pattern): pattern for pattern in table}.values())


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a failure names one path and its few patterns: small as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases=_CASES)
async def test_the_route_is_the_one_a_brute_force_reading_of_the_rule_finds(
    gateway: Gateway, cases: list[tuple[list[str], list[str]]]
) -> None:
    tables = [_distinct(table) for table, _ in cases]
    routes = [
        {"path": pattern, "hosts": f"t{number}.test", "respond": {"body": pattern}, "auth": "public"}
        for number, table in enumerate(tables)
        for pattern in table
    ]
    await gateway.apply({"routes": routes})
    async with Connection(gateway.address) as connection:
        for number, (table, (_, paths)) in enumerate(zip(tables, cases, strict=True)):
            for path in paths:
                response = await connection.request("GET", path, host=f"t{number}.test")
                expected = winner(table, path)
                found = response.body.decode() if response.status == 200 else None
                assert (response.status, found) == (404 if expected is None else 200, expected), (path, sorted(table))


# Nested, so that any two routes of one path differ in a way that the rule ranks.
_METHODS: tuple[tuple[str, ...], ...] = ((), ("GET",), ("GET", "POST"), ("GET", "POST", "PUT"))
_HEADERS: tuple[tuple[str, ...], ...] = ((), ("x-one",), ("x-one", "x-two"))
_HOSTS = (None, "a.example.com", "*.example.com", "*.a.example.com", "example.org")
_ROUTES = st.lists(
    st.builds(
        Written,
        path=st.builds(_pattern, st.lists(st.sampled_from(("a", "b", "*")), max_size=2), st.booleans()),
        host=st.sampled_from(_HOSTS),
        methods=st.sampled_from(_METHODS),
        headers=st.sampled_from(_HEADERS),
    ),
    min_size=10,
    max_size=80,
    unique_by=lambda route: (shape(route.path), route.host, route.methods, route.headers),
)
_REQUESTS = st.lists(
    st.builds(
        Requested,
        host=st.sampled_from(("a.example.com", "b.example.com", "x.a.example.com", "example.org", "example.com")),
        path=st.sampled_from(("/", "/a", "/b/", "/a/b", "/b/a", "/a/b/c", "/c")),
        method=st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE")),
        headers=st.sampled_from(
            (frozenset(), frozenset({"x-one"}), frozenset({"x-two"}), frozenset({"x-one", "x-two"}))
        ),
    ),
    min_size=100,
    max_size=200,
)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(routes=_ROUTES, requests=_REQUESTS)
async def test_hosts_methods_and_conditions_decide_as_the_rule_says(
    gateway: Gateway, routes: list[Written], requests: list[Requested]
) -> None:
    await gateway.apply({"routes": [_as_manifest(str(number), route) for number, route in enumerate(routes)]})
    async with Connection(gateway.address) as connection:
        for request in requests:
            headers = tuple((name, "1") for name in sorted(request.headers))
            answer = await connection.request(request.method, request.path, host=request.host, headers=headers)
            route = chosen(routes, request)
            found = routes[int(answer.header("x-route") or 0)] if answer.status == 200 else None
            assert found == route, (request, [one for one in routes if one.holds(request)])


def _as_manifest(name: str, route: Written) -> dict[str, Any]:
    conditions: dict[str, Any] = {
        "hosts": route.host,
        "methods": list(route.methods),
        "headers": {header: {"present": True} for header in route.headers},
    }
    named = {"respond": {"body": name, "headers": {"x-route": name}}, "auth": "public"}
    return {"path": route.path, **{key: value for key, value in conditions.items() if value}, **named}


async def test_the_order_in_the_files_means_nothing(gateway: Gateway) -> None:
    patterns = ["/**", "/a/**", "/a/*", "/a/b", "/a/:id/c"]
    for order in itertools.islice(itertools.permutations(patterns), 0, 120, 40):
        await gateway.apply({"routes": [_answering(pattern) for pattern in order]})
        async with Connection(gateway.address) as connection:
            for path in ("/", "/a", "/a/", "/a/b", "/a/x", "/a/x/c", "/a/b/c", "/x"):
                response = await connection.request("GET", path)
                assert response.body.decode() == winner(patterns, path), (path, order)


def _answering(path: str, body: str | None = None, **more: Any) -> dict[str, Any]:
    return {"path": path, "respond": {"body": body or path}, "auth": "public", **more}


CONDITIONS = [
    _answering("/orders", "any"),
    _answering("/orders", "get", methods=["GET"]),
    _answering("/orders", "beta", methods=["GET"], headers={"x-beta": "on"}),
    _answering("/orders", "beta eu", methods=["GET"], headers={"x-beta": "on"}, query={"region": {"prefix": "eu"}}),
    _answering("/orders/:id", "write", methods=["PUT", "PATCH"]),
    _answering("/flag", "present", query={"debug": {"present": True}}),
    _answering("/flag", "plain"),
    _answering("/h", "absent", headers={"x-legacy": {"present": False}}),
    _answering("/h", "legacy 2.x", headers={"x-legacy": {"regex": "2\\.\\d+"}}),
    _answering("/host", "one host", hosts="api.example.com"),
    _answering("/host", "wildcard", hosts="*.example.com"),
    _answering("/host", "every host"),
    _answering("/everywhere", "every host"),
]


def _row(name: str, body: str | None, path: str, method: str = "GET", **ask: Any) -> Row:
    got = Got(status=404, json={"code": "route_not_found"}) if body is None else Got(body=body.encode())
    return Row(name=name, ask=Ask(method=method, path=path, **ask), got=got, saw=None)


@pytest.fixture
async def conditions(gateway: Gateway) -> Gateway:
    await gateway.apply({"routes": CONDITIONS})
    return gateway


@pytest.mark.parametrize(
    "row",
    [
        _row("a route without methods takes any", "any", "/orders", "DELETE"),
        _row("a route with the method is more specific", "get", "/orders"),
        _row("GET brings HEAD", "get", "/orders", "GET"),
        _row("a header that matches is more specific", "beta", "/orders", headers=(("x-beta", "on"),)),
        _row("a header with another value does not match", "get", "/orders", headers=(("x-beta", "off"),)),
        _row("header and query together", "beta eu", "/orders?region=eu-west", headers=(("x-beta", "on"),)),
        _row("a query that does not match", "beta", "/orders?region=us", headers=(("x-beta", "on"),)),
        _row("one of several methods", "write", "/orders/7", "PATCH"),
        _row("none of several methods", None, "/orders/7", "POST"),
        _row("a query parameter that is there", "present", "/flag?debug"),
        _row("a query parameter that is not there", "plain", "/flag?debugger=1"),
        _row("a header that is not there", "absent", "/h"),
        _row("a header by expression", "legacy 2.x", "/h", headers=(("x-legacy", "2.11"),)),
        _row("an expression matches the whole value", None, "/h", headers=(("x-legacy", "12.11"),)),
        _row("an exact host", "one host", "/host", host="api.example.com"),
        _row("an exact host in capitals and with a port", "one host", "/host", host="API.Example.com:8080"),
        _row("a wildcard host", "wildcard", "/host", host="shop.example.com"),
        _row("a wildcard host takes several labels", "wildcard", "/host", host="a.b.example.com"),
        _row("a wildcard host does not take its own suffix", "every host", "/host", host="example.com"),
        _row("any other host", "every host", "/host", host="elsewhere.test"),
        _row("a route for every host also on a named one", "every host", "/everywhere", host="api.example.com"),
        _row("a route for every host also under a wildcard", "every host", "/everywhere", host="x.example.com"),
    ],
    ids=str,
)
async def test_conditions(conditions: Gateway, row: Row) -> None:
    await check(conditions, row)


async def test_head_is_answered_where_get_is(conditions: Gateway) -> None:
    assert (await conditions.request("HEAD", "/orders")).status == 200


async def test_the_query_is_no_part_of_the_match_and_reaches_the_service(
    gateway: Gateway, origins: Callable[..., Origin]
) -> None:
    one, other = origins("one"), origins("other")
    await gateway.apply(
        {
            "services": {"one": {"endpoints": [one.address]}, "other": {"endpoints": [other.address]}},
            "routes": [
                {"path": "/one/**", "service": "one", "auth": "public"},
                {"path": "/other/**", "service": "other", "auth": "public"},
            ],
        }
    )
    rows = [
        ("/one/x?path=/other/y", "one"),
        ("/other?x=/one", "other"),
        ("/one?a=1&a=2&b=%2Fother%2F..", "one"),
    ]
    for path, by in rows:
        row = Row(name=path, ask=Ask(path=path), saw=Saw(by=by, path=path))
        await check(gateway, row, one, other)


async def test_weights_share_the_requests(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    stable, canary = origins("one"), origins("other")
    stable.forget()
    canary.forget()
    await gateway.apply(
        {
            "services": {"stable": {"endpoints": [stable.address]}, "canary": {"endpoints": [canary.address]}},
            "routes": [
                {
                    "path": "/**",
                    "auth": "public",
                    "services": [{"service": "stable", "weight": 3}, {"service": "canary", "weight": 1}],
                }
            ],
        }
    )
    async with Connection(gateway.address) as connection:
        for _ in range(400):
            assert (await connection.request("GET", "/")).status == 200
    # Binomial(400, 1/4): the bounds are more than five standard deviations away.
    assert 55 <= len(canary.requests) <= 145
    assert len(stable.requests) + len(canary.requests) == 400


async def test_expressions_as_long_as_tokens_and_paths_of_many_parameters_are_matched(
    gateway: Gateway, origin: Origin
) -> None:
    """Envoy's own limit on the size of an expression, 100 steps, would refuse each of them."""
    words = "/".join(f":p{number}" for number in range(40))
    route = {"service": "one", "auth": "public"}
    await gateway.apply(
        {
            "services": {"one": {"endpoints": [origin.address]}},
            "routes": [
                {"path": "/hash", "headers": {"x-hash": {"regex": "[0-9a-f]{128}"}}, **route},
                {"path": "/token", "headers": {"authorization": {"regex": "Bearer [A-Za-z0-9._-]{20,200}"}}, **route},
                {"path": f"/many/{words}", "rewrite": {"path": "/{p39}/{p7}"}, **route},
            ],
        }
    )
    many = "/many/" + "/".join(map(str, range(40)))
    assert (await gateway.request("GET", "/hash", headers=[("x-hash", "0a" * 64)])).status == 200
    assert (await gateway.request("GET", "/hash", headers=[("x-hash", "0a" * 63)])).status == 404
    assert (await gateway.request("GET", "/token", headers=[("authorization", "Bearer " + "a.B-" * 50)])).status == 200
    assert (await gateway.request("GET", "/token", headers=[("authorization", "Bearer short")])).status == 404
    assert (await gateway.request("GET", many)).status == 200
    assert (await gateway.request("GET", many + "/40")).status == 404
    assert origin.requests[-1].path == "/39/7"
