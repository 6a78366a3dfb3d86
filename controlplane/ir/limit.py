"""Rate limits: what callers may have, with nothing left to guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controlplane.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """`requests` per `window_ms`, `burst` of them at once (None: all of them)."""

    requests: int
    window_ms: int
    burst: int | None = None


@dataclass(frozen=True, slots=True)
class FixedCost:
    """Every request takes so much."""

    amount: int


@dataclass(frozen=True, slots=True)
class RequestHeaderCost:
    """A header of the request, set behind authentication, says how much it takes."""

    name: str


@dataclass(frozen=True, slots=True)
class ResponseHeaderCost:
    """A header of the response says how much the request took; it is settled when the stream ends."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitBlock:
    """Refusal after a violation: the first time, then by `escalate_ms` in turn."""

    for_ms: int
    escalate_ms: tuple[int, ...] = ()
    forget_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tightening:
    """Quotas are multiplied by `factor` while one of `services` is in trouble."""

    factor: float
    services: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit by name. `stage` says whether it is asked for before authentication or after it."""

    name: str
    by: tuple[str, ...]
    stage: Literal["ip", "identity"]
    quota: Quota | None
    tiers: tuple[tuple[str, Quota], ...] = ()
    tier_claim: str | None = None
    algorithm: Literal["token_bucket", "fixed_window", "sliding_window"] = "token_bucket"
    cost: FixedCost | RequestHeaderCost | ResponseHeaderCost = FixedCost(1)
    block: LimitBlock | None = None
    shadow: bool = False
    on_store_error: Literal["allow", "deny", "local"] = "allow"
    exempt: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tighten: Tightening | None = None
    everywhere: bool = False
    origin: Origin | None = None
