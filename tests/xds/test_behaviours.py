"""What the reference implementation's tests ask of a management server, as plays: stimulus, required response."""

from __future__ import annotations

import pytest

from controlplane.snapshot.history import History
from controlplane.xds.protocol import Node, ProtocolError, SotwRequest
from tests.xds.playbook import Play, line, state
from tests.xds.rows import ADS, ALL, BEHAVIOURS, DELTA, SOTW, TYPES, Variant, row

FULL = ("CDS", "LDS")
NAMED = ("EDS", "RDS")
EVERY = (*FULL, *NAMED)


def after_arrival(play: Play) -> set[str]:
    """What is said until a client that came back has said everything it has: changes and removals apart.

    On a stream of its own for the type that is at once.
    """
    lines = play.talk()
    if play.variant.is_aggregated:
        play.now += 1.0
        lines += play.talk()
    apart = [line.replace(" -", "\n" + line.partition(" ")[0] + " -").splitlines() for line in lines]
    return {one for several in apart for one in several if " " in one}


@row(BEHAVIOURS, "1", "An aggregated request without a type URL ends the stream with INVALID_ARGUMENT", ADS)
def test_type_url_is_required(variant: Variant) -> None:
    play = Play(variant)
    request = SotwRequest() if variant is Variant.SOTW_ADS else None
    with pytest.raises(ProtocolError):
        if request is not None:
            play.stream.receive(request, 0.0)
        else:
            from controlplane.xds.protocol import DeltaRequest

            play.stream.receive(DeltaRequest(), 0.0)


@row(
    BEHAVIOURS,
    "2",
    "Where the service implies the type, a request needs none",
    (Variant.SOTW_EACH, Variant.DELTA_EACH),
    EVERY,
)
def test_type_is_implied(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (response,) = play.hear()
    assert response.type_url == TYPES[kind]
    assert line(response) == f"{kind} A@1"


@row(BEHAVIOURS, "3", "The node is said once and remembered for the stream", ALL)
def test_node_is_remembered(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1})
    play.ask("*")
    play.talk()
    play.ask("*", "A")
    play.talk()
    assert play.stream.node is not None
    assert play.stream.node.id == "test-id"
    assert not play.stream.node_drifted


