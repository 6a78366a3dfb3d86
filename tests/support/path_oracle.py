"""Which route a path belongs to, by brute force from the rule users read: slow, short, and nothing of ours imported.

The rule (`docs/routing.md`): a pattern's segments are literals, `*` or `:name` for any one segment, and `**` at the end
for whatever follows, nothing included; a slash at the end means nothing. Of the patterns that match, compare two
segment by segment from the left: at the first difference a literal beats `*`, `*` beats the end, the end beats `**`.
"""

from __future__ import annotations

from collections.abc import Iterable
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
