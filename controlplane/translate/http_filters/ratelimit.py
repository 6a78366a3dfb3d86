"""Rate limits: Envoy asks the rate limit service before authentication (by address) and after it (by identity).

A route tells of each of its limits one descriptor: the limit's name, the values of its keys, and what else the limit
looks at. Who somebody is comes from the metadata that authentication left, never from a header; a client's address is
the one behind trusted proxies. An entry whose value is missing is left out, and the service counts by address instead.

What happens when the service does not answer can only be told per filter, so limits that then refuse have filters of
their own. A route without limits of a kind never meets the filter of that kind.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import assert_never

from envoy_data_plane.envoy.config.core.v3 import ApiVersion
from envoy_data_plane.envoy.config.ratelimit.v3 import RateLimitServiceConfig
from envoy_data_plane.envoy.config.route.v3 import (
    RateLimit,
    RateLimitAction,
    RateLimitActionGenericKey,
    RateLimitActionMaskedRemoteAddress,
    RateLimitActionMetaData,
    RateLimitActionMetaDataSource,
    RateLimitActionQueryParameters,
    RateLimitActionRequestHeaders,
    RateLimitHitsAddend,
)
from envoy_data_plane.envoy.extensions.filters.http.ratelimit.v3 import RateLimit as RateLimitFilter
from envoy_data_plane.envoy.extensions.filters.http.ratelimit.v3 import RateLimitPerRoute
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.limit import FixedCost, RequestHeaderCost, ResponseHeaderCost, RouteLimit, Stage
from controlplane.ir.names import RATELIMIT_CLUSTER
from controlplane.ir.route import Route
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.http_filters.policy_call import policy_call
from extauthz.policy import METADATA_NAMESPACE
from ratelimit import policy

TIMEOUT = timedelta(milliseconds=250)
"""Longer than the service ever waits for its store; it only matters when the service itself is gone or stuck."""
_IDENTITY_KEYS = frozenset({"user", "tenant", "tier", "api_key"})


def _filter(stage: Stage, *, fails_closed: bool) -> HttpFilter:
    def listener(gateway: Gateway) -> AnyMessage:
        return packed(
            RateLimitFilter(
                domain=gateway.name,
                timeout=TIMEOUT,
                failure_mode_deny=fails_closed,
                status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
                disable_x_envoy_ratelimited_header=True,
                rate_limit_service=RateLimitServiceConfig(
                    grpc_service=policy_call(RATELIMIT_CLUSTER, TIMEOUT), transport_api_version=ApiVersion.V3
                ),
            )
        )

    def route(route: Route) -> AnyMessage | None:
        limits = tuple(one for one in route.limits if one.stage == stage and one.fails_closed == fails_closed)
        return _on_route(route.name, route.pattern, limits) if limits else None

    return HttpFilter(
        name=f"causeway.ratelimit.{stage}.{'deny' if fails_closed else 'allow'}",
        listener=listener,
        everywhere=False,
        route=route,
    )


@lru_cache(4096)
def _on_route(name: str, pattern: str, limits: tuple[RouteLimit, ...]) -> AnyMessage:
    return packed(
        RateLimitPerRoute(rate_limits=[each for limit in limits for each in rate_limits(limit, name, pattern)])
    )


def rate_limits(limit: RouteLimit, route: str, pattern: str) -> list[RateLimit]:
    """What Envoy asks for one limit: once, or before and after where the response tells the cost.

    Then one is taken when the request comes, and the rest when the stream ends: nothing, where the response tells none.
    """
    actions = _actions(limit, route, pattern)
    match limit.cost:
        case FixedCost():
            return [RateLimit(actions=actions)]
        case RequestHeaderCost(name):
            # Not as hits: Envoy leaves out a whole descriptor whose hits are no number, and with it the limit.
            return [RateLimit(actions=[*actions, _header(policy.COST_KEY, name)])]
        case ResponseHeaderCost(name):
            settling = [*actions, _constant(policy.SETTLE_KEY, "1")]
            cost = RateLimitHitsAddend(format=f"%RESPONSE_HEADER({name})%")
            return [
                RateLimit(actions=actions),
                RateLimit(actions=settling, hits_addend=cost, apply_on_stream_done=True),
            ]
        case _:
            assert_never(limit.cost)


def _actions(limit: RouteLimit, route: str, pattern: str) -> list[RateLimitAction]:
    keys = (*limit.by, *limit.reads)
    actions = [_constant(policy.LIMIT_KEY, limit.name), *map(_entry, (key for key in keys if not _is_path(key)))]
    if any(map(_is_path, keys)):
        actions += [_constant(policy.PATTERN_KEY, pattern), _header(policy.PATH_KEY, ":path")]
    return [*actions, _constant(policy.ROUTE_KEY, route), _header(policy.REQUEST_ID_KEY, "x-request-id")]


def _is_path(key: str) -> bool:
    return key.startswith("path.")


def _entry(key: str) -> RateLimitAction:
    if key == "ip":
        # One address of IPv4, a whole /64 of IPv6: that is what one subscriber has.
        return RateLimitAction(
            masked_remote_address=RateLimitActionMaskedRemoteAddress(v4_prefix_mask_len=32, v6_prefix_mask_len=64)
        )
    if key in _IDENTITY_KEYS:
        return RateLimitAction(
            metadata=RateLimitActionMetaData(
                descriptor_key=key,
                metadata_key=MetadataKey(key=METADATA_NAMESPACE, path=[MetadataKeyPathSegment(key=key)]),
                source=RateLimitActionMetaDataSource.DYNAMIC,
                skip_if_absent=True,
            )
        )
    if key == "method":
        return _header(key, ":method")
    kind, _, name = key.partition(".")
    if kind == "query":
        return RateLimitAction(
            query_parameters=RateLimitActionQueryParameters(
                query_parameter_name=name, descriptor_key=key, skip_if_absent=True
            )
        )
    return _header(key, name)


def _constant(key: str, value: str) -> RateLimitAction:
    return RateLimitAction(generic_key=RateLimitActionGenericKey(descriptor_key=key, descriptor_value=value))


def _header(key: str, name: str) -> RateLimitAction:
    return RateLimitAction(
        request_headers=RateLimitActionRequestHeaders(header_name=name, descriptor_key=key, skip_if_absent=True)
    )


IP_LIMITS = _filter("ip", fails_closed=False)
IP_LIMITS_CLOSED = _filter("ip", fails_closed=True)
IDENTITY_LIMITS = _filter("identity", fails_closed=False)
IDENTITY_LIMITS_CLOSED = _filter("identity", fails_closed=True)
