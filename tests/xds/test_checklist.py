"""The protocol's own words: what the xDS specification demands of a management server, row by row."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.snapshot import resource as types
from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Resource
from controlplane.xds.codec import Encoder
from controlplane.xds.methods import METHODS
from controlplane.xds.protocol import Node, Response
from controlplane.xds.protocol import Variant as Protocol
from tests.xds import made
from tests.xds.playbook import NODE, Play, known, line, plain, state
from tests.xds.rows import ADS, ALL, DELTA, SOTW, TYPES, Variant, row

FULL, NAMED = ("CDS", "LDS"), ("EDS", "RDS")
EVERY = (*FULL, *NAMED, "SDS", "ECDS", "RLS")


def swapped(to: str, *also: str, timeout_ms: int = 1000) -> dict[str, list[Resource]]:
    """A listener whose routes lead to the cluster, and more clusters beside it."""
    names = (to, *also)
    return {
        "CDS": [known(made.cluster(name, timeout_ms=timeout_ms), timeout_ms) for name in names],
        "EDS": [known(made.endpoints(name, 80), 80) for name in names],
        "RDS": [known(made.routes("rc", {"/": to}), ord(to))],
        "LDS": [known(made.listener("l", 80, "rc"), 1)],
    }


def whole_gateway(variant: Variant, to: str = "a") -> Play:
    """An Envoy that has everything of `swapped(to)`."""
    play = Play(variant)
    play.serve(state(**swapped(to)))
    play.ask("*", kind="CDS")
    play.talk()
    play.ask(to, kind="EDS")
    play.ask("*", kind="LDS")
    play.talk()
    play.ask("rc", kind="RDS")
    play.talk()
    return play


def removing(variant: Variant) -> tuple[Play, Response]:
    """An Envoy whose routes have moved from a to b; it has not answered yet that a goes."""
    play = whole_gateway(variant, "a")
    play.serve(state(**swapped("b")))
    (added,) = play.hear()
    play.only("a", "b", before=("a",), kind="EDS")
    play.ack(play.hear()[0])
    play.ack(added)
    play.ack(play.hear()[0])
    (removed,) = play.hear()
    assert line(removed) == ("CDS b@1000" if variant in SOTW else "CDS -a")
    return play, removed


# Transport


@row("Transport", "T1", "SotW and delta, per type and aggregated; virtual hosts in delta only", ALL)
def test_methods(variant: Variant) -> None:
    served = {method.type_url for method in METHODS if method.variant is variant.protocol}
    assert None in served
    both = {TYPES[kind] for kind in ("CDS", "EDS", "LDS", "RDS", "SDS", "ECDS")}
    assert both <= served
    assert (types.VIRTUAL_HOST in served) == (variant.protocol is Protocol.DELTA)


@row("Transport", "T2", "The node may be empty after the first message", ALL)
def test_empty_node(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1})
    play.ask("*")
    play.talk()
    play.node, play._has_met = Node(), False
    play.ask("*", "A")
    play.talk()
    assert play.stream.node == NODE
    assert not play.stream.node_drifted


@row("Transport", "T3", "A differing node is flagged, and changes nothing", ALL)
def test_differing_node(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1})
    play.ask("*")
    play.talk()
    play.node, play._has_met = Node(id="other"), False
    play.ask("*", "A")
    play.talk()
    assert play.stream.node == NODE
    assert play.stream.node_drifted


@row("Transport", "T4", "Types on one stream are independent: versions, nonces, acceptances", ADS)
def test_types_are_independent(variant: Variant) -> None:
    play = Play(variant)
    play.serve(RDS={"A": 1}, SDS={"S": 1})
    play.ask("A", kind="RDS")
    play.ask("S", kind="SDS")
    secret, table = play.hear()
    assert (line(secret), line(table)) == ("SDS S@1", "RDS A@1")
    play.nack(table)
    play.ack(secret)
    play.serve(RDS={"A": 1}, SDS={"S": 2})
    assert play.talk() == ["SDS S@2"]


@row("Transport", "T5", "A response's type URL is that of everything in it", ALL, EVERY)
def test_type_url(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (response,) = play.hear()
    body = Encoder("test").encode(response)
    if variant in SOTW:
        sotw = discovery_pb2.DiscoveryResponse.FromString(body)
        assert {sotw.type_url} == {one.type_url for one in sotw.resources} == {TYPES[kind]}
    else:
        delta = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
        assert {delta.type_url} == {one.resource.type_url for one in delta.resources} == {TYPES[kind]}


@row("Transport", "T6", "Every response has a nonce of its own on the stream; none outlives it", ALL)
def test_nonces(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1})
    play.ask("*")
    for number in range(2, 6):
        play.talk()
        play.serve(CDS={"A": number})
    play.talk()
    nonces = [response.nonce for response in play.heard]
    assert len(set(nonces)) == len(nonces) == 5
    assert all(nonces)
    again = Play(variant)
    again.serve(CDS={"A": 5})
    again.ask("*", nonce=nonces[-1])
    assert again.talk() == ["CDS A@5"]


# Versions


@row("Versions", "V1", "The version is the content's: equal on every stream and after every restart", ALL, EVERY)
def test_version_is_content(variant: Variant, kind: str) -> None:
    versions = []
    for number in (1, 2, 1):
        play = Play(variant, kind)
        play.serve(**{kind: {"A": number, "B": 1}})
        play.ask("A", "B")
        (response,) = play.hear()
        versions.append((response.version, [one.version for one in response.resources]))
    assert versions[0] == versions[2]
    assert versions[0][0] != versions[1][0]
    assert versions[0][1][1] == versions[1][1][1]


# Acceptance and rejection


@row("ACK and NACK", "A1", "Only error detail means rejection", ALL, EVERY)
def test_rejection_by_error_detail(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (response,) = play.hear()
    play.nack(response, "bad A")
    channel = play.stream.channels[TYPES[kind]]
    assert channel.nack is not None
    assert channel.nack.text == "bad A"
    assert "A" not in channel.acked


@row("ACK and NACK", "A2", "A rejected version does not count as the client's", ALL, EVERY)
def test_rejected_is_not_held(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 2}})
    (response,) = play.hear()
    play.nack(response)
    play.hear()
    channel = play.stream.channels[TYPES[kind]]
    assert channel.acked["A"] is plain(kind, "A", 1)
    assert channel.sent["A"] is plain(kind, "A", 1)


@row("ACK and NACK", "A3", "A rejection is never answered with what was rejected", ALL, EVERY)
def test_no_resend_after_rejection(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 2}})
    (response,) = play.hear()
    play.nack(response)
    assert play.hears() == []
    play.serve(**{kind: {"A": 2, "B": 1}})
    assert play.hears() == []
    play.serve(**{kind: {"A": 3}})
    assert play.talk() == [f"{kind} A@3"]


@row("ACK and NACK", "A4", "Only the newest state is sent; what it superseded never is", ALL, EVERY)
def test_newest_wins(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (first,) = play.hear()
    for number in range(2, 100):
        play.serve(**{kind: {"A": number}})
        assert play.hears() == []
    play.ack(first)
    assert play.talk() == [f"{kind} A@99"]


@row("ACK and NACK", "A5", "A client that withholds its answer still gets newer state after a while", ALL, EVERY)
def test_patience_ends(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.hear()
    play.serve(**{kind: {"A": 2, "B": 1}})
    assert play.hears() == []
    assert play.stream.wake_at() == pytest.approx(1.0)
    play.now = 1.01
    (late,) = play.hears()
    assert "A@2" in late


@row("ACK and NACK", "A6", "The same content again is not a change", ALL, EVERY)
def test_no_change_no_response(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    for _ in range(5):
        play.serve(state(**{kind: {"A": 1}}))
        assert play.hears() == []


@row("ACK and NACK", "A8", "Answers that come out of order leave the newest as what the client has", DELTA, EVERY)
def test_answers_out_of_order(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 2}})
    (first,) = play.hear()
    play.serve(**{kind: {"A": 3}})
    play.now += 2
    (second,) = play.hear()
    play.ack(second)
    play.ack(first)
    assert play.stream.channels[TYPES[kind]].acked["A"].version == second.resources[0].version


@row("ACK and NACK", "A9", "A client that reads and never answers gets the newest, at a bounded cost", ALL, EVERY)
def test_never_answers(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.hear()
    for number in range(2, 200):
        play.serve(**{kind: {"A": number}})
        play.now += 2
        assert play.hears() == [f"{kind} A@{number}"]
    channel = play.stream.channels[TYPES[kind]]
    assert len(channel.offers) <= 64
    assert len(channel.withdrawn) <= 16
    held = list(channel.held())
    assert len(held) <= 100
    assert plain(kind, "A", 199) in held
    assert plain(kind, "A", 185 if variant in SOTW else 130) in held, "it may be using one of those it read lately"
    play.ack(play.heard[-1])
    assert channel.acked["A"].version == play.heard[-1].resources[0].version


@row("ACK and NACK", "A10", "What was changed and changed back before the client answered is sent again", ALL, EVERY)
def test_changed_and_changed_back(variant: Variant, kind: str) -> None:
    """It may be using what came between: no answer about that is to be expected any more."""
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {"A": 2}})
    assert play.hears() == [f"{kind} A@2"]
    play.serve(**{kind: {"A": 1}})
    play.now += 2
    assert play.talk() == [f"{kind} A@1"]
    assert variant in DELTA or not play.stream.channels[TYPES[kind]].doubtful


# Subscriptions


@row("ACK and NACK", "A7", "A rejection counts also when it comes after newer state was sent", SOTW, EVERY)
def test_late_rejection(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    (first,) = play.hear()
    play.serve(**{kind: {"A": 2}})
    play.now = 6.0
    (second,) = play.hear()
    play.nack(first)
    play.ack(second)
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == []
    (verdict,) = play.stream.verdicts()
    assert (verdict.name, verdict.text) == ("A", "refused")


@row("Subscription", "S1", "What is newly asked for by name is sent even if a wildcard sent it before", ALL, FULL)
def test_named_after_wildcard(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("*")
    play.talk()
    play.ask("*", "A")
    assert play.talk() == [f"{kind} A@1"]


@row("Subscription", "S2", "A missing name is answered at once, remembered, and sent on creation", ALL, EVERY)
def test_missing_name(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {}})
    play.ask("A")
    assert play.talk() == [f"{kind} -A ?A" if variant in DELTA else f"{kind} ?A"]
    play.serve(**{kind: {"A": 1}})
    assert play.talk() == [f"{kind} A@1"]


@row("Subscription", "S3", "Once anything was named, no names means nothing", ALL, FULL)
def test_named_then_nothing(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    play.talk()
    play.only(before=("A",))
    play.talk()
    play.serve(**{kind: {"A": 2, "B": 2}})
    assert play.talk() == []


@row("Subscription", "S4", "Many names in one request are answered in one response", ALL, EVERY)
def test_many_names(variant: Variant, kind: str) -> None:
    names = {f"n{number:03}": 1 for number in range(200)}
    play = Play(variant, kind)
    play.serve(**{kind: names})
    play.ask(*names)
    assert play.talk() == [" ".join([kind, *(f"{name}@1" for name in names)])]


@row("Subscription", "S5", "A list with an empty name in it asks for nothing", ALL, EVERY)
def test_empty_name(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("")
    assert play.talk() == []
    play.serve(**{kind: {"A": 2}})
    assert play.talk() == []


# Grouping and deletion


@row("Grouping and deletion", "G3", "No name is twice in a response", ALL, EVERY)
def test_no_name_twice(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("*", "A", "A", "B", "A")
    play.talk()
    for response in play.heard:
        names = [one.name for one in response.resources]
        assert len(set(names)) == len(names)


@row(
    "Grouping and deletion",
    "G3b",
    "What changed comes with what the client has of the type",
    SOTW,
    ("SDS", "ECDS", "RLS"),
)
def test_changes_come_with_the_rest(variant: Variant, kind: str) -> None:
    """Clients read what a response lacks as gone: Envoy's unified mux secrets, the rate limit service its limits."""
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1, "C": 1}})
    play.ask("A", "B")
    play.talk()
    play.serve(**{kind: {"A": 2, "B": 1, "C": 2}})
    assert play.talk() == [f"{kind} A@2 B@1"]
    play.ask("A", "B", "Z")
    assert play.talk() == [f"{kind} A@2 B@1 ?Z"]


