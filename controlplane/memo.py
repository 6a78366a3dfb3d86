"""Remembers what a pure function made of immutable values, by the values' identity.

Comparing or hashing a route costs more than looking at where it is in memory, and the loader hands out the same
objects for files that did not change. An entry keeps its arguments alive, so an identity is never used by another value
while it counts. Two equal values that are not the same object are only a miss, never a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_H = TypeVar("_H")


def by_identity(entries: int) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Memoises a pure function of immutable positional arguments. At most twice `entries` results are kept.

    Results live in two generations: when the young one is full it becomes the old one, and what is asked for again
    moves back. That is close to least recently used, at the price of one dictionary look-up.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        young: dict[tuple[int, ...], tuple[object, _R]] = {}
        old: dict[tuple[int, ...], tuple[object, _R]] = {}

        @wraps(function)
        def remembered(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            nonlocal young, old
            if kwargs:
                raise TypeError("arguments are positional")
            key = tuple(map(id, args))
            found = young.get(key)
            if found is None:
                found = old.get(key)
                if found is None:
                    found = (args, function(*args, **kwargs))
                if len(young) >= entries:
                    young, old = {}, young
                young[key] = found
            return found[1]

        return remembered

    return decorate


@lru_cache(maxsize=262_144)
def same(value: _H) -> _H:
    """The first object equal to `value` that was given: gives equal values one identity. For hashable values only."""
    return value
