"""A limit as users write it → a limit as a value."""

from __future__ import annotations

from typing import Literal

from controlplane.ir.limit import (
    FixedCost,
    Limit,
    LimitBlock,
    Quota,
    RequestHeaderCost,
    ResponseHeaderCost,
    Tightening,
)
from controlplane.manifests.models import limits as written
from controlplane.manifests.models.scalars import Rate
from controlplane.origin import Origin

_KNOWN_AFTER_AUTHENTICATION = frozenset({"user", "tenant", "api_key"})
_EXEMPTIONS = ("ip", "user", "tenant", "api_key", "tier", "method")


def limit(name: str, limit: written.Limit, origin: Origin | None = None) -> Limit:
    """The limit `name`. It is asked for before authentication unless something of it is only known afterwards."""
    return Limit(
        name=name,
        by=limit.by,
        stage=_stage(limit),
        quota=_quota(limit.rate) if limit.rate else None,
        tiers=tuple(sorted((tier, _quota(rate)) for tier, rate in limit.tiers.items())),
        algorithm=limit.algorithm,
        cost=_cost(limit.cost),
        block=_block(limit.block) if limit.block else None,
        shadow=limit.shadow,
        on_store_error=limit.on_store_error,
        exempt=_exempt(limit.exempt) if limit.exempt else (),
        tighten=_tighten(limit.tighten) if limit.tighten else None,
        everywhere=limit.everywhere,
        origin=origin,
    )


def _stage(limit: written.Limit) -> Literal["ip", "identity"]:
    late = (
        bool(_KNOWN_AFTER_AUTHENTICATION.intersection(limit.by))
        or bool(limit.tiers)
        or (isinstance(limit.cost, written.Cost) and limit.cost.request_header is not None)
        or (limit.exempt is not None and any((limit.exempt.user, limit.exempt.tenant, limit.exempt.api_key)))
        or (limit.exempt is not None and bool(limit.exempt.tier))
    )
    return "identity" if late else "ip"


def _quota(rate: Rate) -> Quota:
    return Quota(requests=rate.count, window_ms=rate.window.ms, burst=rate.burst)


def _cost(cost: int | written.Cost) -> FixedCost | RequestHeaderCost | ResponseHeaderCost:
    match cost:
        case int():
            return FixedCost(cost)
        case written.Cost(request_header=str(name)):
            return RequestHeaderCost(name)
        case _:
            return ResponseHeaderCost(cost.response_header or "")


def _block(block: written.Block) -> LimitBlock:
    return LimitBlock(
        for_ms=block.duration.ms,
        escalate_ms=tuple(duration.ms for duration in block.escalate),
        forget_ms=block.forget_after.ms,
    )


def _exempt(exempt: written.Exempt) -> tuple[tuple[str, tuple[str, ...]], ...]:
    named = ((key, tuple(getattr(exempt, key))) for key in _EXEMPTIONS)
    return tuple((key, values) for key, values in named if values)


def _tighten(tighten: written.Tighten) -> Tightening:
    return Tightening(factor=tighten.to.fraction, services=tighten.while_unhealthy)