@row("Grouping and deletion", "G4", "Deletions are told by name", DELTA, (*FULL, *NAMED, "RLS"))
def test_deletion_by_name(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.talk()
    play.serve(**{kind: {}})
    assert play.talk() == [f"{kind} -A -B"]


@row(
    "Grouping and deletion",
    "G4b",
    "What a listener that drains may need is left to who asks for it",
    ALL,
    ("SDS", "ECDS"),
)
def test_not_taken_while_asked_for(variant: Variant, kind: str) -> None:
    """Envoy answers 500 without the extension, for as long as it drains; it takes the name back afterwards."""
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B")
    play.talk()
    play.serve(**{kind: {"B": 1}})
    assert play.talk() == []
    assert play.stream.is_settled
    play.serve(**{kind: {"B": 2}})
    assert play.talk() == [f"{kind} A@1 B@2" if variant in SOTW else f"{kind} B@2"]
    play.only("B", before=("A", "B"))
    assert play.talk() == []
    play.ask(*(("A", "B") if variant in SOTW else ("A",)))
    assert play.talk() == [f"{kind} B@2 ?A" if variant in SOTW else f"{kind} -A ?A"]


# Order


@row("Order", "O1", "Clusters, endpoints, listeners, routes; then what is not needed any more goes", ADS)
def test_order_of_a_swap(variant: Variant) -> None:
    play = whole_gateway(variant, "a")
    play.serve(state(**swapped("b")))
    (added,) = play.hear()
    assert "b@1000" in line(added)
    assert "-a" not in line(added)
    assert ("a@1000" in line(added)) == (variant in SOTW)  # state of the world: still there
    play.only("a", "b", before=("a",), kind="EDS")
    (warmed,) = play.hear()
    assert line(warmed) == "EDS b@80"
    play.ack(warmed)
    assert play.hears() == [], "routes wait until the clusters are accepted"
    play.ack(added)
    (switched,) = play.hear()
    assert line(switched) == f"RDS rc@{ord('b')}"
    assert play.hears() == [], "nothing goes before the routes are accepted"
    play.ack(switched)
    (removed,) = play.hear()
    assert line(removed) == ("CDS b@1000" if variant in SOTW else "CDS -a")


@row("Order", "O2", "A cluster that changed has its endpoints sent again, after it", ADS)
def test_endpoints_after_a_changed_cluster(variant: Variant) -> None:
    play = whole_gateway(variant, "a")
    play.serve(state(**swapped("a", timeout_ms=2000)))
    assert play.hears() == ["CDS a@2000", "EDS a@80"]


@row("Order", "O2b", "So it has after a reconnect, when the cluster changed meanwhile", (Variant.DELTA_ADS,))
def test_endpoints_after_a_changed_cluster_on_reconnect(variant: Variant) -> None:
    history = History()
    old = state(**swapped("a"))
    history.remember(old)
    play = Play(variant, history=history)
    play.serve(state(**swapped("a", timeout_ms=2000)))
    play.ask("*", kind="CDS", held={"a": old.of_type(TYPES["CDS"])["a"].version})
    assert play.hears() == ["CDS a@2000"]
    play.ask("a", kind="EDS", held={"a": old.of_type(TYPES["EDS"])["a"].version})
    assert play.hears() == ["EDS a@80"]


@row("Order", "O3", "When the new routes are rejected the old cluster stays", ADS)
def test_rejected_routes_keep_their_cluster(variant: Variant) -> None:
    play = whole_gateway(variant, "a")
    play.serve(state(**swapped("b")))
    (added,) = play.hear()
    play.only("a", "b", before=("a",), kind="EDS")
    play.ack(play.hear()[0])
    play.ack(added)
    (switched,) = play.hear()
    play.nack(switched, "no")
    for spoken in play.talk():
        assert "-a" not in spoken
        assert not spoken.startswith("CDS")


@row("Order", "O4", "A parent that is still in use holds its children: secrets and extensions go after it", ADS)
def test_children_go_after_parents(variant: Variant) -> None:
    play = whole_gateway(variant, "a")
    play.serve(state())
    lines = play.talk()
    if variant in DELTA:
        assert lines == ["LDS -l", "RDS -rc", "CDS -a", "EDS -a"]
    else:
        assert lines == ["LDS", "CDS"]


@row("Order", "O5", "What only a listener named that was taken back is not waited for", ADS)
def test_taken_back_before_its_routes_were_asked_for(variant: Variant) -> None:
    play = Play(variant)
    play.serve(state(**swapped("a")))
    play.ask("*", kind="CDS")
    play.talk()
    play.ask("a", kind="EDS")
    play.ask("*", kind="LDS")
    play.talk()
    assert not play.stream.is_settled, "it is about to ask for the routes"
    play.serve(state(**{**swapped("a"), "LDS": []}))
    play.talk()
    assert play.stream.is_settled


@row("Order", "O6", "Routes wait for a cluster that comes back while its removal is on its way", ADS)
def test_back_while_its_removal_is_on_its_way(variant: Variant) -> None:
    """Envoy takes the removal in, then routes to a cluster that it does not have: 503 until the cluster is there."""
    play, removed = removing(variant)
    play.serve(state(**swapped("a")))
    assert play.hears() == []
    play.ack(removed)
    added = next(one for one in play.hear() if one.type_url == types.CLUSTER)
    assert "a@1000" in line(added)
    assert play.hears() == [], "routes wait until the cluster is accepted anew"
    play.ack(added)
    assert f"RDS rc@{ord('a')}" in play.hears()


@row("Order", "O6b", "So they do while the client does not say what it made of the removal", ADS)
def test_back_while_its_removal_is_unanswered(variant: Variant) -> None:
    """The cluster is sent anew, and counts from then on only."""
    play, _ = removing(variant)
    play.serve(state(**swapped("a")))
    play.now += 2
    added = next(one for one in play.hear() if one.type_url == types.CLUSTER)
    assert "a@1000" in line(added)
    assert play.hears() == [], "routes wait until the cluster is accepted anew"
    play.ack(added)
    assert f"RDS rc@{ord('a')}" in play.hears()


def removing_with_more(variant: Variant) -> tuple[Play, Response]:
    """As `removing`; what takes a away also brings z."""
    play = whole_gateway(variant, "a")
    play.serve(state(**swapped("b")))
    play.only("a", "b", before=("a",), kind="EDS")
    for response in play.hear():
        play.ack(response)
    (switched,) = play.hear()
    more = swapped("b", "z")
    play.serve(state(**{**swapped("b"), "CDS": more["CDS"], "EDS": more["EDS"]}))
    play.ack(switched)
    removed = next(one for one in play.hear() if one.type_url == types.CLUSTER)
    assert "z@1000" in line(removed)
    return play, removed


@row("Order", "O6c", "A removal refused together with something else may have happened: what comes back is sent", ADS)
def test_back_after_its_removal_was_refused(variant: Variant) -> None:
    play, removed = removing_with_more(variant)
    play.serve(state(**swapped("a")))
    play.nack(removed, "no")
    back = next(one for one in play.hear() if one.type_url == types.CLUSTER)
    assert "a@1000" in line(back)
    assert not any("RDS" in heard for heard in play.hears())
    play.ack(back)
    assert any(f"RDS rc@{ord('a')}" in heard for heard in play.talk())


@row("Order", "O6d", "A client that then refuses everything is not asked for ever", ADS)
def test_everything_refused_after_a_removal(variant: Variant) -> None:
    play, removed = removing_with_more(variant)
    play.serve(state(**swapped("a")))
    play.nack(removed, "no")
    said = 0
    while heard := play.hear():
        for response in heard:
            play.nack(response, "no")
            said += 1
        assert said < 50


# Incremental


@row("Delta", "D1", "Every name subscribed is answered, even one that the client should have", DELTA, EVERY)
def test_every_subscribed_name_is_answered(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    for _ in range(3):
        play.ask("A")
        assert play.talk() == [f"{kind} A@1"]


@row("Delta", "D2", "Taking back what is gone needs no answer and does no harm", DELTA, EVERY)
def test_phantom_unsubscribe(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask("A")
    play.talk()
    play.serve(**{kind: {}})
    play.talk()
    play.ask(drop=("A",))
    assert play.talk() == []
    play.serve(**{kind: {"A": 2}})
    assert play.talk() == []


@row("Delta", "D4", "Versions said later than at the start of a type are not believed", DELTA, EVERY)
def test_initial_versions_only_at_first(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A")
    play.talk()
    play.ask("B", held={"B": plain(kind, "B", 1).version})
    assert play.talk() == [f"{kind} B@1"]


@row("Delta", "D5", "A reconnect with everything at its version gets nothing", DELTA, EVERY)
def test_reconnect_gets_nothing(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("A", "B", held={name: plain(kind, name, 1).version for name in "AB"})
    assert play.talk() == []


@row("Delta", "D6", "The system version is the type's in the snapshot", DELTA, EVERY)
def test_system_version(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    served = state(**{kind: {"A": 1}})
    play.serve(served)
    play.ask("A")
    (response,) = play.hear()
    body = discovery_pb2.DeltaDiscoveryResponse.FromString(Encoder("test").encode(response))
    assert body.system_version_info == served.version_of(TYPES[kind])
    assert body.control_plane.identifier == "test"


# Errors by resource


@row("Resource errors", "E1", "What does not exist is told with a code and a sentence", ALL, EVERY)
def test_resource_errors(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {}})
    play.ask("nobody")
    (response,) = play.hear()
    body = Encoder("test").encode(response)
    message = discovery_pb2.DiscoveryResponse if variant in SOTW else discovery_pb2.DeltaDiscoveryResponse
    (error,) = message.FromString(body).resource_errors
    assert error.resource_name.name == "nobody"
    assert error.error_detail.code == 5
    assert '"nobody" does not exist' in error.error_detail.message


# Audience


@row("Audience", "U1", "Policy documents go to services that name them, and to nobody else", ALL)
def test_policy_documents(variant: Variant) -> None:
    secret = known(made.policy("causeway.extauthz", "{}"), 1)
    for agent, hears in (("causeway", ["ECDS causeway.extauthz@1"]), ("envoy", None)):
        play = Play(variant, "ECDS", node=Node(id="x", agent=agent))
        play.serve(state(ECDS=[secret]))
        play.ask("*")
        assert "extauthz@" not in " ".join(play.talk())
        play.ask("*", "causeway.extauthz")
        heard = play.talk()
        assert heard == hears if hears else "extauthz@" not in " ".join(heard)


@row("Audience", "U1b", "A service is told when a document of its goes", DELTA)
def test_policy_document_goes(variant: Variant) -> None:
    play = Play(variant, "ECDS", node=Node(id="x", agent="causeway"))
    play.serve(state(ECDS=[known(made.policy("causeway.extauthz", "{}"), 1)]))
    play.ask("causeway.extauthz")
    play.talk()
    play.serve(state())
    assert play.talk() == ["ECDS -causeway.extauthz"]


@row("Audience", "U2", "Listeners of gRPC clients are given by name, never in Envoy's wildcard", ALL)
def test_api_listeners(variant: Variant) -> None:
    envoys = known(made.listener("e", 80, "rc"), 1)
    theirs = known(made.listener("svc", 0, "rc", api=True), 1)
    play = Play(variant, "LDS")
    play.serve(state(LDS=[envoys, theirs]))
    play.ask()
    assert play.talk() == ["LDS e@1"]
    other = Play(variant, "LDS")
    other.serve(state(LDS=[envoys, theirs]))
    other.ask("svc")
    assert other.talk() == ["LDS svc@1"]


@row("Delta", "D7", "What was removed and came back before the removal was accepted is sent again", DELTA, FULL)
def test_removed_and_back_before_the_ack(variant: Variant, kind: str) -> None:
    """Found by the fuzz test: the acceptance of the removal must not make the addition forgotten."""
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1, "B": 1}})
    play.ask("*")
    play.talk()
    play.serve(**{kind: {"A": 1}})
    (removal,) = play.hear()
    play.serve(**{kind: {"A": 1, "B": 1}})
    assert play.hears() == []
    play.ack(removal)
    assert play.talk() == [f"{kind} B@1"]