@row(BEHAVIOURS, "4", "A request before there is a snapshot waits, and is answered when there is one", ALL, EVERY)
def test_request_before_snapshot(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.ask("A")
    assert play.hears() == []
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == [f"{kind} A@1"]


@row(BEHAVIOURS, "7", "Two streams of one node have subscriptions of their own", ALL)
def test_two_streams_of_one_node(variant: Variant) -> None:
    one, two = Play(variant, "RDS"), Play(variant, "RDS")
    for play, name in ((one, "A"), (two, "B")):
        play.serve(RDS={"A": 1, "B": 1})
        play.ask(name)
    assert one.talk() == ["RDS A@1"]
    assert two.talk() == ["RDS B@1"]
    for play in (one, two):
        play.serve(RDS={"A": 2, "B": 1})
    assert one.talk() == ["RDS A@2"]
    assert two.talk() == []


@row(
    BEHAVIOURS,
    "8",
    "The first answer holds everything asked for; its nonce is unique, its version the type's",
    ALL,
    EVERY,
)
def test_first_answer(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    served = state(**{kind: {"A": 1, "B": 1, "C": 1}})
    play.serve(served)
    play.ask("A", "B")
    (first,) = play.hear()
    assert line(first) == f"{kind} A@1 B@1"
    assert first.version == served.version_of(TYPES[kind])
    play.ack(first)
    play.serve(**{kind: {"A": 2, "B": 1}})
    (second,) = play.hear()
    assert first.nonce != second.nonce
    assert first.version != second.version


@row(BEHAVIOURS, "9", "An acceptance is not answered", ALL, EVERY)
def test_ack_is_not_answered(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (response,) = play.hear()
    play.ack(response)
    assert play.hears() == []


@row(BEHAVIOURS, "10", "A request with another nonce than the last is ignored", SOTW, EVERY)
def test_stale_nonce_is_ignored(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    (first,) = play.hear()
    play.ack(first)
    play.serve(**{kind: {"A": 2, "B": 1}})
    (second,) = play.hear()
    play.ask("A", "B", nonce=first.nonce)
    assert play.hears() == []
    play.asked[kind] = ("A",)
    play.ack(second)
    assert play.hears() == []


@row(BEHAVIOURS, "11", "After a reconnect the same state is not sent again", SOTW, (*FULL, "RLS"))
def test_reconnect_with_the_same_version(variant: Variant, kind: str) -> None:
    history = History()
    before = Play(variant, kind, history=history)
    before.serve(**{kind: {"A": 1, "B": 1}})
    before.ask()
    (response,) = before.hear()
    before.ack(response)
    after = Play(variant, kind, history=history)
    after.serve(**{kind: {"A": 1, "B": 1}})
    after.ask(version=response.version)
    assert after.hears() == []
    after.serve(**{kind: {"A": 1}})
    assert f"{kind} A@1" in after_arrival(after)


@row(BEHAVIOURS, "11b", "After a reconnect named resources are sent: the client may ask for something new", SOTW, NAMED)
def test_reconnect_with_names(variant: Variant, kind: str) -> None:
    history = History()
    before = Play(variant, kind, history=history)
    before.serve(**{kind: {"A": 1, "B": 1}})
    before.ask("A")
    (response,) = before.hear()
    after = Play(variant, kind, history=history)
    after.serve(**{kind: {"A": 1, "B": 1}})
    after.ask("A", "B", version=response.version)
    assert after.talk() == [f"{kind} A@1 B@1"]


@row(BEHAVIOURS, "12", "A subscription that grows is answered at the same version", ALL, EVERY)
def test_growing_subscription(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    assert play.talk() == [f"{kind} A@1"]
    play.only("A", "B", before=("A",))
    is_full = variant in SOTW and kind in FULL
    assert play.talk() == [f"{kind} A@1 B@1" if is_full else f"{kind} B@1"]


@row(BEHAVIOURS, "13", "What was unsubscribed and is subscribed again is sent again", ALL, EVERY)
def test_subscribing_again(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.talk()
    play.only("B", before=("A", "B"))
    assert play.talk() == []
    play.only("A", "B", before=("B",))
    is_full = variant in SOTW and kind in FULL
    assert play.talk() == [f"{kind} A@1 B@1" if is_full else f"{kind} A@1"]


@row(BEHAVIOURS, "14", "A list that becomes empty means nothing, never everything again", SOTW, EVERY)
def test_emptied_list(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    play.talk()
    play.ask()
    assert play.talk() == []
    play.serve(**{kind: {"A": 2, "B": 2}})
    assert play.talk() == []


@row(BEHAVIOURS, "15", "Without any name from the start everything is meant", ALL, FULL)
def test_legacy_wildcard(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask()
    assert play.talk() == [f"{kind} A@1 B@1"]


@row(BEHAVIOURS, "15b", "Types that are asked for by name have no wildcard without a star", ALL, NAMED)
def test_no_legacy_wildcard(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask()
    assert play.talk() == []


@row(BEHAVIOURS, "16", "Everything; everything and A; A only; nothing", SOTW, FULL)
def test_wildcard_steps(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    for names in (("*",), ("*", "A"), ("A",), ()):
        play.ask(*names)
        play.talk()
        play.serve(**{kind: {"A": len(play.heard) + 1, "B": len(play.heard) + 1}})
        heard = " ".join(play.talk())
        assert ("A@" in heard) == ("*" in names or "A" in names)
        assert ("B@" in heard) == ("*" in names)


@row(
    BEHAVIOURS,
    "17",
    "A deleted listener, cluster or limit is missing from the full state, even if that is empty",
    SOTW,
    (*FULL, "RLS"),
)
def test_deletion_in_full_state(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask()
    play.talk()
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == [f"{kind} A@1"]
    play.serve(**{kind: {}})
    assert play.talk() == [kind]


@row(BEHAVIOURS, "17b", "Of deleted routes and endpoints nothing is said: their parents imply it", SOTW, NAMED)
def test_deletion_by_parent(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.talk()
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == []


@row(BEHAVIOURS, "18", "An update of what was not asked for is not sent", ALL, EVERY)
def test_update_not_asked_for(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 1, "B": 2}})
    assert play.talk() == []


@row(BEHAVIOURS, "19", "A response that an unsubscribe made pointless is not written", ALL, EVERY)
def test_response_made_pointless(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 2}})  # due, but the client has not read yet
    if variant in SOTW:
        play.ask()
    else:
        play.ask(drop=("A",))
    assert play.hears() == []


@row(BEHAVIOURS, "20", "Names that the snapshot lacks never silence the ones it has", ADS, EVERY)
def test_partly_unknown_names(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A", "nowhere")
    gone = "-nowhere " if variant in DELTA else ""
    assert play.talk() == [f"{kind} A@1 {gone}?nowhere"]


@row(
    BEHAVIOURS,
    "21",
    "Versions said at the start are known: what differs is sent, what is gone is removed",
    DELTA,
    FULL,
)
def test_initial_versions(variant: Variant, kind: str) -> None:
    history = History()
    old = state(**{kind: {"A": 1, "B": 1, "C": 1}})
    history.remember(old)
    play = Play(variant, kind, history=history)
    play.serve(**{kind: {"A": 1, "B": 2, "D": 1}})
    play.ask("*", held={name: one.version for name, one in old.of_type(TYPES[kind]).items()})
    assert after_arrival(play) == {f"{kind} B@2 D@1", f"{kind} -C"}


@row(BEHAVIOURS, "21b", "Versions of an unknown past are replaced, names of it removed", DELTA, FULL)
def test_initial_versions_unknown(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("*", held={"A": "long ago", "B": "long ago"})
    assert after_arrival(play) == {f"{kind} A@1", f"{kind} -B"}


@row(BEHAVIOURS, "22", "The first wildcard request is answered even with nothing to say", DELTA, FULL)
def test_empty_wildcard(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {}})
    play.ask("*")
    assert play.talk() == [kind]


@row(BEHAVIOURS, "23", "Unsubscribing an unknown name is ignored", DELTA, EVERY)
def test_unknown_unsubscribe(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.ask(drop=("nobody",))
    assert play.talk() == []
    play.serve(**{kind: {"A": 2}})
    assert play.talk() == [f"{kind} A@2"]


@row(BEHAVIOURS, "24", "A name taken back under a wildcard is answered: as it is, or as removed", DELTA, FULL)
def test_name_taken_back_under_wildcard(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("*", "A", "B")
    play.talk()
    play.ask(drop=("A", "B"))
    assert play.talk() == [f"{kind} A@1 -B"]


@row(BEHAVIOURS, "25", "Only what changed is sent", DELTA, EVERY)
def test_only_changes(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1, "C": 1}})
    play.ask("A", "B", "C")
    play.talk()
    play.serve(**{kind: {"A": 1, "B": 2, "C": 1}})
    assert play.talk() == [f"{kind} B@2"]


@row(BEHAVIOURS, "26", "What was sent and is deleted is removed once", DELTA, EVERY)
def test_removed_once(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.talk()
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == [f"{kind} -B"]
    play.serve(**{kind: {"A": 2}})
    assert play.talk() == [f"{kind} A@2"]


@row(BEHAVIOURS, "27", "A wildcard without a star stays when names come, until the star is taken back", DELTA, FULL)
def test_legacy_wildcard_and_names(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask()
    play.talk()
    play.ask("A")
    assert play.talk() == [f"{kind} A@1"]
    play.serve(**{kind: {"A": 1, "B": 2}})
    assert play.talk() == [f"{kind} B@2"]
    play.ask(drop=("*",))
    play.talk()
    play.serve(**{kind: {"A": 2, "B": 3}})
    assert play.talk() == [f"{kind} A@2"]


@row(BEHAVIOURS, "28", "A subscription is honoured whatever the nonce beside it", DELTA, EVERY)
def test_subscription_with_stale_nonce(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    play.talk()
    play.ask("B", nonce="long gone")
    assert play.talk() == [f"{kind} B@1"]


@row(BEHAVIOURS, "29", "A collection `folder/*` means what is in it, as it comes and goes", DELTA, NAMED)
def test_collections(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"f/A": 1, "g/A": 1}})
    play.ask("f/*")
    assert play.talk() == [f"{kind} f/A@1"]
    play.serve(**{kind: {"f/A": 2, "f/B": 1, "g/A": 2}})
    assert play.talk() == [f"{kind} f/A@2 f/B@1"]
    play.serve(**{kind: {"f/B": 1, "g/A": 3}})
    assert play.talk() == [f"{kind} -f/A"]
    play.ask(drop=("f/*",))
    play.serve(**{kind: {"f/B": 2}})
    assert play.talk() == []


@row(BEHAVIOURS, "31", "Nothing is served whose references do not resolve", ADS)
def test_consistency(variant: Variant) -> None:
    """Thirteen cases of it are in tests/snapshot/test_consistency.py."""
    from controlplane.snapshot.consistency import check
    from tests.xds.made import cluster, listener, routes

    problems = check(state(CDS=[cluster("a")], RDS=[routes("rc", {"/": "b"})], LDS=[listener("l", 80, "other")]))
    assert {(one.resource, one.reference.name) for one in problems} == {("a", "a"), ("rc", "b"), ("l", "other")}


def test_a_differing_node_is_noticed() -> None:
    play = Play(Variant.SOTW_ADS)
    play.serve(CDS={"A": 1})
    play.ask("*")
    play.node, play._has_met = Node(id="somebody else"), False
    play.ask("*")
    assert play.stream.node_drifted
