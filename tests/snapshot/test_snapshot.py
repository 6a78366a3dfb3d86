"""Snapshots: versions are content, differences are names."""

from __future__ import annotations

import pytest

from controlplane.snapshot import resource as types
from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Nested, Part, Resource, field, whole
from controlplane.snapshot.snapshot import Snapshot, changed_names
from controlplane.xds.fuse import mass_deletion


def of(**numbers: int) -> Snapshot:
    return Snapshot.of(whole("t", name, str(number).encode()) for name, number in numbers.items())


def test_the_order_of_resources_does_not_matter() -> None:
    assert of(a=1, b=2).version == of(b=2, a=1).version
    assert of(a=1, b=2).version != of(a=1, b=3).version


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'a'"):
        Snapshot.of([whole("t", "a", b"1"), whole("t", "a", b"2")])


def test_labels_stand_in_for_versions_and_never_hide_a_change() -> None:
    one, two = (Snapshot.of([whole("t", "a", body)], labels={"t": "1"}) for body in (b"1", b"2"))
    assert one.version_of("t") == two.version_of("t") == "1"
    assert one.version != two.version


def test_changed_names_are_added_changed_and_removed() -> None:
    assert changed_names(of(a=1, b=1, c=1), of(b=1, c=2, d=1), "t") == {"a", "c", "d"}


def test_replacing_leaves_the_original() -> None:
    before = of(a=1, b=1)
    after = before.replacing({("t", "a"): None, ("t", "c"): whole("t", "c", b"9")})
    assert {one.name for one in before} == {"a", "b"}
    assert {one.name for one in after} == {"b", "c"}


def test_history_knows_versions_and_forgets_the_oldest() -> None:
    history = History(remembered=2)
    snapshots = [of(a=number) for number in range(3)]
    for one in snapshots:
        history.remember(one)
    newest, oldest = snapshots[2].get("t", "a"), snapshots[0].get("t", "a")
    assert newest is not None
    assert oldest is not None
    assert history.resource("t", "a", newest.version) is newest
    assert history.resource("t", "a", oldest.version) is None
    assert history.state("t", snapshots[1].version_of("t")) == snapshots[1].of_type("t")


def table(*keys: str) -> Resource:
    parts = tuple(Part(key=key, body=field(3, key.encode())) for key in keys)
    return Resource(type_url=types.ROUTE, name="rc", tree=(Nested(field=2, children=parts),))


def clusters(count: int) -> list[Resource]:
    return [whole(types.CLUSTER, f"c{number}", b"") for number in range(count)]


@pytest.mark.parametrize(
    ("had", "has", "is_held"),
    [
        pytest.param(10, 5, False, id="half of the services is not more than half"),
        pytest.param(10, 4, True, id="six of ten services is"),
        pytest.param(10, 0, True, id="all of them is"),
        pytest.param(3, 0, False, id="three of three are few: small gateways are edited by hand"),
        pytest.param(4, 0, True, id="four of four are not"),
        pytest.param(4, 9, False, id="additions are no deletion"),
    ],
)
def test_mass_deletion_of_services(had: int, has: int, is_held: bool) -> None:
    assert bool(mass_deletion(Snapshot.of(clusters(had)), Snapshot.of(clusters(has)), 0.5)) == is_held


def test_mass_deletion_of_routes_counts_parts() -> None:
    before, after = Snapshot.of([table(*"abcdefgh")]), Snapshot.of([table("a", "b", "c")])
    assert mass_deletion(before, after, 0.5) == tuple(f"route {key}" for key in "defgh")
    assert mass_deletion(before, Snapshot.of([table("a", "b", "c", "d")]), 0.5) == ()
