"""Remembers what a pure function made of immutable values, by the values' identity.

Comparing or hashing a route costs more than looking at where it is in memory, and the loader hands out the same
objects for files that did not change. An entry keeps its arguments alive, so an identity is never used by another value
while it counts. Two equal values that are not the same object are only a miss, never a wrong answer.

What a build asks for, the next one asks for again where nothing changed: the rest is of files that are no more. It is
forgotten when it has grown to half of what is of use, so a control plane that lives for months keeps no more than a new
one, and most builds need not sort the one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


class ByIdentity(Generic[_First, *_Rest, _R]):
    """A function that remembers its results, at most twice `entries` of them.

    Results live in two generations: when there is no more room the young one becomes the old one, and what is asked for
    again moves back. After one build of that, the old one holds what nobody asks for.
    """

    def __init__(self, function: Callable[[_First, *_Rest], _R], entries: int) -> None:
        self._function = function
        self._entries = entries
        self._young: dict[tuple[int, ...], tuple[object, _R]] = {}
        self._old: dict[tuple[int, ...], tuple[object, _R]] = {}
        self._room = 0
        self._is_sorting = False
        self._build = _build
        update_wrapper(self, function)

    def __call__(self, first: _First, *rest: *_Rest) -> _R:
        if self._build != _build:
            self._age()
        found = self._young.get((id(first), *map(id, rest)))
        return found[1] if found is not None else self._recalled(first, *rest)

    def each(self, values: Iterable[_First], *rest: *_Rest) -> list[_R]:
        """The results for many values, in their order, with the same further arguments."""
        if self._build != _build:
            self._age()
        young, tail = self._young, tuple(map(id, rest))
        return [
            found[1] if (found := young.get((id(value), *tail))) is not None else self._recalled(value, *rest)
            for value in values
        ]

    def _recalled(self, first: _First, *rest: *_Rest) -> _R:
        key = (id(first), *map(id, rest))
        found = self._young.get(key) or self._old.get(key)
        if found is None:
            found = ((first, rest), self._function(first, *rest))
        if len(self._young) >= self._entries:
            self._young, self._old = {}, self._young
        self._young[key] = found
        return found[1]

    def _age(self) -> None:
        """The first question of a new build."""
        self._build = _build
        if self._is_sorting:
            self._old, self._room = {}, len(self._young) * 3 // 2
            self._is_sorting = False
        elif len(self._young) > self._room:
            self._young, self._old = {}, self._young
            self._is_sorting = True


def by_identity(entries: int) -> Callable[[Callable[[_First, *_Rest], _R]], ByIdentity[_First, *_Rest, _R]]:
    """Memoises a pure function of immutable positional arguments."""
    return lambda function: ByIdentity(function, entries)


@lru_cache(maxsize=262_144)
def same(value: _H) -> _H:
    """The first object equal to `value` that was given: gives equal values one identity. For hashable values only."""
    return value
