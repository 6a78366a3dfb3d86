"""ir route matches -> RouteMatch, encoded. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import assert_never

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from controlplane.ir.route import ExactPath, PathMatch, PathPrefix, PathRegex, Route, RouteMatch, ValueMatch
from controlplane.snapshot.resource import field
from controlplane.translate.encode import encode

_ROUTE_MATCH = 1  # field number in envoy.config.route.v3.Route
_MEMO = 65_536


def matches(route: Route) -> tuple[bytes, ...]:
    """The match fields of the Envoy routes that one route becomes: two where a trailing slash needs its own.

    A route that answers pages of other origins matches their preflights too.
    """
    found = _matches(route.match)
    if route.cross_origin is not None and route.match.methods and "OPTIONS" not in route.match.methods:
        found += _matches(_preflight(route.match))
    return found


def own_matches(route: Route) -> tuple[bytes, ...]:
    """The same without the preflights."""
    return _matches(route.match)


def plain_matches(route: Route) -> tuple[bytes, ...]:
    """The same where each expression over a header or query parameter has become its presence: nothing of the user's
    is left that Envoy could refuse, and no request is missed. Empty where there is no such expression.
    """
    match = route.match
    plain = replace(match, headers=_present(match.headers), query=_present(match.query))
    return _matches(plain) if plain != match else ()


def _present(conditions: tuple[ValueMatch, ...]) -> tuple[ValueMatch, ...]:
    return tuple(ValueMatch(name=one.name, kind="present") if one.kind == "regex" else one for one in conditions)


def _preflight(match: RouteMatch) -> RouteMatch:
    """The preflights of a route that does not take OPTIONS itself: the CORS filter answers every one of them."""
    asked = ValueMatch(name="access-control-request-method", kind="regex", value="|".join(match.methods))
    return RouteMatch(
        path=match.path,
        methods=("OPTIONS",),
        headers=(ValueMatch(name="origin", kind="present"), asked),
        query=match.query,
    )


@lru_cache(_MEMO)
def _matches(match: RouteMatch) -> tuple[bytes, ...]:
    path = match.path
    if isinstance(path, ExactPath) and path.path != "/":
        slashed = RouteMatch(
            path=ExactPath(path.path + "/"), methods=match.methods, headers=match.headers, query=match.query
        )
        return _match(match), _match(slashed)
    return (_match(match),)


def _match(match: RouteMatch) -> bytes:
    return field(_ROUTE_MATCH, encode(_path(match.path)) + _conditions(match.methods, match.headers, match.query))


def _path(path: PathMatch) -> route_v3.RouteMatch:
    match path:
        case ExactPath(value):
            return route_v3.RouteMatch(path=value)
        case PathPrefix("/"):
            return route_v3.RouteMatch(prefix="/")
        case PathPrefix(value):
            return route_v3.RouteMatch(path_separated_prefix=value)
        case PathRegex(value, prefix):
            # Envoy looks at headers first: comparing the beginning spares it most expressions on its way down a long
            # table. Beside 1,000 such routes this more than doubles the requests per second.
            begins = [route_v3.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(prefix=prefix))]
            return route_v3.RouteMatch(safe_regex=matcher.RegexMatcher(regex=value), headers=begins if prefix else [])
        case _:
            assert_never(path)


@lru_cache(_MEMO)
def _conditions(methods: tuple[str, ...], headers: tuple[ValueMatch, ...], query: tuple[ValueMatch, ...]) -> bytes:
    return encode(
        route_v3.RouteMatch(
            headers=[*_method(methods), *map(_header, headers)],
            query_parameters=list(map(_query, query)),
        )
    )


def _method(methods: tuple[str, ...]) -> list[route_v3.HeaderMatcher]:
    match methods:
        case ():
            return []
        case (method,):
            return [route_v3.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact=method))]
        case _:
            any_of = matcher.RegexMatcher(regex="|".join(methods))
            return [route_v3.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(safe_regex=any_of))]


def _header(condition: ValueMatch) -> route_v3.HeaderMatcher:
    match condition.kind:
        case "present":
            return route_v3.HeaderMatcher(name=condition.name, present_match=True)
        case "absent":
            return route_v3.HeaderMatcher(name=condition.name, present_match=True, invert_match=True)
        case _:
            return route_v3.HeaderMatcher(name=condition.name, string_match=_string(condition))


def _query(condition: ValueMatch) -> route_v3.QueryParameterMatcher:
    match condition.kind:
        case "present":
            return route_v3.QueryParameterMatcher(name=condition.name, present_match=True)
        case "absent":
            return route_v3.QueryParameterMatcher(name=condition.name, present_match=False)
        case _:
            return route_v3.QueryParameterMatcher(name=condition.name, string_match=_string(condition))


def _string(condition: ValueMatch) -> matcher.StringMatcher:
    match condition.kind:
        case "exact":
            return matcher.StringMatcher(exact=condition.value)
        case "prefix":
            return matcher.StringMatcher(prefix=condition.value)
        case "suffix":
            return matcher.StringMatcher(suffix=condition.value)
        case "contains":
            return matcher.StringMatcher(contains=condition.value)
        case "regex":
            return matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=condition.value))
        case "present" | "absent":
            raise ValueError(f"{condition.kind} has no value")
        case _:
            assert_never(condition.kind)
