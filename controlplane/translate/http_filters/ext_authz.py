"""Authentication and authorization: Envoy asks the authorization service about each request of a route that wants it.

The filter exists twice, because whether requests pass when the service does not answer is a setting of the whole
filter: once closed (503) and once open. Each runs only on the routes that name their policy to it; a request that
matches no route has nothing behind it to protect and gets its 404. A route without an authorization cannot be written
(`ir.Route` has no default for it), and a public one is the only kind that is not asked about.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import ApiVersion
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import CheckSettings, ExtAuthz, ExtAuthzPerRoute
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.identity import Identity
from controlplane.ir.names import EXTAUTHZ_CLUSTER
from controlplane.ir.route import Route
from controlplane.snapshot.resource import field
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.http_filters.policy_call import policy_call
from controlplane.translate.policies.extauthz import extauthz_policy, policy_name
from extauthz.policy import CONTEXT_POLICY_KEY, allowed_headers, injected_headers

_MAX_DENIED_BODY_BYTES = 4096


@lru_cache(16)
def _filter(gateway: str, identity: Identity, *, is_open: bool) -> AnyMessage:
    policy = extauthz_policy(gateway, identity, ())
    names = "|".join(map(re.escape, (*injected_headers(policy), "authorization")))
    return packed(
        ExtAuthz(
            grpc_service=policy_call(EXTAUTHZ_CLUSTER, timedelta(milliseconds=identity.timeout_ms)),
            transport_api_version=ApiVersion.V3,
            failure_mode_allow=is_open,
            status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
            # Headers as they were on the wire, duplicates apart, and only those that decide something.
            encode_raw_headers=True,
            allowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=name) for name in allowed_headers(policy)]),
            # What comes back may touch the injected names, and credentials to take away; anything else is an error.
            validate_mutations=True,
            decoder_header_mutation_rules=HeaderMutationRules(
                disallow_all=True, allow_expression=RegexMatcher(regex=f"({names})"), disallow_is_error=True
            ),
            # A route chosen after its policy was checked could be one with another policy.
            clear_route_cache=False,
            charge_cluster_response_stats=False,
            max_denied_response_body_bytes=_MAX_DENIED_BODY_BYTES,
            enforce_response_header_limits=True,
            stat_prefix="open" if is_open else "closed",
        )
    )


_NAMES_POLICY = re.compile(re.escape(field(1, CONTEXT_POLICY_KEY.encode())) + rb"\x12(.)", re.DOTALL)


def policies_named(routes: bytes) -> frozenset[str]:
    """The policies that encoded routes name: entries of `context_extensions`, whose values are under 128 bytes."""
    names = ((found.end(), found[1][0]) for found in _NAMES_POLICY.finditer(routes))
    return frozenset(routes[at : at + length].decode() for at, length in names)


@lru_cache(4096)
def _asking(policy: str) -> AnyMessage:
    return packed(ExtAuthzPerRoute(check_settings=CheckSettings(context_extensions={CONTEXT_POLICY_KEY: policy})))


def _closed(route: Route) -> AnyMessage | None:
    asked = route.authorization
    return _asking(policy_name(asked)) if asked.asks and not asked.failure_open else None


def _open(route: Route) -> AnyMessage | None:
    asked = route.authorization
    return _asking(policy_name(asked)) if asked.asks and asked.failure_open else None


def _closed_filter(gateway: Gateway) -> AnyMessage:
    return _filter(gateway.name, gateway.identity, is_open=False)


def _open_filter(gateway: Gateway) -> AnyMessage:
    return _filter(gateway.name, gateway.identity, is_open=True)


EXT_AUTHZ = HttpFilter(
    name="envoy.filters.http.ext_authz", listener=_closed_filter, everywhere=False, is_inherited=True, route=_closed
)
EXT_AUTHZ_OPEN = HttpFilter(
    name="causeway.ext_authz.open", listener=_open_filter, everywhere=False, is_inherited=True, route=_open
)
