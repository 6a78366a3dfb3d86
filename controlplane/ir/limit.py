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


Cost = FixedCost | RequestHeaderCost | ResponseHeaderCost
Stage = Literal["ip", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLimit:
    """What a route must tell about a request for a limit to be applied: nothing of how much the limit allows.

    `by` makes the counter's identity; `reads` is what else the limit looks at. `fails_closed`: without an answer from
    the rate limit service the request is refused.
    """

    name: str
    by: tuple[str, ...]
    reads: tuple[str, ...]
    stage: Stage
    cost: Cost
    fails_closed: bool
    everywhere: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit by name. `stage` says whether it is asked for before authentication or after it."""

    name: str
    by: tuple[str, ...]
    stage: Stage
    quota: Quota | None
    tiers: tuple[tuple[str, Quota], ...] = ()
    algorithm: Literal["token_bucket", "fixed_window", "sliding_window"] = "token_bucket"
    cost: Cost = FixedCost(1)
    block: LimitBlock | None = None
    shadow: bool = False
    on_store_error: Literal["allow", "deny", "local"] = "allow"
    exempt: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tighten: Tightening | None = None
    everywhere: bool = False
    origin: Origin | None = None

    @property
    def on_route(self) -> RouteLimit:
        """The limit as its routes see it."""
        tier = ("tier",) if self.tiers else ()
        read = dict.fromkeys((*tier, *(key for key, _ in self.exempt), "ip"))
        return RouteLimit(
            name=self.name,
            by=self.by,
            reads=tuple(key for key in read if key not in self.by),
            stage=self.stage,
            cost=self.cost,
            fails_closed=self.on_store_error == "deny",
            everywhere=self.everywhere,
        )
