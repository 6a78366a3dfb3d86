"""From a request to what must be asked of which counters. Pure: configuration and request in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratelimit.core.budget import Take
from ratelimit.core.keys import identity
from ratelimit.core.limits import NONE, Limits
from ratelimit.core.reference import EMPTY, Config, Matched
from ratelimit.core.rule import Planned
from ratelimit.policy import LIMIT_KEY

MOST_DESCRIPTORS = 64
MOST_ENTRIES = 32
MOST_HITS = 1_000_000_000


class RequestError(ValueError):
    """A request that cannot be answered; the message is for its sender."""


class NotLoadedError(RequestError):
    """Nothing can be answered yet, by this worker."""


@dataclass(frozen=True, slots=True)
class Override:
    """A limit that the descriptor brings itself."""

    requests: int
    unit: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor of a request. `hits` is None where the descriptor has none of its own."""

    entries: Sequence[tuple[str, str]]
    hits: int | None = None
    override: Override | None = None
    gives_back: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that is configured now: our own limits by domain, and the reference service's configuration.

    `is_loaded` is False until any configuration has come, whatever it holds.
    """

    limits: Limits = NONE
    config: Config = EMPTY
    is_loaded: bool = False


NOTHING = Planned(None, None)
UNKNOWN_LIMIT = Planned(None, None, "unknown limit")
"""A descriptor that names a limit which the document has not got."""


def plan(rules: Rules, domain: str, descriptors: Sequence[Descriptor], hits_addend: int) -> list[Planned]:
    """What becomes of each descriptor, in order. Raises RequestError."""
    if not domain:
        raise RequestError("rate limit domain must not be empty")
    if not descriptors:
        raise RequestError("rate limit descriptor list must not be empty")
    if len(descriptors) > MOST_DESCRIPTORS:
        raise RequestError(f"a request has at most {MOST_DESCRIPTORS} descriptors")
    if not rules.is_loaded:
        raise NotLoadedError("no rate limit configuration loaded")
    planned = [_one(rules, domain, descriptor, hits_addend or 1) for descriptor in descriptors]
    replaced = {name for each in planned if each.rule is not None for name in each.rule.replaces}
    if replaced:
        return [NOTHING if p.rule is not None and p.rule.replaceable_name in replaced else p for p in planned]
    return planned


def _one(rules: Rules, domain: str, descriptor: Descriptor, default_hits: int) -> Planned:
    entries = descriptor.entries
    if len(entries) > MOST_ENTRIES:
        raise RequestError(f"a descriptor has at most {MOST_ENTRIES} entries")
    hits = default_hits if descriptor.hits is None else descriptor.hits
    if hits > MOST_HITS:
        raise RequestError(f"a descriptor has at most {MOST_HITS} hits")
    if descriptor.gives_back:
        hits = -hits
    if entries and entries[0][0] == LIMIT_KEY and domain == rules.limits.policy.domain:
        return _own(rules.limits, entries, hits)
    matched = _matched(rules.config, domain, descriptor)
    if matched is None:
        return NOTHING
    rule, parts, label = matched
    if rule.is_unlimited:
        return Planned(rule, None, label)
    return Planned(rule, Take(b"r" + identity(parts), rule.budget, hits), label)


def _matched(config: Config, domain: str, descriptor: Descriptor) -> Matched | None:
    if descriptor.override is not None:
        return config.override(domain, descriptor.entries, descriptor.override.requests, descriptor.override.unit)
    return config.match(domain, descriptor.entries)


def _own(limits: Limits, entries: Sequence[tuple[str, str]], hits: int) -> Planned:
    found = limits.find(entries)
    if found is None:
        return UNKNOWN_LIMIT
    rule = found.rule
    if rule is None:
        return Planned(None, None, found.route)
    key = own_key(found.parts, rule.budget.kind)
    if found.is_settling:
        return Planned(rule, Take(key, rule.budget, hits - 1, is_forced=hits > 1), found.route)
    return Planned(rule, Take(key, rule.budget, hits * rule.cost * found.cost), found.route)


def own_key(parts: Sequence[str], kind: int) -> bytes:
    """The counter of one of our limits. Ways of counting keep different states, so each has counters of its own."""
    return b"%d" % kind + b"l" + identity(parts)
