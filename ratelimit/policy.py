"""The document the rate limit service obeys: limits by name, as the control plane publishes them.

It arrives over ADS as a `TypedExtensionConfig` named `causeway.ratelimit` and is kept on disk as the last known good.
Everything is explicit: units are milliseconds, a tier is a quota of its own, nothing is looked up elsewhere. The
document must not know manifests, Envoy, or which routes use a limit: a request names its limit in its first descriptor
entry.
"""

from __future__ import annotations

import ipaddress
import json
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

RESOURCE_NAME = "causeway.ratelimit"
DOMAIN = "causeway"
LIMIT_KEY = "causeway.limit"
"""The key of a descriptor's first entry; its value is the limit's name."""
TIER_KEY = "tier"
IP_KEY = "ip"
ROUTE_KEY = "route"
PATH_KEY = "path"
PATTERN_KEY = "pattern"
REQUEST_ID_KEY = "request_id"
SETTLE_KEY = "causeway.settle"
"""An entry with this key says that the hits are what the request cost in all: of that, one was taken when it came. What
is missing is taken whatever is left, what was too much is given back."""
COST_KEY = "causeway.cost"
"""An entry with this key holds what the request costs; where it is missing or no number, that is 1."""

MAX_REQUESTS = 2**32 - 1
MAX_WINDOW_MS = 366 * 24 * 3600 * 1000
MAX_PARTS = 8
MAX_LIMITS = 10_000

Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Algorithm(StrEnum):
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 (no secret)
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"


class StoreError(StrEnum):
    """What a limit answers while its store does not."""

    ALLOW = "allow"
    DENY = "deny"
    LOCAL = "local"


class Stage(StrEnum):
    """When Envoy asks: before authentication, or after it, when the caller's identity is known."""

    IP = "ip"
    IDENTITY = "identity"


class HeaderStyle(StrEnum):
    """`ietf`: RateLimit-Policy and RateLimit; `x`: X-RateLimit-Limit, -Remaining, -Reset."""

    IETF = "ietf"
    X = "x"
    BOTH = "both"
    NONE = "none"


class Quota(_Model):
    """`requests` per `window_ms`. `burst` is a token bucket's capacity; without it the capacity is `requests`."""

    requests: int = Field(ge=0, le=MAX_REQUESTS)
    window_ms: int = Field(ge=1, le=MAX_WINDOW_MS)
    burst: int | None = Field(default=None, ge=1, le=MAX_REQUESTS)


class Block(_Model):
    """A key that goes over the limit is refused for `for_ms`, whatever it does meanwhile.

    A further violation within `forget_ms` of the last block's end takes the next of `escalate_ms`; the last repeats.
    """

    for_ms: int = Field(ge=1, le=MAX_WINDOW_MS)
    escalate_ms: tuple[Annotated[int, Field(ge=1, le=MAX_WINDOW_MS)], ...] = Field(default=(), max_length=16)
    forget_ms: int = Field(default=24 * 3600 * 1000, ge=0, le=MAX_WINDOW_MS)


class Tighten(_Model):
    """Quotas are multiplied by `factor` while one of `services` is listed in the document's `troubled`."""

    factor: float = Field(gt=0, lt=1)
    services: tuple[Name, ...] = ()


class Limit(_Model):
    """One limit.

    `by` names the descriptor entries that make a counter's identity (`ip`, `user`, `header.x-app`, `param.id`, ...). A
    request without one of them is counted by its IP address as well, so that leaving a header out never escapes a limit
    and the anonymous never share one counter.

    `tiers` are quotas by the value of the `tier` entry. A tier that is not listed, or none, meets `quota`; without a
    `quota`, the strictest tier.
    """

    by: tuple[Name, ...] = Field(max_length=MAX_PARTS)
    stage: Stage
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET
    quota: Quota | None = None
    tiers: dict[Name, Quota] = Field(default_factory=dict)
    cost: int = Field(default=1, ge=1, le=1_000_000_000)
    block: Block | None = None
    shadow: bool = False
    on_store_error: StoreError = StoreError.ALLOW
    exempt: dict[Name, tuple[str, ...]] = Field(default_factory=dict)
    tighten: Tighten | None = None

    @field_validator("exempt")
    @classmethod
    def _networks(cls, exempt: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for network in exempt.get(IP_KEY, ()):
            ipaddress.ip_network(network, strict=False)
        return exempt

    @model_validator(mode="after")
    def _quota_or_tiers(self) -> Self:
        if self.quota is None and not self.tiers:
            raise ValueError("a limit needs a quota or tiers")
        if len(set(self.by)) != len(self.by):
            raise ValueError("a key is named twice in `by`")
        if self.algorithm is not Algorithm.TOKEN_BUCKET and any(q.burst is not None for q in self.quotas):
            raise ValueError("only a token bucket has a burst")
        return self

    @property
    def quotas(self) -> tuple[Quota, ...]:
        return (*((self.quota,) if self.quota else ()), *self.tiers.values())


class Policy(_Model):
    """`troubled` are the services that are unhealthy or overloaded now; limits that name them are tightened."""

    domain: Name = DOMAIN
    limits: dict[Name, Limit] = Field(default_factory=dict, max_length=MAX_LIMITS)
    headers: HeaderStyle = HeaderStyle.IETF
    troubled: tuple[Name, ...] = ()


def parse(text: str | bytes) -> Policy:
    """The document in canonical JSON, or ValueError naming the field (pydantic.ValidationError is one)."""
    return Policy.model_validate_json(text)


def dump(policy: Policy) -> str:
    """Canonical JSON: sorted keys, no spaces, defaults left out, so that equal documents are equal bytes."""
    return json.dumps(policy.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))
