"""Limits → the document the rate limit service obeys."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue

from controlplane.ir.limit import FixedCost, Limit, Quota
from ratelimit import policy


def document(
    limits: Iterable[Limit],
    *,
    domain: str = policy.DOMAIN,
    headers: str = "ietf",
    troubled: Iterable[str] = (),
) -> policy.Policy:
    """The document for `limits`. `troubled` are the services that are unhealthy or overloaded now."""
    return policy.Policy(
        domain=domain,
        limits={limit.name: _limit(limit) for limit in limits},
        headers=policy.HeaderStyle(headers),
        troubled=tuple(sorted(set(troubled))),
    )


def packed(document: policy.Policy) -> bytes:
    """The document as the bytes of the `google.protobuf.Any` that a TypedExtensionConfig holds."""
    any_message = AnyMessage()
    any_message.Pack(StringValue(value=policy.dump(document)))
    packed: bytes = any_message.SerializeToString(deterministic=True)
    return packed


def _limit(limit: Limit) -> policy.Limit:
    return policy.Limit(
        by=limit.by,
        stage=policy.Stage(limit.stage),
        algorithm=policy.Algorithm(limit.algorithm),
        quota=_quota(limit.quota) if limit.quota else None,
        tiers={tier: _quota(quota) for tier, quota in limit.tiers},
        cost=limit.cost.amount if isinstance(limit.cost, FixedCost) else 1,
        block=policy.Block(
            for_ms=limit.block.for_ms, escalate_ms=limit.block.escalate_ms, forget_ms=limit.block.forget_ms
        )
        if limit.block
        else None,
        shadow=limit.shadow,
        on_store_error=policy.StoreError(limit.on_store_error),
        exempt=dict(limit.exempt),
        tighten=policy.Tighten(factor=limit.tighten.factor, services=limit.tighten.services) if limit.tighten else None,
    )


def _quota(quota: Quota) -> policy.Quota:
    return policy.Quota(requests=quota.requests, window_ms=quota.window_ms, burst=quota.burst)
