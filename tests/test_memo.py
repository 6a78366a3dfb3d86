"""Remembering by identity: never a wrong answer, whatever is forgotten."""

from __future__ import annotations

import gc
import weakref

from controlplane.memo import begin_build, by_identity


def test_a_value_is_looked_at_once() -> None:
    calls: list[object] = []

    @by_identity(8)
    def shown(value: object, mark: str) -> str:
        calls.append(value)
        return f"{value}{mark}"

    values = [object() for _ in range(4)]
    mark = "!"
    wanted = [f"{value}!" for value in values]
    assert shown.each(values, mark) == wanted
    assert [shown(value, mark) for value in values] == wanted
    assert shown.each(values[::-1], mark) == wanted[::-1]
    assert calls == values


def test_equal_values_that_are_not_the_same_are_looked_at_apart() -> None:
    calls: list[tuple[int, ...]] = []

    @by_identity(8)
    def total(value: tuple[int, ...]) -> int:
        calls.append(value)
        return sum(value)

    one, other = tuple(range(1, 3)), tuple(range(1, 3))
    assert total.each([one, other, one]) == [3, 3, 3]
    assert len(calls) == 2


def test_what_is_forgotten_is_found_out_again() -> None:
    calls: list[object] = []

    @by_identity(3)
    def itself(value: object) -> object:
        calls.append(value)
        return value

    values = [object() for _ in range(10)]
    for _ in range(3):
        assert itself.each(values) == values
    assert len(calls) > len(values)
    last = len(calls)
    assert itself(values[-1]) is values[-1], "what was asked for last is still known"
    assert len(calls) == last


def test_an_identity_is_not_taken_for_another_value() -> None:
    """A value that only the memo knows stays alive, so that nothing else can have its place in memory."""

    @by_identity(4)
    def text(value: list[int]) -> str:
        return repr(value)

    for number in range(1_000):
        assert text([number]) == f"[{number}]"


class Thing:
    """Something that can be seen to go."""


def test_what_builds_do_not_ask_for_any_more_is_forgotten() -> None:
    calls: list[type] = []

    @by_identity(100)
    def kind(value: Thing) -> type:
        calls.append(type(value))
        return type(value)

    kept, dropped = Thing(), Thing()
    gone = weakref.ref(dropped)
    kind.each([kept, dropped])
    del dropped
    for _ in range(3):
        begin_build()
        kind(kept)
    gc.collect()
    assert gone() is None
    assert len(calls) == 2, "what every build asks for is looked at once"


def test_builds_that_ask_for_nothing_forget_nothing() -> None:
    """A build that stops at its first problem comes no further than to the files."""
    calls: list[Thing] = []

    @by_identity(100)
    def itself(value: Thing) -> Thing:
        calls.append(value)
        return value

    one = Thing()
    itself(one)
    for _ in range(5):
        begin_build()
    itself(one)
    assert calls == [one]
