"""Time to live: what the protocol demands, and what a real Envoy makes of it, row by row."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.snapshot.resource import Resource
from controlplane.xds.codec import Encoder
from controlplane.xds.protocol import SOTW_WRAPPER_FEATURE, TTL_FEATURE, Node
from tests.xds.playbook import Play, known, line, plain, state
from tests.xds.rows import ALL, DELTA, SOTW, Variant, row
from tests.xds.test_checklist import EVERY, FULL, NAMED

TTL_NODE = Node(id="t", features=frozenset({TTL_FEATURE, SOTW_WRAPPER_FEATURE}))


def short_lived(kind: str, number: int = 1, ttl_s: float | None = 10.0) -> Resource:
    one = plain(kind, "A", number)
    return known(Resource(type_url=one.type_url, name="A", tree=one.tree, ttl_s=ttl_s), number)


@row(
    "Time to live",
    "L1",
    "It travels to clients that announce support, and is refreshed by heartbeats",
    ALL,
    EVERY,
    behaviour="30",
)
def test_heartbeats(variant: Variant, kind: str) -> None:
    play = Play(variant, kind, node=TTL_NODE)
    play.serve(state(**{kind: [short_lived(kind)]}))
    play.ask("A")
    (first,) = play.hear()
    assert first.with_ttl
    play.now = 6.0
    assert play.hears() == [], "no heartbeat before the client has answered"
    play.ack(first)
    (beat,) = play.hear()
    assert line(beat) == line(first)
    assert beat.version == first.version
    play.ack(beat)
    assert play.stream.wake_at() == pytest.approx(11.0)


@row("Time to live", "L2", "A heartbeat has name, version and time to live; incremental, it has no body", ALL, NAMED)
def test_heartbeat_on_the_wire(variant: Variant, kind: str) -> None:
    play = Play(variant, kind, node=TTL_NODE)
    play.serve(state(**{kind: [short_lived(kind)]}))
    play.ask("A")
    play.ack(play.hear()[0])
    play.now = 6.0
    (beat,) = play.hear()
    body = Encoder("test").encode(beat)
    if variant in DELTA:
        (one,) = discovery_pb2.DeltaDiscoveryResponse.FromString(body).resources
    else:
        (box,) = discovery_pb2.DiscoveryResponse.FromString(body).resources
        one = discovery_pb2.Resource()
        assert box.Unpack(one)
    assert (one.name, one.version, one.ttl.seconds) == ("A", short_lived(kind).version, 10)
    assert one.HasField("resource") == (variant in SOTW), "in state of the world Envoy 1.40 wants it whole"


@row("Time to live", "L2d", "After a reconnect it is sent again: it may have run out meanwhile", ALL, FULL)
def test_time_to_live_after_a_reconnect(variant: Variant, kind: str) -> None:
    """In state of the world a client names the version that it accepted, whatever it has forgotten of it since."""
    first = Play(variant, kind, node=TTL_NODE)
    served = state(**{kind: [short_lived(kind), plain(kind, "B", 1)]})
    first.serve(served)
    first.ask()
    (response,) = first.hear()
    again = Play(variant, kind, history=first.history, node=TTL_NODE)
    again.serve(served)
    again.ask(held={one.name: one.version for one in response.resources}, version=response.version)
    assert again.talk() == [f"{kind} A@1" if variant in DELTA else f"{kind} A@1 B@1"]
    again.now = 6.0
    assert len(again.talk()) == 1, "and it is kept alive from then on"


@row("Time to live", "L3", "Clients that do not announce support never see it", ALL, EVERY)
def test_no_ttl_without_the_feature(variant: Variant, kind: str) -> None:
    play = Play(variant, kind)
    play.serve(state(**{kind: [short_lived(kind)]}))
    play.ask("A")
    (first,) = play.hear()
    play.ack(first)
    assert not first.with_ttl
    play.now = 60.0
    assert play.hears() == []


@row("Time to live", "L2b", "What a late heartbeat would find dropped is sent whole", ALL, EVERY)
def test_late_heartbeat(variant: Variant, kind: str) -> None:
    """Nothing is said while an answer is awaited; Envoy withholds that of clusters until they are warm."""
    play = Play(variant, kind, node=TTL_NODE)
    play.serve(state(**{kind: [short_lived(kind)]}))
    play.ask("A")
    (first,) = play.hear()
    play.ack(first)
    play.now = 6.0
    (beat,) = play.hear()
    play.now = 17.0
    play.ack(beat)
    (again,) = play.hear()
    assert not again.heartbeat
    assert line(again) == f"{kind} A@1"
    play.ack(again)
    play.now = 23.0
    (beat,) = play.hear()
    assert beat.heartbeat == (variant in DELTA)


@row("Time to live", "L4", "It is taken away by sending the resource without it", ALL, EVERY)
def test_ttl_removed(variant: Variant, kind: str) -> None:
    play = Play(variant, kind, node=TTL_NODE)
    play.serve(state(**{kind: [short_lived(kind)]}))
    play.ask("A")
    play.talk()
    play.serve(state(**{kind: [short_lived(kind, ttl_s=None)]}))
    assert play.talk() == [f"{kind} A@1"]
    play.now = 60.0
    assert play.hears() == []
