"""The `limits:` section: what may be written, what is refused and why, and what it resolves to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.ir.limit import FixedCost, LimitBlock, Quota, RequestHeaderCost, ResponseHeaderCost, Tightening
from controlplane.manifests.models.limits import Limit
from controlplane.resolve.limits import limit

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def resolved(**written: Any) -> Any:
    return limit("l", Limit.model_validate({"rate": "5/min", "by": "ip", **written}))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        pytest.param({"rate": "5/min"}, "Field required", id="nothing to count by"),
        pytest.param({"by": "usr", "rate": "5/min"}, '"usr" is nothing to limit by', id="a misspelt key"),
        pytest.param(
            {"by": "header", "rate": "5/min"}, '"header" is nothing to limit by', id="a header without a name"
        ),
        pytest.param({"by": "cookie.x", "rate": "5/min"}, '"cookie.x" is nothing to limit by', id="an unknown kind"),
        pytest.param({"by": [], "rate": "5/min"}, "expected a key or a list of keys", id="no keys"),
        pytest.param({"by": ["ip", "ip"], "rate": "5/min"}, "a key is named twice", id="a key twice"),
        pytest.param({"by": [f"query.{i}" for i in range(9)], "rate": "5/min"}, "at most 8 keys", id="too many keys"),
        pytest.param({"by": "ip"}, "needs a `rate` or `tiers`", id="no rate"),
        pytest.param({"by": "ip", "tiers": {"a": "1/min"}}, "`tiers` need `tier_from`", id="tiers from nowhere"),
        pytest.param({"by": "ip", "rate": "1/min", "tier_from": "p"}, "`tier_from` needs `tiers`", id="no tiers"),
        pytest.param({"by": "ip", "rate": "5000000000/min"}, "is more than 4294967295", id="too much"),
        pytest.param(
            {"by": "ip", "rate": "5/min burst 9", "algorithm": "fixed_window"},
            "only a token bucket has a burst",
            id="a burst of a window",
        ),
        pytest.param({"by": "ip", "rate": "5/min", "cost": 0}, "greater than or equal to 1", id="no cost"),
        pytest.param(
            {"by": "ip", "rate": "5/min", "cost": {}}, "`request_header` or `response_header`", id="no header"
        ),
        pytest.param(
            {"by": "ip", "rate": "5/min", "cost": {"request_header": "a", "response_header": "b"}},
            "`request_header` or `response_header`",
            id="two headers",
        ),
        pytest.param({"by": "ip", "rate": "5/min", "exempt": {}}, "an exemption names someone", id="nobody exempt"),
        pytest.param({"by": "ip", "rate": "5/min", "exempt": {"ip": ["10.0.0.1/8"]}}, "bits set", id="a wrong network"),
        pytest.param(
            {"by": "ip", "rate": "5/min", "tighten": {"to": "100%", "while_unhealthy": ["a"]}},
            "more than 0% and less than 100%",
            id="tightened to all of it",
        ),
        pytest.param(
            {"by": "ip", "rate": "5/min", "on_store_error": "open"}, "'allow', 'deny' or 'local'", id="an unknown mode"
        ),
    ],
)
def test_a_mistake_is_named(written: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Limit.model_validate(written)

    assert said in str(refused.value)


def test_a_limit_in_full() -> None:
    one = resolved(
        rate="600/min burst 100",
        by=["tenant", "header.X-App"],
        tier_from="plan",
        tiers={"pro": "10/30s"},
        block={"for": "5m", "escalate": ["15m", "1h"]},
        shadow=True,
        on_store_error="deny",
        exempt={"ip": ["10.0.0.0/8"], "user": ["root"]},
        tighten={"to": "25%", "while_unhealthy": ["payments"]},
        everywhere=True,
    )

    assert one.by == ("tenant", "header.x-app")
    assert one.quota == Quota(requests=600, window_ms=MINUTE, burst=100)
    assert one.tiers == (("pro", Quota(requests=10, window_ms=30_000)),)
    assert one.block == LimitBlock(for_ms=5 * MINUTE, escalate_ms=(15 * MINUTE, HOUR), forget_ms=DAY)
    assert one.exempt == (("ip", ("10.0.0.0/8",)), ("user", ("root",)))
    assert one.tighten == Tightening(factor=0.25, services=("payments",))
    assert (one.shadow, one.everywhere, one.on_store_error) == (True, True, "deny")


@pytest.mark.parametrize(
    ("written", "cost"),
    [
        ({}, FixedCost(1)),
        ({"cost": 7}, FixedCost(7)),
        ({"cost": {"request_header": "X-Cost"}}, RequestHeaderCost("x-cost")),
        ({"cost": {"response_header": "X-Cost"}}, ResponseHeaderCost("x-cost")),
    ],
)
def test_costs(written: dict[str, Any], cost: object) -> None:
    assert resolved(**written).cost == cost


@pytest.mark.parametrize(
    ("written", "stage"),
    [
        pytest.param({}, "ip", id="by address"),
        pytest.param({"by": ["header.x", "query.q", "method", "path.id"]}, "ip", id="by what the request says itself"),
        pytest.param({"by": ["ip", "user"]}, "identity", id="by user"),
        pytest.param({"by": "tenant"}, "identity", id="by tenant"),
        pytest.param({"by": "api_key"}, "identity", id="by API key"),
        pytest.param({"tier_from": "p", "tiers": {"a": "1/s"}}, "identity", id="with tiers"),
        pytest.param({"cost": {"request_header": "x"}}, "identity", id="a cost that authentication injects"),
        pytest.param({"cost": {"response_header": "x"}}, "ip", id="a cost that the response tells"),
        pytest.param({"exempt": {"ip": ["10.0.0.0/8"]}}, "ip", id="exempt addresses"),
        pytest.param({"exempt": {"user": ["root"]}}, "identity", id="exempt users"),
        pytest.param({"exempt": {"tier": ["gold"]}}, "identity", id="exempt tiers"),
    ],
)
def test_a_limit_is_asked_for_when_what_it_needs_is_known(written: dict[str, Any], stage: str) -> None:
    assert resolved(**written).stage == stage


def test_what_a_route_must_tell_does_not_change_with_the_rate() -> None:
    assert resolved(rate="5/min").on_route == resolved(rate="900/hour", algorithm="sliding_window").on_route
    assert resolved(rate="5/min").on_route != resolved(rate="5/min", by="user").on_route
