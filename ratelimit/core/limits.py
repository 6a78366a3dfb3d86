"""Our own limits: from the policy document to rules, and from a descriptor to its rule and counter.

A descriptor's first entry names the limit; the others are looked up by key, so their order means nothing. A counter's
identity is the domain, the limit's name and the values of its keys. The tier is not part of it: who changes tier keeps
what was consumed, as a share. Neither is anything of the quota.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ratelimit.core.budget import Budget, Kind
from ratelimit.core.keys import ABSENT
from ratelimit.core.rule import OnStoreError, Rule
from ratelimit.policy import (
    COST_KEY,
    IP_KEY,
    LIMIT_KEY,
    PATH_KEY,
    PATTERN_KEY,
    ROUTE_KEY,
    SETTLE_KEY,
    TIER_KEY,
    Algorithm,
    Limit,
    Policy,
    Quota,
)

_KINDS = {
    Algorithm.TOKEN_BUCKET: Kind.TOKEN_BUCKET,
    Algorithm.FIXED_WINDOW: Kind.FIXED_WINDOW,
    Algorithm.SLIDING_WINDOW: Kind.SLIDING_WINDOW,
}
_PATH_PART = "path."
_ALIASES = {"remote_address": IP_KEY, "masked_remote_address": IP_KEY}


@dataclass(frozen=True, slots=True)
class Found:
    """The rule of a descriptor and the parts of its counter's identity; no rule: the caller is exempt."""

    rule: Rule | None
    parts: tuple[str, ...]
    route: str
    is_settling: bool = False
    cost: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    by: tuple[str, ...]
    default: Rule
    tiers: Mapping[str, Rule]
    exempt: Mapping[str, frozenset[str]]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


class Limits:
    """The limits of one document. Immutable: a new document makes another."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        troubled = frozenset(policy.troubled)
        self._compiled = {name: _compile(name, limit, troubled) for name, limit in policy.limits.items()}

    def find(self, entries: Sequence[tuple[str, str]]) -> Found | None:
        """What applies to a descriptor whose first entry names a limit; None when there is no such limit."""
        name = entries[0][1]
        limit = self._compiled.get(name)
        if limit is None:
            return None
        values = {_ALIASES.get(key, key): value for key, value in entries}
        route = values.get(ROUTE_KEY, "")
        ip = values.get(IP_KEY)
        if ip is not None:
            values[IP_KEY] = ip = _without_prefix(ip)
        if limit.exempt and _is_exempt(limit, values):
            return Found(None, (), route)
        parts = [self.policy.domain, name]
        is_incomplete = False
        for key in limit.by:
            value = _path_parameter(values, key) if key.startswith(_PATH_PART) else values.get(key)
            if value is None:
                is_incomplete, value = True, ABSENT
            parts.append(value)
        if is_incomplete and ip is not None and IP_KEY not in limit.by:
            parts.append(ip)
        rule = limit.tiers.get(values.get(TIER_KEY, ""), limit.default)
        return Found(rule, tuple(parts), route, SETTLE_KEY in values, _cost(values.get(COST_KEY)))

    def rules(self, name: str) -> Mapping[str, Rule]:
        """The rules of the limit `name` by tier; "" is the one without a tier. Empty when there is no such limit."""
        limit = self._compiled.get(name)
        return {"": limit.default, **limit.tiers} if limit else {}

    def identity(self, name: str, values: Mapping[str, str]) -> tuple[str, ...] | None:
        """The parts of the counter of `values` under the limit `name`; None when there is no such limit."""
        found = self.find([(LIMIT_KEY, name), *values.items()])
        return found.parts if found else None


NONE = Limits(Policy())


def _compile(name: str, limit: Limit, troubled: frozenset[str]) -> _Compiled:
    tighten = limit.tighten
    factor = tighten.factor if tighten is not None and troubled.intersection(tighten.services) else 1.0
    tiers = {tier: _rule(name, limit, quota, factor) for tier, quota in limit.tiers.items()}
    default = limit.quota or min(limit.tiers.values(), key=lambda quota: quota.requests / quota.window_ms)
    return _Compiled(
        by=limit.by,
        default=_rule(name, limit, default, factor),
        tiers=tiers,
        exempt={key: frozenset(values) for key, values in limit.exempt.items()},
        networks=tuple(ipaddress.ip_network(network, strict=False) for network in limit.exempt.get(IP_KEY, ())),
    )


def _rule(name: str, limit: Limit, quota: Quota, factor: float) -> Rule:
    blocks = (limit.block.for_ms, *limit.block.escalate_ms) if limit.block else ()
    budget = Budget(
        kind=_KINDS[limit.algorithm],
        requests=max(1, int(quota.requests * factor)) if quota.requests else 0,
        window_us=quota.window_ms * 1000,
        burst=max(1, int((quota.burst or quota.requests) * factor)) if quota.requests else 0,
        is_shadow=limit.shadow,
        blocks_us=tuple(block * 1000 for block in blocks),
        forget_us=limit.block.forget_ms * 1000 if limit.block else 0,
    )
    return Rule(
        name=name,
        label=name,
        budget=budget,
        is_reference=False,
        is_shadow=limit.shadow,
        on_store_error=OnStoreError(limit.on_store_error.value),
        cost=limit.cost,
    )


def _is_exempt(limit: _Compiled, values: Mapping[str, str]) -> bool:
    for key, exempt in limit.exempt.items():
        value = values.get(key)
        if value is not None and (_is_inside(value, limit.networks) if key == IP_KEY else value in exempt):
            return True
    return False


@lru_cache(maxsize=10_000)
def _is_inside(ip: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    try:
        network = ipaddress.ip_network(ip, strict=False)
    except ValueError:
        return False
    return any(
        network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
        for other in networks
    )


def _cost(written: str | None) -> int:
    """At most nine digits: what is more is no cost anybody means."""
    return int(written) if written and len(written) <= 9 and written.isascii() and written.isdecimal() else 1


def _without_prefix(ip: str) -> str:
    """Envoy writes a masked address with its prefix length; of a whole address that says nothing."""
    if ip.endswith("/32"):
        return ip[:-3]
    return ip[:-4] if ip.endswith("/128") else ip


def _path_parameter(values: Mapping[str, str], key: str) -> str | None:
    """The segment of the request's path where the route's pattern has the parameter."""
    index = _parameter_index(values.get(PATTERN_KEY, ""), key.removeprefix(_PATH_PART))
    if index is None:
        return None
    segments = values.get(PATH_KEY, "").partition("?")[0].split("/")
    return segments[index] if index < len(segments) else None


@lru_cache(maxsize=10_000)
def _parameter_index(pattern: str, name: str) -> int | None:
    segments = pattern.split("/")
    return next((i for i, segment in enumerate(segments) if segment in (f":{name}", f"{{{name}}}")), None)
