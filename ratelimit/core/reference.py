"""The configuration of the reference Envoy rate limit service: its keys, its checks, its matching.

Descriptors are kept by key and value apart, never joined, so that ("a_b", "c") and ("a", "b_c") are two things.
Within a level an exact value comes before wildcards in the order of the file, and those before a key without a value.
The number of a request's entries must be the depth of the rule.

What is accepted is a mapping as YAML gives it; reading files, and the protobuf form, are not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimit.core.budget import Budget, Kind
from ratelimit.core.rule import OnStoreError, Rule, Unit

KEYS = frozenset(
    {"domain", "descriptors", "key", "value", "rate_limit", "unit", "requests_per_unit", "unlimited", "name"}
    | {"replaces", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "share_threshold", "metadata"}
)
DEEPEST = 32
MOST_REQUESTS = 2**32 - 1


class ConfigError(ValueError):
    """A configuration that is refused as a whole; the message begins with the file's name."""


class Matched(NamedTuple):
    """The rule for a descriptor, the parts of its counter's identity, and the label of its metrics."""

    rule: Rule
    parts: tuple[str, ...]
    label: str


@dataclass(slots=True)
class _Level:
    exact: dict[tuple[str, str], _Node] = field(default_factory=dict)
    wild: list[tuple[str, re.Pattern[str], _Node]] = field(default_factory=list)
    bare: dict[str, _Node] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.exact or self.wild or self.bare)


@dataclass(slots=True)
class _Node:
    rule: Rule | None
    value: str
    is_detailed: bool
    is_value_to_metric: bool
    shares: bool
    is_wild: bool
    below: _Level


@dataclass(frozen=True, slots=True)
class Config:
    """All domains. Immutable once built: a reload makes another."""

    domains: Mapping[str, _Level]
    files: tuple[tuple[str, object], ...] = ()

    def match(self, domain: str, entries: Sequence[tuple[str, str]]) -> Matched | None:
        """The rule of the descriptor `entries` and its counter, or None."""
        level = self.domains.get(domain)
        if level is None or not entries:
            return None
        parts, labels, detailed = [domain], [domain], [domain]
        node = None
        for key, value in entries:
            if not level:
                return None
            node = _find(level, key, value)
            if node is None:
                return None
            level = node.below
            shared = node.value if node.shares else value
            parts += (key, "*" + shared) if node.shares else (key, "=" + value)
            detailed.append(f"{key}_{shared}" if shared else key)
            shown = shared if node.shares or node.is_value_to_metric or not node.is_wild else node.value
            if not node.value and not node.is_value_to_metric:
                shown = ""
            labels.append(f"{key}_{shown}" if shown else key)
        if node is None or node.rule is None:
            return None
        rule = node.rule
        parts.append(str(rule.budget.window_us))
        return Matched(rule, tuple(parts), ".".join(detailed if node.is_detailed else labels))

    def override(self, domain: str, entries: Sequence[tuple[str, str]], requests: int, unit: int) -> Matched | None:
        """The rule of a descriptor that brings its own limit. It needs a domain that is configured."""
        if domain not in self.domains:
            return None
        label = ".".join([domain, *(f"{key}_{value}" if value else key for key, value in entries)])
        known = Unit(unit) if unit in Unit._value2member_map_ else Unit.UNKNOWN
        if known is Unit.UNKNOWN:
            return None
        parts = [domain]
        for key, value in entries:
            parts += (key, "=" + value)
        budget = _budget(requests, known, is_shadow=False)
        parts.append(str(budget.window_us))
        return Matched(_rule(label, budget), tuple(parts), label)

    def describe(self) -> Iterable[str]:
        """A line per rule."""
        for domain, level in self.domains.items():
            yield from _described(domain, level)


EMPTY = Config({})


