"""ir routes -> RouteConfiguration. Pure; memoised by value, so an edit costs the changed routes only.

Building and checking a message costs far more than joining bytes, so a route is put together from encoded fields: what
many routes share (a service's action, a filter's setting) is encoded once. A RouteConfiguration is a tree whose routes
are parts: each can be replaced when Envoy rejects it, and each carries a fallback that answers 503 for the same match.
"""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as type_v3
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import RouteTable
from controlplane.ir.route import (
    Action,
    DirectResponse,
    ErrorResponse,
    ExactPath,
    Forward,
    HashKey,
    HeaderMutations,
    Mirror,
    PathMatch,
    PathPrefix,
    PathRegex,
    Redirect,
    RegexRewrite,
    RetryPolicy,
    Route,
    RouteMatch,
    ValueMatch,
    VirtualHost,
)
from controlplane.memo import by_identity, same
from controlplane.snapshot.resource import ROUTE, Nested, Node, Part, Resource, field
from controlplane.translate.encode import encode
from controlplane.translate.header_value import literal
from controlplane.translate.http_filters.chain import HTTP_FILTERS
from controlplane.translate.local_reply import error_body
from controlplane.translate.values import duration

# Field numbers of envoy.config.route.v3 where a message is put together from encoded parts.
_ROUTE_CONFIGURATION_VIRTUAL_HOSTS = 2
_VIRTUAL_HOST_ROUTES = 3
_ROUTE_MATCH, _ROUTE_NAME = 1, 14

_REJECTED = ErrorResponse(
    status=503,
    code="route_rejected",
    error="Service Unavailable",
    message="The configuration of this route was rejected.",
)
_MEMO = 65_536  # values; more than the routes of any gateway we know


def route_configuration(table: RouteTable) -> Resource:
    """The route table of one listener: one resource, its routes as parts."""
    head = encode(
        route_v3.RouteConfiguration(
            name=table.name,
            ignore_port_in_host_matching=True,
            most_specific_header_mutations_wins=True,
            # Envoy would refuse the whole table for one unknown cluster; the snapshot's own check names the route.
            validate_clusters=False,
            max_direct_response_body_size_bytes=1 << 20,
        )
    )
    hosts = tuple(map(_virtual_host, table.virtual_hosts))
    return Resource(
        type_url=ROUTE,
        name=table.name,
        tree=(head, *hosts),
        origins=(table.origin,) if table.origin else (),
    )


def _virtual_host(host: VirtualHost) -> Nested:
    head = _virtual_host_head(host.name, host.domains)
    name = same(host.name)
    routes: tuple[Node, ...] = tuple(_part(name, route) for route in host.routes)
    return Nested(field=_ROUTE_CONFIGURATION_VIRTUAL_HOSTS, children=(head, *routes))


@by_identity(_MEMO)
def _part(host: str, route: Route) -> Part:
    return Part(
        key=f"{host}|{route.key}",
        body=_routes_of(route),
        fallback=_fallback(route.name, route.match),
        origin=route.origin,
    )


@lru_cache(_MEMO)
def _virtual_host_head(name: str, domains: tuple[str, ...]) -> bytes:
    return encode(route_v3.VirtualHost(name=name, domains=list(domains), include_request_attempt_count=False))


@lru_cache(_MEMO)
def _routes_of(route: Route) -> bytes:
    """The encoded Envoy routes of one route: two where a trailing slash needs a match of its own."""
    rest = b"".join(
        (
            _action(route.action),
            _headers(route.request_headers, route.response_headers),
            _filters(route),
            field(_ROUTE_NAME, route.name.encode()),
        )
    )
    matches = _matches(route.match)
    if route.cross_origin is not None and route.match.methods and "OPTIONS" not in route.match.methods:
        matches += _matches(_preflight(route.match))
    return b"".join(field(_VIRTUAL_HOST_ROUTES, match + rest) for match in matches)


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
def _fallback(name: str, match: RouteMatch) -> bytes:
    rest = _action(_REJECTED) + field(_ROUTE_NAME, name.encode())
    return b"".join(field(_VIRTUAL_HOST_ROUTES, encoded + rest) for encoded in _matches(match))


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


@lru_cache(_MEMO)
def _action(action: Action) -> bytes:
    match action:
        case Forward():
            return encode(route_v3.Route(route=_forward(action)))
        case Redirect():
            return encode(route_v3.Route(redirect=_redirect(action)))
        case DirectResponse():
            response = route_v3.DirectResponseAction(
                status=action.status,
                body=core.DataSource(inline_string=action.body) if action.body else None,
            )
            headers = HeaderMutations(set=(("content-type", action.content_type),) if action.content_type else ())
            return encode(
                route_v3.Route(
                    direct_response=response,
                    response_headers_to_add=_to_add(headers),
                )
            )
        case ErrorResponse():
            body = error_body(action.status, action.code, action.error, action.message)
            return encode(
                route_v3.Route(
                    direct_response=route_v3.DirectResponseAction(status=action.status, body_format=body),
                )
            )
        case _:
            assert_never(action)


