"""ir actions -> what a Route does with a request, encoded. Pure.

The retries of a route are encoded beside its action, since most routes of a virtual host leave them to the host.
"""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as type_v3
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.route import (
    Action,
    DirectResponse,
    ErrorResponse,
    Forward,
    HashKey,
    HeaderMutations,
    Mirror,
    Redirect,
    RegexRewrite,
    RetryPolicy,
)
from controlplane.snapshot.resource import field
from controlplane.translate.encode import encode
from controlplane.translate.local_reply import error_body
from controlplane.translate.route_headers import to_add
from controlplane.translate.values import duration

_ROUTE_ACTION = 2  # field number in envoy.config.route.v3.Route
_RETRY_POLICY = 9  # field number in envoy.config.route.v3.RouteAction
_MEMO = 65_536


@lru_cache(_MEMO)
def action_field(action: Action, from_host: RetryPolicy | None) -> bytes:
    """The action of a route in a virtual host that retries like `from_host`, unless its routes say otherwise."""
    match action:
        case Forward():
            return field(_ROUTE_ACTION, encode(_forward(action)) + _own_retries(action.retry, from_host))
        case Redirect():
            return encode(route_v3.Route(redirect=_redirect(action)))
        case DirectResponse():
            response = route_v3.DirectResponseAction(
                status=action.status,
                body=core.DataSource(inline_string=action.body) if action.body else None,
            )
            headers = HeaderMutations(set=(("content-type", action.content_type),) if action.content_type else ())
            return encode(route_v3.Route(direct_response=response, response_headers_to_add=to_add(headers)))
        case ErrorResponse():
            body = error_body(action.status, action.code, action.error, action.message)
            response = route_v3.DirectResponseAction(status=action.status, body_format=body)
            return encode(route_v3.Route(direct_response=response))
        case _:
            assert_never(action)


def _own_retries(retry: RetryPolicy | None, from_host: RetryPolicy | None) -> bytes:
    """Nothing where the host's hold; an empty policy where there are none though the host has some."""
    if retry == from_host:
        return b""
    return field(_RETRY_POLICY, retry_policy(retry) if retry is not None else b"")


@lru_cache(1024)
def retry_policy(retry: RetryPolicy) -> bytes:
    """A RetryPolicy, as a route or a virtual host has it."""
    return encode(_retry(retry))


def _forward(action: Forward) -> route_v3.RouteAction:
    built = route_v3.RouteAction(
        timeout=duration(action.timeout_ms or 0),
        idle_timeout=duration(action.idle_timeout_ms) if action.idle_timeout_ms is not None else None,
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