def build(files: Sequence[tuple[str, object]], *, merges_domains: bool = False) -> Config:
    """The configuration of `files`, pairs of a name and what YAML made of it. Raises ConfigError."""
    domains: dict[str, _Level] = {}
    for name, content in files:
        root = _mapping(name, content)
        _check_keys(name, root)
        domain = _text(root.get("domain"))
        if not domain:
            raise ConfigError(f"{name}: config file cannot have empty domain")
        if domain in domains and not merges_domains:
            raise ConfigError(f"{name}: duplicate domain '{domain}' in config file")
        _load(name, domains.setdefault(domain, _Level()), domain, root.get("descriptors"), 1)
    return Config(domains, tuple(files))


def _find(level: _Level, key: str, value: str) -> _Node | None:
    found = level.exact.get((key, value))
    if found is not None:
        return found
    for wild_key, pattern, node in level.wild:
        if wild_key == key and pattern.fullmatch(value):
            return node
    return level.bare.get(key)


def _load(name: str, level: _Level, parent: str, descriptors: object, depth: int) -> None:
    if descriptors is None:
        return
    if not isinstance(descriptors, list):
        raise ConfigError(f"{name}: error loading config file: descriptors is not a list")
    if depth > DEEPEST:
        raise ConfigError(f"{name}: descriptors are nested more than {DEEPEST} deep")
    for each in descriptors:
        node, key, value = _descriptor(name, parent, _mapping(name, each))
        composite = f"{parent}.{key}_{value}" if value else f"{parent}.{key}"
        if (key, value) in level.exact or (not value and key in level.bare):
            raise ConfigError(f"{name}: duplicate descriptor composite key '{composite}'")
        _load(name, node.below, composite, each.get("descriptors"), depth + 1)
        if not value:
            level.bare[key] = node
            continue
        level.exact[key, value] = node
        if node.is_wild:
            level.wild.append((key, _pattern(value), node))


def _descriptor(name: str, parent: str, entry: Mapping[str, object]) -> tuple[_Node, str, str]:
    key, value = _text(entry.get("key")), _text(entry.get("value"))
    if not key:
        raise ConfigError(f"{name}: descriptor has empty key")
    composite = f"{parent}.{key}_{value}" if value else f"{parent}.{key}"
    shares = _flag(name, entry, "share_threshold")
    if shares and "*" not in value:
        shown = f"{key}_{value}" if value else key
        raise ConfigError(
            f"{name}: share_threshold can only be used with wildcard values (with '*'), but found key '{shown}'"
        )
    node = _Node(
        rule=_rate_limit(name, composite, entry),
        value=value,
        is_detailed=_flag(name, entry, "detailed_metric"),
        is_value_to_metric=_flag(name, entry, "value_to_metric"),
        shares=shares,
        is_wild="*" in value,
        below=_Level(),
    )
    return node, key, value


def _rate_limit(name: str, composite: str, entry: Mapping[str, object]) -> Rule | None:
    is_shadow, is_quota = _flag(name, entry, "shadow_mode"), _flag(name, entry, "quota_mode")
    written = entry.get("rate_limit")
    if written is None:
        return None
    limit = _mapping(name, written)
    is_unlimited = _flag(name, limit, "unlimited")
    unit = Unit.__members__.get(_text(limit.get("unit")).upper(), Unit.UNKNOWN)
    if is_unlimited and unit:
        raise ConfigError(f"{name}: should not specify rate limit unit when unlimited")
    if not is_unlimited and not unit:
        raise ConfigError(f"{name}: invalid rate limit unit '{_text(limit.get('unit'))}'")
    own_name = _text(limit.get("name"))
    replaces = _replaces(name, limit, own_name)
    return _rule(
        composite,
        _budget(_requests(name, limit), unit or Unit.SECOND, is_shadow=is_shadow),
        is_unlimited=is_unlimited,
        is_shadow=is_shadow,
        is_quota=is_quota,
        replaces=replaces,
        replaceable_name=own_name,
        metadata=_metadata(name, entry.get("metadata")),
    )


