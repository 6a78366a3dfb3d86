"""What happens when a client refuses: the guilty resource, or the part of it, is found; everything else goes live."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from cProfile import Profile
from dataclasses import replace

import pytest

from controlplane.origin import Origin
from controlplane.snapshot.resource import Nested, Resource
from controlplane.snapshot.snapshot import EMPTY, Snapshot
from controlplane.xds.protocol import Response, Verdict
from controlplane.xds.quarantine import Quarantine
from controlplane.xds.trial import Suspects
from tests.xds import made, made_types
from tests.xds.playbook import Play, known, plain, state
from tests.xds.rows import ADS, ALL, TYPES, Variant, row

SECTION = "Rejections"
Refuses = Callable[[Resource], bool]


def converse(play: Play, refuses: Refuses, text: str = "refused", limit: int = 400) -> int:
    """A client that refuses a whole response when one resource in it is bad, as Envoy does. Returns how many it saw."""
    seen = 0
    while said := play.hear():
        for response in said:
            seen += 1
            assert seen < limit, "it never ends"
            if any(map(refuses, response.resources)):
                play.nack(response, text)
            else:
                play.ack(response)
    return seen


def accepted(play: Play, kind_url: str) -> set[str]:
    return {name for name, form in play.stream.channels[kind_url].acked.items() if isinstance(form, Resource)}


def many(kind: str, count: int, bad: set[int] = frozenset(), number: int = 1) -> list[Resource]:  # type: ignore[assignment]
    return [plain(kind, f"n{index:03}", 99 if index in bad else number) for index in range(count)]


def is_99(kind: str) -> Refuses:
    return lambda one: one.version == plain(kind, one.name, 99).version


@row(SECTION, "Q1", "One bad among 500 is found within 2·log2(500)+2 responses; 499 are live", ALL, ("CDS",))
def test_one_bad_of_500(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    resources = many(kind, 500, {317})
    play.serve(state(**{kind: resources}))
    play.ask("*")
    seen = converse(play, is_99(kind))
    assert len(accepted(play, resources[0].type_url)) == 499
    (verdict,) = play.stream.verdicts()
    assert verdict.name == "n317"
    assert seen <= 2 * math.log2(500) + 2 + 1


@row(SECTION, "Q2", "The resource that the client names is tried first", ALL, ("CDS", "LDS"))
def test_named_by_the_client(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    resources = many(kind, 100, {42})
    play.serve(state(**{kind: resources}))
    play.ask("*")
    seen = converse(play, is_99(kind), "Error adding n042: bad")
    assert len(accepted(play, resources[0].type_url)) == 99
    assert seen <= 3


def test_looking_for_names_in_a_refusal_costs_little_however_many_there_are() -> None:
    """An expression for each of 10,000 names once stopped the event loop for over a second."""
    names = [f"cluster-{index:05}" for index in range(10_000)]
    suspects = Suspects()
    with Profile() as profile:
        suspects.rejected(names, "Error adding cluster-00042: bad")
    assert suspects.current == ("cluster-00042",)
    calls = [one.callcount for one in profile.getstats() if getattr(one.code, "co_filename", "") == re.__file__]
    assert 0 < sum(calls) < 10


@row(SECTION, "Q3", "Several bad ones are all found", ALL, ("CDS", "LDS"))
def test_several_bad(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    resources = many(kind, 64, {0, 1, 31, 63})
    play.serve(state(**{kind: resources}))
    play.ask("*")
    converse(play, is_99(kind))
    assert len(accepted(play, resources[0].type_url)) == 60
    assert {verdict.name for verdict in play.stream.verdicts()} == {"n000", "n001", "n031", "n063"}


@row(SECTION, "Q4", "A bad update keeps the last accepted form; the next good one is offered", ALL, ("CDS", "LDS"))
def test_bad_update(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(state(**{kind: many(kind, 8)}))
    play.ask("*")
    play.talk()
    play.serve(state(**{kind: many(kind, 8, {3}, number=2)}))
    converse(play, is_99(kind))
    (verdict,) = play.stream.verdicts()
    assert verdict.replacement == plain(kind, "n003", 1).body
    assert len(accepted(play, plain(kind, "x", 1).type_url)) == 8
    play.serve(state(**{kind: many(kind, 8, number=3)}))
    converse(play, is_99(kind))
    acked = play.stream.channels[plain(kind, "x", 1).type_url].acked
    assert all(form.version == plain(kind, name, 3).version for name, form in acked.items())


@row(SECTION, "Q5", "No content is offered twice after it was refused, whatever else changes", ALL, ("CDS", "LDS"))
def test_never_the_same_again(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    refused: list[frozenset[tuple[str, str]]] = []

    def content(response: Response) -> frozenset[tuple[str, str]]:
        return frozenset((one.name, one.version) for one in response.resources)

    play.serve(state(**{kind: many(kind, 16, {3, 7})}))
    play.ask("*")
    for extra in range(5):
        while said := play.hear():
            for response in said:
                assert content(response) not in refused
                if any(map(is_99(kind), response.resources)):
                    refused.append(content(response))
                    play.nack(response)
                else:
                    play.ack(response)
        play.serve(state(**{kind: [*many(kind, 16, {3, 7}), plain(kind, f"extra{extra}", 1)]}))
    assert refused


def bad_routes(number: int, bad: set[int]) -> Resource:
    return made.routes(
        "rc", {f"/{index:03}": made.bad_route(f"/{index:03}") if index in bad else "a" for index in range(number)}
    )


def has_bad_route(resource: Resource) -> bool:
    return any(part.body == made.routes("x", {part.key: made.bad_route(part.key)}).parts[0].body
               for part in resource.parts)  # fmt: skip


@row(
    SECTION,
    "Q6",
    "A bad route is found in its route configuration and answers 503; the rest is live",
    ALL,
    ("RDS",),
)
def test_bad_route_is_found(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(state(RDS=[bad_routes(200, {123})]))
    play.ask("rc")
    seen = converse(play, has_bad_route)
    (verdict,) = play.stream.verdicts()
    assert verdict.part == "/123"
    assert verdict.origins == (Origin(file="routes.yaml", line=124, column=5),)
    served = play.stream.channels[bad_routes(1, set()).type_url].acked["rc"]
    assert isinstance(served, Resource)
    by_key = {part.key: part for part in served.parts}
    assert by_key["/123"].body == by_key["/123"].fallback
    assert sum(part.body != part.fallback for part in served.parts) == 199
    assert seen <= 2 * math.log2(200) + 4


@row(SECTION, "Q7", "A route made bad keeps its last accepted form, and never disappears meanwhile", ALL, ("RDS",))
def test_route_made_bad(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    good, bad = bad_routes(50, set()), bad_routes(50, {7, 33})
    play.serve(state(RDS=[good]))
    play.ask("rc")
    play.talk()
    play.serve(state(RDS=[bad]))
    while said := play.hear():
        for response in said:
            for one in response.resources:
                assert [part.key for part in one.parts if not part.body] == []
            if any(map(has_bad_route, response.resources)):
                play.nack(response)
            else:
                play.ack(response)
    assert {verdict.part for verdict in play.stream.verdicts()} == {"/007", "/033"}
    served = play.stream.channels[good.type_url].acked["rc"]
    assert served.version == good.version


@row(SECTION, "Q8", "A rejected cluster keeps back only the routes that need it", ADS)
def test_rejected_cluster_and_its_routes(variant: Variant) -> None:
    """As the control plane does it: verdicts into the quarantine, its snapshot back to the stream."""
    quarantine, play = Quarantine(), Play(variant)
    bad = made.bad_cluster("bad", origin=Origin(file="bad.yaml", line=3, column=1))
    table = made.routes("rc", {"/good": "a", "/bad": "bad"})
    wanted = Snapshot.of([made.cluster("a", eds=False, port=1), bad, table, made.listener("l", 80, "rc")])
    play.serve(wanted)
    play.ask("*", kind="CDS")

    def settle() -> None:
        for _ in range(10):
            converse(play, lambda one: one.name == "bad")
            for verdict in play.stream.verdicts():
                quarantine.add("envoy", "e", verdict, 0.0)
            play.serve(quarantine.effective("envoy", wanted))

    settle()
    play.ask("*", kind="LDS")
    settle()
    play.ask("rc", kind="RDS")
    settle()
    served = play.stream.channels[table.type_url].acked["rc"]
    assert isinstance(served, Resource)
    bodies = {part.key: part.body for part in served.parts}
    fallbacks = {part.key: part.fallback for part in table.parts}
    assert bodies["/bad"] == fallbacks["/bad"]
    assert bodies["/good"] != fallbacks["/good"]
    (held,) = quarantine.all()
    assert [str(origin) for origin in held.origins] == ["bad.yaml:3:1"]


@row(SECTION, "Q9", "A refused removal ends the matter", ALL, ("CDS",))
def test_refused_removal(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(CDS={"A": 1, "B": 1})
    play.ask("*")
    play.talk()
    play.serve(CDS={"A": 1})
    (response,) = play.hear()
    play.nack(response)
    assert play.hears() == []
    play.serve(CDS={"A": 2})
    assert "A@2" in " ".join(play.talk())


@pytest.mark.parametrize("variant", list(ADS), ids=str)
@pytest.mark.parametrize("before", [1, None], ids=["back as it was", "gone"])
def test_a_refusal_is_history_when_what_was_refused_is(variant: Variant, before: int | None) -> None:
    play = Play(variant, "CDS")
    good = {"A": 1} if before is None else {"A": 1, "B": before}
    play.serve(CDS=good)
    play.ask("*")
    play.talk()
    play.serve(CDS={"A": 1, "B": 99})
    converse(play, is_99("CDS"))
    channel = play.stream.channels[TYPES["CDS"]]
    assert channel.pinned
    assert channel.nack is not None
    play.serve(CDS=good)
    assert play.hears() == []
    assert not channel.pinned
    assert channel.nack is None
    play.serve(CDS={"A": 1, "B": 99})
    converse(play, is_99("CDS"))
    assert set(channel.pinned) == {"B"}


@pytest.mark.parametrize("variant", list(ADS), ids=str)
def test_a_route_put_back_as_it_was_ends_the_refusal_too(variant: Variant) -> None:
    play = Play(variant, "CDS")
    play.serve(state(RDS=[bad_routes(8, set())]))
    play.ask("rc", kind="RDS")
    play.talk()
    play.serve(state(RDS=[bad_routes(8, {3})]))
    converse(play, has_bad_route)
    play.serve(state(RDS=[bad_routes(8, set())]))
    play.talk()
    channel = play.stream.channels[TYPES["RDS"]]
    assert not channel.part_trials
    assert channel.nack is None


def with_bad_matches(number: int, bad: set[int], *, is_hopeless: bool = False) -> Resource:
    """Routes of which some have a match that is refused: in the fallback too, and even in the last resort."""
    table = made.routes(
        "rc", {f"/{index:03}": made.bad_match(f"/{index:03}") if index in bad else "a" for index in range(number)}
    )
    if not is_hopeless:
        return table
    host, *parts = table.tree[1].children  # type: ignore[union-attr]
    hopeless = (replace(part, last_resort=b"") for part in parts)
    return replace(table, tree=(table.tree[0], Nested(field=2, children=(host, *hopeless))))


def has_bad_match(resource: Resource) -> bool:
    return b"{128}" in resource.body


@row(
    SECTION,
    "Q10",
    "A route whose match is refused, and so its fallback, is found all the same; the rest is live",
    ALL,
    ("RDS",),
)
@pytest.mark.parametrize("is_hopeless", [False, True], ids=["its last resort is taken", "nothing of it is taken"])
@pytest.mark.parametrize("before", [None, 60], ids=["a client that has nothing", "a client that has the others"])
def test_bad_match_is_found(variant: Variant, kind: str, before: int | None, is_hopeless: bool) -> None:
    play = Play(variant, kind)
    if before is not None:
        play.serve(state(RDS=[with_bad_matches(before, set())]))
    play.ask("rc")
    if before is not None:
        play.talk()
    wanted = with_bad_matches(64, {61, 63}, is_hopeless=is_hopeless)
    play.serve(state(RDS=[wanted]))
    converse(play, has_bad_match)
    verdicts = {verdict.part: verdict for verdict in play.stream.verdicts()}
    assert set(verdicts) == {"/061", "/063"}
    assert verdicts["/061"].origins == (Origin(file="routes.yaml", line=62, column=5),)
    served = play.stream.channels[wanted.type_url].acked["rc"]
    assert isinstance(served, Resource)
    last_resorts = {part.key: part.last_resort for part in wanted.parts if part.key in verdicts}
    assert {part.key: part.body for part in served.parts if part.key in verdicts} == last_resorts
    assert sum(part.body == good.body for part, good in zip(served.parts, wanted.parts, strict=True)) == 62


def test_a_bad_match_takes_neither_fallback_nor_accepted_form_from_the_others() -> None:
    """Of one edit: one route is changed well, one badly, and one is new with a match that is refused."""
    play = Play(Variant.DELTA_ADS)
    play.serve(state(RDS=[made.routes("rc", {"/a": "a", "/b": "a"})]))
    play.ask("rc", kind="RDS")
    play.talk()
    wanted = made.routes("rc", {"/a": "b", "/b": made.bad_route("/b"), "/m": made.bad_match("/m"), "/new": "a"})
    play.serve(state(RDS=[wanted]))
    converse(play, lambda one: has_bad_match(one) or any(part.body == wanted.parts[1].body for part in one.parts))
    assert {verdict.part for verdict in play.stream.verdicts()} == {"/b", "/m"}
    served = play.stream.channels[wanted.type_url].acked["rc"]
    assert isinstance(served, Resource)
    bodies = {part.key: part.body for part in served.parts}
    good = made.routes("rc", {"/a": "b", "/b": "a", "/new": "a"})
    assert bodies == {part.key: part.body for part in good.parts} | {"/m": wanted.parts[2].last_resort}


def verdict_on(resource: Resource, *, replacement: bytes = b"") -> Verdict:
    return Verdict(
        type_url=resource.type_url,
        name=resource.name,
        version=resource.version,
        part=None,
        rejected=resource.body,
        replacement=replacement,
        text="no",
    )


def test_a_verdict_is_of_one_kind_of_client() -> None:
    quarantine = Quarantine()
    bad = plain("CDS", "A", 2)
    snapshot = state(CDS=[bad])
    assert quarantine.add("envoy/1.40.0", "e", verdict_on(bad), 0.0) is not None
    assert len(quarantine.effective("envoy/1.40.0", snapshot)) == 0
    assert quarantine.effective("envoy/1.41.0", snapshot) is snapshot


def test_a_verdict_is_forgotten_when_the_manifest_changes() -> None:
    quarantine = Quarantine()
    bad = plain("CDS", "A", 2)
    quarantine.add("k", "e", verdict_on(bad), 0.0)
    fixed = state(CDS={"A": 3})
    assert quarantine.effective("k", fixed) is fixed
    quarantine.forget_outdated(fixed)
    assert quarantine.all() == ()


def test_a_known_verdict_is_not_added_twice() -> None:
    quarantine, bad = Quarantine(), plain("CDS", "A", 2)
    assert quarantine.add("k", "e1", verdict_on(bad), 0.0) is not None
    assert quarantine.add("k", "e2", verdict_on(bad), 1.0) is None


def test_dependents_fall_back_to_what_was_accepted() -> None:
    old = [plain("CDS", "a", 1), made.routes("rc", {"/x": "a"}), made.listener("l", 80, "rc")]
    new = [plain("CDS", "a", 1), plain("CDS", "b", 1), made.routes("rc", {"/x": "b"}), old[2]]
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict_on(new[1]), 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    assert {one.name for one in served} == {"a", "rc", "l"}
    (part,) = next(one for one in served if one.name == "rc").parts
    assert part.body == old[1].parts[0].body
    without = quarantine.effective("k", Snapshot.of(new), EMPTY)
    (part,) = next(one for one in without if one.name == "rc").parts
    assert part.body == part.fallback


def test_what_an_accepted_form_names_comes_back_with_it() -> None:
    """The edit takes it away, since the refused form has no use for it."""
    table = [made.routes("rc", {"/x": "a", "/y": "b"}), made.listener("l", 80, "rc")]
    old = [made.cluster("a"), made.endpoints("a", 1), made.cluster("b"), made.endpoints("b", 2), *table]
    new = [made.bad_cluster("a"), made.cluster("b"), made.endpoints("b", 3), *table]
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict_on(new[0], replacement=old[0].body), 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    assert {(one.type_url, one.name): one.version for one in served} == {
        (one.type_url, one.name): one.version for one in (old[0], old[1], old[2], new[2], *table)
    }


def test_an_accepted_route_comes_back_with_its_service_and_that_with_its_endpoints() -> None:
    listener = made.listener("l", 80, "rc")
    old = [made.cluster("a"), made.endpoints("a", 1), made.routes("rc", {"/x": "a"}), listener]
    new = [made.cluster("b"), made.endpoints("b", 1), made.routes("rc", {"/x": made.bad_route("/x")}), listener]
    (part,), (before,) = new[2].parts, old[2].parts
    verdict = replace(verdict_on(new[2], replacement=before.body), part=part.key, rejected=part.body)
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict, 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    assert {(one.type_url, one.name) for one in served} == {(one.type_url, one.name) for one in (*old, *new)}
    assert served.get(listener.type_url, "l") is listener
    assert next(one for one in served if one.name == "rc").parts[0].body == before.body


def test_a_dependent_s_accepted_form_comes_back_with_what_it_names() -> None:
    """The certificate is refused, so the cluster that names it is kept back: at the form that has endpoints."""
    secret = plain("SDS", "s", 99)
    table = [made.routes("rc", {"/x": "a"}), made.listener("l", 80, "rc")]
    old = [made.cluster("a"), made.endpoints("a", 1), *table]
    new = [made_types.trusting("a", "s"), secret, *table]
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict_on(secret), 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    assert {id(one) for one in served} == set(map(id, old))


def test_what_is_refused_does_not_come_back() -> None:
    """Nor does what could only be had with it."""
    table = [made.routes("rc", {"/x": "a"}), made.listener("l", 80, "rc")]
    old = [made.cluster("a"), made.endpoints("a", 1), *table]
    new = [made.cluster("a"), made.endpoints("a", 2), *table]
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict_on(new[1]), 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    assert {one.name for one in served} == {"rc", "l"}
    (part,) = next(one for one in served if one.name == "rc").parts
    assert part.body == part.fallback


def test_a_client_that_holds_something_unknown_keeps_it() -> None:
    """Trying parts would put fallbacks in place of what works."""
    play = Play(Variant.DELTA_ADS)
    bad = known(bad_routes(4, {1}), 1)
    play.serve(state(RDS=[bad]))
    play.ask("rc", kind="RDS", held={"rc": "from another life"})
    (response,) = play.hear()
    play.nack(response)
    assert play.hears() == []
    (verdict,) = play.stream.verdicts()
    assert verdict.part is None


def leaning(number: int, table: Resource) -> Resource:
    """The same routes, leaving something to their host that they can also say alone."""
    host, *parts = table.tree[1].children  # type: ignore[union-attr]
    leaning = tuple(replace(part, alone=part.body + b"\x7a\x01" + bytes([number])) for part in parts)
    return replace(table, tree=(table.tree[0], Nested(field=2, children=(host, *leaning))))


def test_a_route_kept_back_says_alone_what_its_host_said_when_it_was_accepted() -> None:
    """Its host may say something else by now: weaker authentication, for one."""
    good, bad = leaning(1, bad_routes(8, set())), leaning(2, bad_routes(8, {3}))
    play = Play(Variant.DELTA_ADS)
    play.serve(state(RDS=[good]))
    play.ask("rc", kind="RDS")
    play.talk()
    play.serve(state(RDS=[bad]))
    converse(play, has_bad_route)
    (verdict,) = play.stream.verdicts()
    accepted_then = next(part for part in good.parts if part.key == "/003")
    assert verdict.replacement == accepted_then.alone != accepted_then.body


def test_a_dependent_kept_back_says_alone_what_its_host_said_when_it_was_accepted() -> None:
    old = [plain("CDS", "a", 1), leaning(1, made.routes("rc", {"/x": "a"})), made.listener("l", 80, "rc")]
    new = [plain("CDS", "a", 1), plain("CDS", "b", 1), leaning(2, made.routes("rc", {"/x": "b"})), old[2]]
    quarantine = Quarantine()
    quarantine.add("k", "e", verdict_on(new[1]), 0.0)
    served = quarantine.effective("k", Snapshot.of(new), Snapshot.of(old))
    (part,) = next(one for one in served if one.name == "rc").parts
    assert part.body == old[1].parts[0].alone


@pytest.mark.parametrize("variant", list(ADS), ids=str)
def test_a_listener_in_the_place_of_another_stays_refused_when_the_other_is_gone(variant: Variant) -> None:
    play = Play(variant, "LDS")
    play.serve(LDS={"old": 1})
    play.ask("*")
    play.talk()
    play.serve(LDS={"new": 1})
    (response,) = play.hear()
    play.nack(response, "cannot bind '127.0.0.1:80': Address already in use")
    play.talk()
    channel = play.stream.channels[TYPES["LDS"]]
    assert set(channel.pinned) == {"new"}
    assert channel.nack is not None
    play.stream.publish(play.stream.target or EMPTY)
    assert play.talk() == ["LDS new@1"], "at the next edit it may have a place"
    assert not channel.pinned
