"""A route's limits as Envoy is told them: entries in the order of the contract, identity never from a header."""

from __future__ import annotations

from typing import Any

import pytest
from envoy_data_plane.envoy.config.route.v3 import RateLimitAction, RateLimitActionMetaDataSource

from controlplane.manifests.models.limits import Limit
from controlplane.resolve.limits import limit
from controlplane.translate.http_filters.chain import HTTP_FILTERS
from controlplane.translate.http_filters.ratelimit import rate_limits


def entries(**written: Any) -> list[Any]:
    one = limit("l", Limit.model_validate({"rate": "5/min", **written})).on_route
    return [action_of(action) for action in rate_limits(one, "the route", "/a/:id")[0].actions]


def action_of(action: RateLimitAction) -> Any:
    if action.generic_key is not None:
        return (action.generic_key.descriptor_key, action.generic_key.descriptor_value)
    if action.metadata is not None:
        assert action.metadata.metadata_key is not None
        assert action.metadata.source is RateLimitActionMetaDataSource.DYNAMIC
        assert action.metadata.skip_if_absent
        path = [segment.key for segment in action.metadata.metadata_key.path]
        return ("metadata", action.metadata.descriptor_key, action.metadata.metadata_key.key, *path)
    if action.request_headers is not None:
        assert action.request_headers.skip_if_absent
        return ("header", action.request_headers.descriptor_key, action.request_headers.header_name)
    if action.query_parameters is not None:
        return ("query", action.query_parameters.descriptor_key, action.query_parameters.query_parameter_name)
    assert action.masked_remote_address is not None
    masked = action.masked_remote_address
    return ("address", masked.v4_prefix_mask_len, masked.v6_prefix_mask_len)


IDENTITY = "envoy.filters.http.ext_authz"
LAST = [("route", "the route"), ("header", "request_id", "x-request-id")]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param({"by": "ip"}, [("address", 32, 64)], id="by address"),
        pytest.param(
            {"by": ["user", "method"]},
            [("metadata", "user", IDENTITY, "user"), ("header", "method", ":method"), ("address", 32, 64)],
            id="by user and method, with the address for who has neither",
        ),
        pytest.param(
            {"by": "tenant", "tier_from": "p", "tiers": {"a": "1/s"}},
            [("metadata", "tenant", IDENTITY, "tenant"), ("metadata", "tier", IDENTITY, "tier"), ("address", 32, 64)],
            id="with tiers",
        ),
        pytest.param(
            {"by": ["header.x-app", "query.q"]},
            [("header", "header.x-app", "x-app"), ("query", "query.q", "q"), ("address", 32, 64)],
            id="by header and query",
        ),
        pytest.param(
            {"by": "path.id"},
            [("address", 32, 64), ("pattern", "/a/:id"), ("header", "path", ":path")],
            id="by a path parameter",
        ),
        pytest.param(
            {"by": "ip", "exempt": {"api_key": ["k"]}},
            [("address", 32, 64), ("metadata", "api_key", IDENTITY, "api_key")],
            id="with an exemption that looks at more",
        ),
    ],
)
def test_entries(written: dict[str, Any], expected: list[Any]) -> None:
    assert entries(**written) == [("causeway.limit", "l"), *expected, *LAST]


def test_a_cost_that_authentication_injects_is_an_entry() -> None:
    written = {"rate": "5/min", "by": "ip", "cost": {"request_header": "x-cost"}}
    (only,) = rate_limits(limit("l", Limit.model_validate(written)).on_route, "r", "/")

    assert only.hits_addend is None
    assert action_of(only.actions[-1]) == ("header", "causeway.cost", "x-cost")


def test_a_cost_of_the_response_is_settled_at_the_end() -> None:
    written = {"rate": "5/min", "by": "ip", "cost": {"response_header": "x-cost"}}
    first, last = rate_limits(limit("l", Limit.model_validate(written)).on_route, "r", "/")

    assert (first.hits_addend, first.apply_on_stream_done) == (None, False)
    assert last.hits_addend.format == "%RESPONSE_HEADER(x-cost)%"  # type: ignore[union-attr]
    assert last.apply_on_stream_done
    assert action_of(last.actions[-1]) == ("causeway.settle", "1")


def test_floods_are_stopped_before_authentication_and_identities_counted_after_it() -> None:
    names = [each.name for each in HTTP_FILTERS]
    authentication = next(i for i, name in enumerate(names) if "ext_authz" in name)

    assert all(names.index(f"causeway.ratelimit.ip.{mode}") < authentication for mode in ("allow", "deny"))
    assert all(names.index(f"causeway.ratelimit.identity.{mode}") > authentication for mode in ("allow", "deny"))