def _rule(
    label: str,
    budget: Budget,
    *,
    is_unlimited: bool = False,
    is_shadow: bool = False,
    is_quota: bool = False,
    replaces: tuple[str, ...] = (),
    replaceable_name: str = "",
    metadata: str = "",
) -> Rule:
    return Rule(
        name=replaceable_name or label,
        label=label,
        budget=budget,
        is_reference=True,
        is_unlimited=is_unlimited,
        is_shadow=is_shadow,
        is_quota=is_quota,
        on_store_error=OnStoreError.FAIL,
        replaces=replaces,
        replaceable_name=replaceable_name,
        metadata=metadata,
    )


def _budget(requests: int, unit: Unit, *, is_shadow: bool) -> Budget:
    return Budget(
        kind=Kind.FIXED_WINDOW,
        requests=requests,
        window_us=unit.seconds * 1_000_000,
        burst=requests,
        is_greedy=True,
        rescales=False,
        is_shadow=is_shadow,
    )


def _replaces(name: str, limit: Mapping[str, object], own_name: str) -> tuple[str, ...]:
    written = limit.get("replaces") or []
    if not isinstance(written, list):
        raise ConfigError(f"{name}: error loading config file: replaces is not a list")
    names = tuple(_text(_mapping(name, each).get("name")) for each in written)
    if "" in names:
        raise ConfigError(f"{name}: should not have an empty replaces entry")
    if own_name in names:
        raise ConfigError(f"{name}: replaces should not contain name of same descriptor")
    return names


def _requests(name: str, limit: Mapping[str, object]) -> int:
    written = _text(limit.get("requests_per_unit", 0))
    if not written.removeprefix("-").isdecimal():
        raise ConfigError(f"{name}: error loading config file: requests_per_unit is not a number: {written}")
    requests = int(written)
    if not 0 <= requests <= MOST_REQUESTS:
        raise ConfigError(f"{name}: error loading config file: requests_per_unit is out of range: {requests}")
    return requests


def _metadata(name: str, written: object) -> str:
    if written is None:
        return ""
    if not isinstance(written, dict):
        raise ConfigError(f"{name}: error loading config file: metadata is not a mapping")
    try:
        return json.dumps(written, sort_keys=True)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: error loading config file: metadata is not plain data") from None


def _pattern(value: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(piece) for piece in re.split(r"\*+", value)), re.DOTALL)


def _check_keys(name: str, mapping: Mapping[str, object]) -> None:
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise ConfigError(f"{name}: config error, key is not of type string: {key}")
        if key not in KEYS:
            raise ConfigError(f"{name}: config error, unknown key '{key}'")
        if key == "metadata":
            continue
        match value:
            case list():
                for each in value:
                    if not isinstance(each, dict):
                        raise ConfigError(
                            f"{name}: config error, yaml file contains list of type other than map: {each}"
                        )
                    _check_keys(name, each)
            case dict():
                _check_keys(name, value)
            case str() | int() | None:
                pass
            case _:
                raise ConfigError(f"{name}: error checking config")


def _mapping(name: str, value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: error loading config file: expected a mapping, found {type(value).__name__}")
    return value


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


def _flag(name: str, mapping: Mapping[str, object], key: str) -> bool:
    value = mapping.get(key, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: error loading config file: {key} is neither true nor false: {value}")
    return value


def _described(path: str, level: _Level) -> Iterable[str]:
    nodes = [(f"{path}.{key}_{value}", node) for (key, value), node in level.exact.items()]
    nodes += [(f"{path}.{key}", node) for key, node in level.bare.items()]
    for composite, node in nodes:
        rule = node.rule
        if rule is not None:
            unit = "UNKNOWN" if rule.is_unlimited else rule.unit.name
            yield (
                f"{composite}: unit={unit} requests_per_unit={rule.budget.requests}, "
                f"shadow_mode: {str(rule.is_shadow).lower()}, quota_mode: {str(rule.is_quota).lower()}"
            )
        yield from _described(composite, node.below)
