"""Which route a path belongs to, by brute force from the rule users read: slow, short, and nothing of ours imported.

The rule (`docs/routing.md`): a pattern's segments are literals, `*` or `:name` for any one segment, and `**` at the end
for whatever follows, nothing included; a slash at the end means nothing. Of the patterns that match, compare two
segment by segment from the left: at the first difference a literal beats `*`, `*` beats the end, the end beats `**`.
Before the path comes the host (exact, longer wildcards, none), after it the methods (fewer, then more, then all) and
the conditions (more, then fewer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cmp_to_key

_RANK_LITERAL, _RANK_ONE, _RANK_END, _RANK_REST = range(4)


def segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def matches(pattern: str, path: str) -> bool:
    return _matches(segments(pattern), segments(path))


def winner(patterns: Iterable[str], path: str) -> str | None:
    """The most specific pattern that matches, or None."""
    candidates = [pattern for pattern in patterns if matches(pattern, path)]
    return min(candidates, key=cmp_to_key(_compare), default=None)


def is_one(segment: str) -> bool:
    return segment == "*" or segment.startswith((":", "{"))


def _matches(pattern: list[str], path: list[str]) -> bool:
    if pattern == ["**"]:
        return True
    if not pattern or not path:
        return pattern == path
    return (is_one(pattern[0]) or pattern[0] == path[0]) and _matches(pattern[1:], path[1:])


def _compare(one: str, other: str) -> int:
    left, right = segments(one), segments(other)
    for index in range(max(len(left), len(right)) + 1):
        difference = _rank(left, index) - _rank(right, index)
        if difference:
            return difference
    raise AssertionError(f"{one} and {other} cannot be told apart")


def _rank(pattern: list[str], index: int) -> int:
    if index >= len(pattern):
        return _RANK_END
    if pattern[index] == "**":
        return _RANK_REST
    return _RANK_ONE if is_one(pattern[index]) else _RANK_LITERAL


@dataclass(frozen=True)
class Requested:
    """A request as the rule looks at it. `headers` are those that are there, by name."""

    host: str
    path: str
    method: str
    headers: frozenset[str]


@dataclass(frozen=True)
class Written:
    """A route as users write it: no host, no methods and no headers mean any."""

    path: str
    host: str | None = None
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    def holds(self, request: Requested) -> bool:
        methods = {*self.methods, *(["HEAD"] if "GET" in self.methods else [])}
        return (
            self._has_host(request.host)
            and matches(self.path, request.path)
            and (not methods or request.method in methods)
            and set(self.headers) <= request.headers
        )

    def _has_host(self, host: str) -> bool:
        if self.host is None:
            return True
        return host.endswith(self.host[1:]) if self.host.startswith("*") else host == self.host

    def beats(self, other: Written) -> bool:
        """By the rule's four steps: host, path, methods, conditions."""
        steps = (
            (_host_rank(self.host), _host_rank(other.host)),
            (_compare(self.path, other.path), 0) if shape(self.path) != shape(other.path) else (0, 0),
            (len(self.methods) or 1000, len(other.methods) or 1000),
            (-len(self.headers), -len(other.headers)),
        )
        return next((mine < theirs for mine, theirs in steps if mine != theirs), False)


def shape(pattern: str) -> tuple[str, ...]:
    """The pattern without the names of its parameters: equal for two that no path can tell apart."""
    return tuple("*" if is_one(segment) else segment for segment in segments(pattern))


def chosen(routes: Iterable[Written], request: Requested) -> Written | None:
    """The route that holds and that no other that holds beats."""
    candidates = [route for route in routes if route.holds(request)]
    return next((one for one in candidates if not any(other.beats(one) for other in candidates)), None)


def _host_rank(host: str | None) -> tuple[int, int]:
    """An exact host, then wildcards from the longest, then none."""
    if host is None:
        return 2, 0
    return (1, -len(host)) if host.startswith("*") else (0, 0)
