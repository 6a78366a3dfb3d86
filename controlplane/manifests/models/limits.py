"""The `limits:` section: how much of something one caller may have.

    limits:
      per-ip:    {rate: 100/min, by: ip, everywhere: true}
      purchases: {rate: 5/min, by: user, block: 5m}
      plan:      {by: tenant, tier_from: plan, tiers: {free: 60/min, pro: 600/min burst 100}, on_store_error: local}

A route names the limits it has in its own `limits: [purchases, plan]`. What a limit becomes is not known here.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.manifests.models.base import Model, did_you_mean, refuse
from controlplane.manifests.models.scalars import Duration, Percent, Rate, shown
from controlplane.manifests.models.text import Cidr, HeaderName, Name

PLAIN_KEYS = ("ip", "user", "tenant", "api_key", "method")
NAMED_KEYS = ("header", "query", "path")
MOST_KEYS = 8
LONGEST_KEY = 200
LARGEST_COUNT = 2**32 - 1

_NAMED = re.compile(r"(header|query|path)\.([^\s.][^\s]*)")


def key(text: str) -> str:
    """What callers are told apart by: one of PLAIN_KEYS, or a named one: `header.x-app`, `query.q`, `path.id`."""
    if text in PLAIN_KEYS:
        return text
    found = _NAMED.fullmatch(text)
    if found is None:
        bare = text.partition(".")[0]
        hint = f'write "{bare}.<name>"' if bare in NAMED_KEYS else did_you_mean(text, PLAIN_KEYS)
        raise refuse(
            f"{shown(text)} is nothing to limit by", hint=hint or "write ip, user or header.<name>", code="key"
        )
    if len(text) > LONGEST_KEY:
        raise refuse(f"a key has at most {LONGEST_KEY} characters, found {len(text)}", code="key")
    return text.lower() if found[1] == "header" else text


def _keys(value: object) -> object:
    if isinstance(value, str):
        return (key(value),)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        keys = tuple(key(v) for v in value)
        if len(set(keys)) != len(keys):
            raise refuse("a key is named twice", code="key")
        if len(keys) > MOST_KEYS:
            raise refuse(f"a limit has at most {MOST_KEYS} keys, found {len(keys)}", code="key")
        return keys
    raise refuse(
        f"expected a key or a list of keys, found {shown(value)}", hint="write ip or [user, method]", code="key"
    )


Keys = Annotated[
    tuple[str, ...],
    BeforeValidator(_keys),
    WithJsonSchema(
        {
            "description": "A key or a list of keys: ip, user, tenant, api_key, method, header.<name>, query.<name>, "
            "path.<parameter>.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
            "examples": ["ip", "user", ["tenant", "method"]],
        }
    ),
]


class Block(Model):
    """How long who goes over the limit is refused, and what a repeated violation costs."""

    duration: Annotated[Duration, Field(alias="for")]
    """The first block."""
    escalate: Annotated[tuple[Duration, ...], Field(max_length=16)] = ()
    """The second, third, ... block of the same caller; the last repeats."""
    forget_after: Duration = Duration(86_400_000)
    """How long after a block's end the next violation counts as the first again."""


def _block(value: object) -> object:
    return {"for": value} if isinstance(value, (str, Duration)) else value


class Cost(Model):
    """How much of the limit a request takes, as told by a header. Without the header a request costs 1."""

    request_header: HeaderName | None = None
    """A header that is set behind authentication: one of `identity.headers`, which clients cannot send."""
    response_header: HeaderName | None = None
    """A header of the service's response: a request takes 1 when it comes, the rest when its response has ended."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.request_header is None) == (self.response_header is None):
            raise refuse("a cost comes from `request_header` or `response_header`", hint="name one of them")
        return self


class Tighten(Model):
    """A smaller limit while services are in trouble."""

    to: Percent
    """What is left of the limit, for example 25%."""
    while_unhealthy: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The services: while one of them has an open circuit or too few healthy endpoints, the limit is tightened."""

    @model_validator(mode="after")
    def _smaller(self) -> Self:
        if not 0 < self.to < 100:
            raise refuse(f"a tightened limit is more than 0% and less than 100%, found {self.to}")
        return self


class Exempt(Model):
    """Who is not limited."""

    ip: tuple[Cidr, ...] = ()
    """Addresses and networks."""
    user: tuple[str, ...] = ()
    """Users by id."""
    tenant: tuple[str, ...] = ()
    """Tenants by id."""
    api_key: tuple[str, ...] = ()
    """API keys by public id."""
    tier: tuple[str, ...] = ()
    """Tiers."""
    method: tuple[str, ...] = ()
    """HTTP methods."""

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not any((self.ip, self.user, self.tenant, self.api_key, self.tier, self.method)):
            raise refuse("an exemption names someone", hint="write for example {ip: [10.0.0.0/8]} or leave it out")
        return self


class Limit(Model):
    """A limit: a rate for each value of its keys."""

    rate: Rate | None = None
    """How much: `5/min`, `100/30s`, `600/min burst 100`. Without a burst, a whole window's worth may come at once.
    With `tiers`, what callers of any other tier have."""
    by: Keys
    """What callers are told apart by. Who has not got the key is counted by address as well."""
    tier_from: Name | None = None
    """The claim that holds the caller's tier. API keys have a tier of their own."""
    tiers: Annotated[dict[Name, Rate], Field(max_length=100, default_factory=dict)]
    """Rates by tier. Without a `rate`, callers of any other tier have the lowest of these."""
    algorithm: Literal["token_bucket", "fixed_window", "sliding_window"] = "token_bucket"
    """How it is counted: a token bucket (refills steadily), a window that starts anew, or one that slides."""
    cost: Annotated[int, Field(ge=1, le=1_000_000_000)] | Cost = 1
    """How much one request takes."""
    block: Annotated[Block, BeforeValidator(_block, json_schema_input_type=Duration | Block)] | None = None
    """Who goes over the limit is refused for so long: `5m`, or `{for: 5m, escalate: [15m, 1h]}`."""
    shadow: bool = False
    """Count and report, refuse nobody."""
    on_store_error: Literal["allow", "deny", "local"] = "allow"
    """What happens while the shared store does not answer: let through, refuse, or count in each process."""
    exempt: Exempt | None = None
    """Who is not limited."""
    tighten: Tighten | None = None
    """A smaller limit while services are in trouble."""
    everywhere: bool = False
    """Holds on every route, together with the route's own limits."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rate is None and not self.tiers:
            raise refuse("a limit needs a `rate` or `tiers`", hint="write for example rate: 100/min", code="limit")
        if self.tiers and self.tier_from is None:
            raise refuse("`tiers` need `tier_from`", hint="write the claim that holds the tier: tier_from: plan")
        if self.tier_from is not None and not self.tiers:
            raise refuse("`tier_from` needs `tiers`", hint="write for example tiers: {free: 60/min, pro: 600/min}")
        for rate in self.rates:
            if rate.count > LARGEST_COUNT or (rate.burst or 0) > LARGEST_COUNT:
                raise refuse(f'"{rate}" is more than {LARGEST_COUNT}', code="rate")
            if rate.burst is not None and self.algorithm != "token_bucket":
                raise refuse(f'only a token bucket has a burst, found "{rate}"', hint="leave the burst out")
        return self

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Every rate written in this limit."""
        return (*((self.rate,) if self.rate else ()), *self.tiers.values())
