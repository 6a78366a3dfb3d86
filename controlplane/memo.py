"""Remembers what a pure function made of immutable values, by the values' identity.

Comparing or hashing a route costs more than looking at where it is in memory, and the loader hands out the same
objects for files that did not change. An entry keeps its arguments alive, so an identity is never used by another value
while it counts. Two equal values that are not the same object are only a miss, never a wrong answer.

What a build asks for, the next one asks for again where nothing changed: the rest is of files that are no more. It is
forgotten when it has grown to half of what is of use, so a control plane that lives for months keeps no more than a new
one, and most builds need not sort the one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, update_wrapper
from typing import Generic, TypeVar, TypeVarTuple

_First = TypeVar("_First")
_Rest = TypeVarTuple("_Rest")
_R = TypeVar("_R")
_H = TypeVar("_H")


_build = 0


def begin_build() -> None:
    """Everything is about to be asked for again that is still of use."""
    global _build
    _build += 1


@dataclass(slots=True)
class _Generation(Generic[_R]):
    """Results by the further arguments' identities, then by the first one's."""

    results: dict[tuple[int, ...], dict[int, _R]] = field(default_factory=dict)
    alive: list[object] = field(default_factory=list)
    """Every argument of a result."""

    def of(self, rest: tuple[object, ...]) -> dict[int, _R]:
        tail = tuple(map(id, rest))
        found = self.results.get(tail)
        if found is None:
            found = self.results[tail] = {}
            self.alive.append(rest)
        return found


class ByIdentity(Generic[_First, *_Rest, _R]):
    """A function that remembers its results, at most twice `entries` of them.

    Results live in two generations: when there is no more room the young one becomes the old one, and what is asked for
    again moves back. After one build of that, the old one holds what nobody asks for.
    """

    def __init__(self, function: Callable[[_First, *_Rest], _R], entries: int) -> None:
        self._function = function
        self._entries = entries
        self._young: _Generation[_R] = _Generation()
        self._old: _Generation[_R] = _Generation()
        self._room = 0
        self._is_sorting = False
        self._build = _build
        update_wrapper(self, function)

    def __call__(self, first: _First, *rest: *_Rest) -> _R:
        if self._build != _build:
            self._age()
        found = self._young.of(rest).get(id(first))
        return found if found is not None else self._recalled(first, *rest)

    def each(self, values: Sequence[_First], *rest: *_Rest) -> list[_R]:
        """The results for many values, in their order, with the same further arguments."""
        if self._build != _build:
            self._age()
        # Thousands of look-ups at every build, nearly all of them found: no step of Python's for those.
        found = list(map(self._young.of(rest).get, map(id, values)))
        return [
            one if one is not None else self._recalled(value, *rest) for one, value in zip(found, values, strict=True)
        ]

    def _recalled(self, first: _First, *rest: *_Rest) -> _R:
        young = self._young.of(rest).get(id(first))
        if young is not None:  # twice among many
            return young
        result = self._old.of(rest).get(id(first))
        if result is None:
            result = self._function(first, *rest)
        if len(self._young.alive) >= self._entries:
            self._young, self._old = _Generation(), self._young
        self._young.of(rest)[id(first)] = result
        self._young.alive.append(first)
        return result

    def _age(self) -> None:
        """The first question of a new build."""
        self._build = _build
        if self._is_sorting:
            self._old, self._room = _Generation(), len(self._young.alive) * 3 // 2
            self._is_sorting = False
        elif len(self._young.alive) > self._room:
            self._young, self._old = _Generation(), self._young
            self._is_sorting = True


def by_identity(entries: int) -> Callable[[Callable[[_First, *_Rest], _R]], ByIdentity[_First, *_Rest, _R]]:
    """Memoises a pure function of immutable positional arguments."""
    return lambda function: ByIdentity(function, entries)


@lru_cache(maxsize=262_144)
def same(value: _H) -> _H:
    """The first object equal to `value` that was given: gives equal values one identity. For hashable values only."""
    return value