def _forward(action: Forward) -> route_v3.RouteAction:
    built = route_v3.RouteAction(
        timeout=duration(action.timeout_ms or 0),
        idle_timeout=duration(action.idle_timeout_ms) if action.idle_timeout_ms is not None else None,
        retry_policy=_retry(action.retry) if action.retry else None,
        regex_rewrite=_rewrite(action.path_rewrite) if action.path_rewrite else None,
        hash_policy=list(map(_hash_policy, action.hash_keys)),
        request_mirror_policies=list(map(_mirror, action.mirrors)),
        upgrade_configs=[
            route_v3.RouteActionUpgradeConfig(upgrade_type="websocket", enabled=action.websocket),
        ]
        if action.websocket
        else [],
    )
    match action.clusters:
        case (only,):
            built.cluster = only.cluster
        case several:
            built.weighted_clusters = route_v3.WeightedCluster(
                clusters=[
                    route_v3.WeightedClusterClusterWeight(name=share.cluster, weight=share.weight) for share in several
                ]
            )
    if action.host_rewrite is not None:
        built.host_rewrite_literal = action.host_rewrite
    elif not action.keep_host:
        built.auto_host_rewrite = True
    built.append_x_forwarded_host = action.host_rewrite is not None or not action.keep_host
    return built


def _mirror(mirror: Mirror) -> route_v3.RouteActionRequestMirrorPolicy:
    return route_v3.RouteActionRequestMirrorPolicy(
        cluster=mirror.cluster,
        runtime_fraction=core.RuntimeFractionalPercent(
            default_value=type_v3.FractionalPercent(
                numerator=round(mirror.percent * 10_000), denominator=type_v3.FractionalPercentDenominatorType.MILLION
            )
        ),
        disable_shadow_host_suffix_append=True,
    )


def _retry(retry: RetryPolicy) -> route_v3.RetryPolicy:
    # One of these is enough. Comparisons: an expression would be compiled for every route of a table, at every change.
    methods = [
        route_v3.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact=method))
        for method in retry.methods
    ]
    return route_v3.RetryPolicy(
        retry_on=",".join(retry.conditions),
        num_retries=retry.retries,
        retriable_status_codes=list(retry.statuses),
        retriable_request_headers=methods,
        per_try_timeout=duration(retry.per_try_timeout_ms) if retry.per_try_timeout_ms is not None else None,
        retry_back_off=route_v3.RetryPolicyRetryBackOff(
            base_interval=duration(retry.backoff_base_ms), max_interval=duration(retry.backoff_max_ms)
        ),
        retry_host_predicate=[
            route_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=AnyMessage(
                    type_url="type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                ),
            )
        ],
        host_selection_retry_max_attempts=3,
    )


def _rewrite(rewrite: RegexRewrite) -> matcher.RegexMatchAndSubstitute:
    return matcher.RegexMatchAndSubstitute(
        pattern=matcher.RegexMatcher(regex=rewrite.regex), substitution=rewrite.substitution
    )


def _hash_policy(key: HashKey) -> route_v3.RouteActionHashPolicy:
    match key.kind:
        case "ip":
            return route_v3.RouteActionHashPolicy(
                connection_properties=route_v3.RouteActionHashPolicyConnectionProperties(source_ip=True)
            )
        case "header":
            return route_v3.RouteActionHashPolicy(
                header=route_v3.RouteActionHashPolicyHeader(header_name=key.name), terminal=True
            )
        case "cookie":
            return route_v3.RouteActionHashPolicy(
                cookie=route_v3.RouteActionHashPolicyCookie(
                    name=key.name,
                    path="/",
                    ttl=duration(key.cookie_ttl_ms) if key.cookie_ttl_ms is not None else None,
                )
            )
        case _:
            assert_never(key.kind)


def _redirect(action: Redirect) -> route_v3.RedirectAction:
    codes = route_v3.RedirectActionRedirectResponseCode
    built = route_v3.RedirectAction(
        response_code={
            301: codes.MOVED_PERMANENTLY,
            302: codes.FOUND,
            303: codes.SEE_OTHER,
            307: codes.TEMPORARY_REDIRECT,
            308: codes.PERMANENT_REDIRECT,
        }[action.status],
        host_redirect=action.host or "",
        port_redirect=action.port or 0,
        strip_query=not action.keep_query,
    )
    if action.scheme is not None:
        built.scheme_redirect = action.scheme
    if action.path is not None:
        built.path_redirect = action.path
    elif action.regex is not None:
        built.regex_rewrite = _rewrite(action.regex)
    return built


@lru_cache(_MEMO)
def _headers(request: HeaderMutations, response: HeaderMutations) -> bytes:
    return encode(
        route_v3.Route(
            request_headers_to_add=_to_add(request),
            request_headers_to_remove=list(request.remove),
            response_headers_to_add=_to_add(response),
            response_headers_to_remove=list(response.remove),
        )
    )


def _to_add(mutations: HeaderMutations) -> list[core.HeaderValueOption]:
    actions = core.HeaderValueOptionHeaderAppendAction
    return [
        core.HeaderValueOption(header=core.HeaderValue(key=name, value=literal(value)), append_action=action)
        for pairs, action in (
            (mutations.set, actions.OVERWRITE_IF_EXISTS_OR_ADD),
            (mutations.add, actions.APPEND_IF_EXISTS_OR_ADD),
        )
        for name, value in pairs
    ]


def _filters(route: Route) -> bytes:
    settings = {
        http_filter.name: setting for http_filter in HTTP_FILTERS if (setting := http_filter.route(route)) is not None
    }
    return encode(route_v3.Route(typed_per_filter_config=settings)) if settings else b""
