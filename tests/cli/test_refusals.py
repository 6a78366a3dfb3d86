"""Finding what Envoy refuses by asking about less and less. Envoy is one that says no to what holds a word."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controlplane.cli.refusals import MOST, Refusal, refusals
from controlplane.origin import Origin
from controlplane.snapshot.consistency import check
from controlplane.snapshot.resource import SECRET, Part, Resource, field, whole
from controlplane.snapshot.snapshot import Snapshot
from tests.xds import made, made_types


def place(line: int) -> Origin:
    return Origin(file="a.yaml", line=line, column=1)


def table(name: str, *bad: int, count: int = 40, spoiled: bytes = b"") -> Resource:
    parts = [
        Part(key=str(n), body=field(3, field(14, (b"bad" if n in bad else b"good") + b" %d" % n)), origin=place(n))
        for n in range(count)
    ]
    return Resource(type_url=made.routes("x", {}).type_url, name=name, tree=(field(1, name.encode()) + spoiled, *parts))


def says_no_to(word: bytes) -> Callable[[Snapshot], str | None]:
    def ask(snapshot: Snapshot) -> str | None:
        bodies = b"".join(one.body for one in snapshot)
        return f"found {bodies.count(word)}" if word in bodies else None

    return ask


def lines(found: tuple[Refusal, ...]) -> list[int]:
    return [origin.line for one in found for origin in one.origins]


@pytest.mark.parametrize("bad", [(), (0,), (39,), (17,), (0, 1, 39)])
def test_each_route_is_found(bad: tuple[int, ...]) -> None:
    assert lines(refusals(Snapshot.of([table("t", *bad)]), says_no_to(b"bad"))) == list(bad)


def test_a_route_of_two_tables_is_told_once_and_its_text_is_about_it_alone() -> None:
    """Both listeners have it: what Envoy says, it says of both."""
    found = refusals(Snapshot.of([table("t", 3, 9), table("u", 3, 9)]), says_no_to(b"bad"))
    assert found == tuple(Refusal(text="found 2", origins=(place(line),)) for line in (3, 9))


def test_what_names_a_refused_thing_is_not_blamed_with_it() -> None:
    secret = whole(SECRET, "s", b"\x0a\x01s\x12\x03bad", place(7))
    snapshot = Snapshot.of([made_types.trusting("c", "s"), secret, table("t")])
    assert check(snapshot) == ()

    def ask(asked: Snapshot) -> str | None:
        return says_no_to(b"bad")(asked) or next((str(one) for one in check(asked)), None)

    assert lines(refusals(snapshot, ask)) == [7]


def test_what_is_refused_with_nothing_in_it_has_no_place() -> None:
    found = refusals(Snapshot.of([table("t", spoiled=b"bad")]), says_no_to(b"bad"))
    assert found == (Refusal(text="found 1"),)


def test_there_is_an_end_to_asking() -> None:
    assert len(refusals(Snapshot.of([table("t", *range(40))]), says_no_to(b"bad"))) == MOST
