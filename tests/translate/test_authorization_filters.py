"""Envoy's side of authorization: who is asked on which route, and what may come back."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from controlplane.ir.identity import Authorization, Identity
from controlplane.translate.http_filters.ext_authz import _closed, _filter, _open
from controlplane.translate.http_filters.strip import _early
from extauthz.policy import CONTEXT_POLICY_KEY, RESERVED_HEADERS, RESERVED_PREFIXES


class Route:
    """As much of a route as a filter looks at."""

    def __init__(self, authorization: Authorization) -> None:
        self.authorization = authorization


ROWS = {
    "required": (Authorization(), True, False),
    "required, open on failure": (Authorization(failure_open=True), False, True),
    "optional": (Authorization(mode="optional"), True, False),
    "public": (Authorization(mode="public", asks=False), False, False),
    "public, with rules on addresses": (Authorization(mode="public", ip_deny=("10.0.0.0/8",)), True, False),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_route_asks_one_filter_or_none(case: str) -> None:
    authorization, closed, is_open = ROWS[case]
    route = Route(authorization)
    assert (_closed(route) is not None, _open(route) is not None) == (closed, is_open)  # type: ignore[arg-type]


def test_the_route_names_its_policy() -> None:
    setting = _closed(Route(Authorization(roles=(("admin",),))))  # type: ignore[arg-type]
    assert setting is not None
    parsed = ext_authz_pb2.ExtAuthzPerRoute.FromString(setting.value)
    assert parsed.check_settings.context_extensions[CONTEXT_POLICY_KEY].startswith("required-")


@pytest.mark.parametrize("is_open", [False, True])
def test_what_envoy_sends_and_takes_back(is_open: bool) -> None:
    identity = Identity(headers=(("x-user-id", "sub"),))
    parsed = ext_authz_pb2.ExtAuthz.FromString(_filter("g", identity, is_open=is_open).value)
    assert parsed.failure_mode_allow == is_open
    assert parsed.status_on_error.code == 503
    assert parsed.encode_raw_headers
    assert parsed.validate_mutations
    assert not parsed.clear_route_cache
    assert not parsed.failure_mode_allow_header_add
    assert [one.exact for one in parsed.allowed_headers.patterns] == ["x-request-id"]
    rules = parsed.decoder_header_mutation_rules
    assert rules.disallow_all.value
    assert rules.disallow_is_error.value
    assert rules.allow_expression.regex == r"(x\-user\-id|authorization)"


@pytest.mark.parametrize("timeout_ms", [5, 500])
def test_another_worker_is_asked_at_once_and_each_has_all_the_time_there_is(timeout_ms: int) -> None:
    call = ext_authz_pb2.ExtAuthz.FromString(_filter("g", Identity(timeout_ms=timeout_ms), is_open=False).value)
    backoff = call.grpc_service.retry_policy.retry_back_off
    assert call.grpc_service.timeout.ToMilliseconds() == timeout_ms
    assert (backoff.base_interval.ToMilliseconds(), backoff.max_interval.ToMilliseconds()) == (1, timeout_ms)


def test_every_reserved_name_and_every_injected_one_is_removed_before_anything_else() -> None:
    identity = Identity(headers=(("x-shop-user", "sub"),))
    parsed = header_mutation_pb2.HeaderMutation.FromString(_early("g", identity).value)
    removed = {one.remove for one in parsed.mutations if one.remove}
    families = {one.remove_on_match.key_matcher.prefix for one in parsed.mutations if not one.remove}
    assert removed == {*RESERVED_HEADERS, "x-shop-user"}
    assert families == set(RESERVED_PREFIXES)
