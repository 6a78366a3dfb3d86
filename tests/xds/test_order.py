"""Make before break: what comes first, what waits, and what may not be taken away yet, row by row."""

from __future__ import annotations

from controlplane.snapshot import resource as types
from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Resource
from controlplane.xds.protocol import Response
from tests.xds import made
from tests.xds.playbook import Play, known, line, state
from tests.xds.rows import ADS, DELTA, SOTW, TYPES, Variant, row


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


@row("Order", "O2c", "Endpoints of a cluster that goes are not told to be gone while it is there", (Variant.SOTW_ADS,))
def test_endpoints_in_use_after_a_reconnect(variant: Variant) -> None:
    history = History()
    old = state(**swapped("a"))
    history.remember(old)
    play = Play(variant, history=history)
    play.serve(state(**swapped("b")))
    play.ask(kind="CDS", version=old.version_of(TYPES["CDS"]))
    play.ask("a", kind="EDS", version=old.version_of(TYPES["EDS"]))
    assert play.talk() == ["CDS a@1000 b@1000", "EDS a@80"]


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
