"""The protocol's own words: what the xDS specification demands of a management server, row by row."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.snapshot import resource as types
from controlplane.xds.codec import Encoder
from controlplane.xds.methods import METHODS
from controlplane.xds.protocol import Node
from controlplane.xds.protocol import Variant as Protocol
from tests.xds import made
from tests.xds.playbook import NODE, Play, known, line, plain, state
from tests.xds.rows import ADS, ALL, DELTA, SOTW, TYPES, Variant, row

FULL, NAMED = ("CDS", "LDS"), ("EDS", "RDS")
EVERY = (*FULL, *NAMED, "SDS", "ECDS", "RLS")


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


@row("Subscription", "S6", "Everything asked for again is answered, with what is new in it", DELTA, FULL)
def test_everything_again(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(**{kind: {"A": 1}})
    play.ask()
    assert play.talk() == [f"{kind} A@1"]
    play.ask("*")
    assert play.talk() == [kind]
    play.ask("*", drop=("*",))
    assert play.talk() == [kind]
    play.serve(**{kind: {"A": 2}})
    assert play.talk() == [f"{kind} A@2"]


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
