"""Clients that accept late: Envoy says nothing of clusters before all of them are warm, and one may take minutes."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.needs import WARMING_S
from controlplane.xds.protocol import Response
from controlplane.xds.stream import PATIENCE_S
from controlplane.xds.trial import Suspects
from tests.xds import made
from tests.xds.playbook import Play, known, line, state
from tests.xds.rows import ADS, ALL, DELTA, SOTW, TYPES, Variant, row

SECTION = "Slow to warm"
SILENT_S = PATIENCE_S + 0.1
LATE_S = WARMING_S + 0.1
SLOW = made.cluster("slow", eds=False, port=1)


def checked(name: str) -> Resource:
    """An EDS cluster whose endpoints are checked for health before it is warm."""
    message = cluster_pb2.Cluster.FromString(made.cluster(name).body)
    message.health_checks.add(http_health_check={"path": "/"})
    return whole(TYPES["CDS"], name, message.SerializeToString(deterministic=True))


def gateway(*clusters: Resource, **to: str) -> Snapshot:
    """Routes from paths to clusters: `root="a"` is the route `/`."""
    paths = {f"/{'' if path == 'root' else path}": cluster for path, cluster in to.items()}
    by_endpoints = [one for one in clusters if cluster_pb2.Cluster.FromString(one.body).type == cluster_pb2.Cluster.EDS]
    return state(
        CDS=[known(one, 1) for one in clusters],
        EDS=[known(made.endpoints(one.name, 80), 80) for one in by_endpoints],
        RDS=[made.routes("rc", paths)],
        LDS=[known(made.listener("l", 80, "rc"), 1)],
    )


def with_a(variant: Variant, **to: str) -> Play:
    """An Envoy that has one cluster, a, and routes to it."""
    play = Play(variant)
    play.serve(gateway(made.cluster("a"), **(to or {"root": "a"})))
    play.ask("*", kind="CDS")
    play.talk()
    play.ask("a", kind="EDS")
    play.ask("*", kind="LDS")
    play.talk()
    play.ask("rc", kind="RDS")
    play.talk()
    return play


def of_kind(play: Play, kind: str) -> list[Response]:
    """What is said of the kind now; of the rest, endpoints are accepted and clusters are not."""
    heard: list[Response] = []
    while said := play.hear():
        for response in said:
            if response.type_url == TYPES["EDS"]:
                play.ack(response)
        heard += said
    return [response for response in heard if response.type_url == TYPES[kind]]


def refusing(variant: Variant) -> Play:
    """A client that has A, and has refused `slow` and `z-bad` together."""
    play = Play(variant)
    play.serve(CDS={"A": 1})
    play.ask("*")
    play.talk()
    play.serve(CDS={"A": 1, "slow": 1, "z-bad": 99})
    (both,) = play.hear()
    play.nack(both)
    return play


def routes(response: Response) -> dict[str, str]:
    (table,) = response.resources
    parsed = route_pb2.RouteConfiguration.FromString(table.body)
    return {one.match.prefix: one.route.cluster or "503" for host in parsed.virtual_hosts for one in host.routes}


def status(route: route_components_pb2.Route) -> int:
    return route.direct_response.status


@row(SECTION, "M1", "A cluster that is slow to warm does not hold up routes to others", ADS)
def test_others_are_not_held_up(variant: Variant) -> None:
    play = with_a(variant)
    play.serve(gateway(made.cluster("a"), SLOW, root="a"))
    assert of_kind(play, "CDS"), "unanswered from now on"
    play.now = SILENT_S
    play.serve(gateway(made.cluster("a"), SLOW, made.cluster("b"), root="b"))
    assert of_kind(play, "RDS") == []
    play.only("a", "b", before=("a",), kind="EDS")
    assert of_kind(play, "RDS") == [], "it has had no time yet"
    assert play.stream.wake_at() is not None
    play.now += LATE_S
    (response,) = of_kind(play, "RDS")
    assert routes(response) == {"/": "b"}


@row(SECTION, "M2", "What works is not moved to a cluster that is not warm; what is new goes out", ADS)
def test_what_works_stays(variant: Variant) -> None:
    play = with_a(variant, root="a", moved="a")
    play.serve(gateway(made.cluster("a"), SLOW, root="a", moved="slow", new="slow"))
    (unanswered,) = of_kind(play, "CDS")
    play.now = LATE_S
    (response,) = of_kind(play, "RDS")
    assert routes(response) == {"/": "a", "/moved": "a", "/new": "slow"}
    play.ack(response)
    play.now = 60.0
    assert of_kind(play, "RDS") == []
    assert not play.stream.is_settled
    assert play.stream.wake_at() is None, "only its answer makes a difference"
    play.ack(unanswered)
    (response,) = of_kind(play, "RDS")
    assert routes(response) == {"/": "a", "/moved": "slow", "/new": "slow"}
    play.ack(response)
    play.talk()
    assert play.stream.is_settled


@row(SECTION, "M3", "A cluster whose health is tried first is not taken for warm by its endpoints", ADS)
def test_health_is_waited_for(variant: Variant) -> None:
    play = with_a(variant)
    play.serve(gateway(made.cluster("a"), checked("b"), root="b"))
    (unanswered,) = of_kind(play, "CDS")
    play.only("a", "b", before=("a",), kind="EDS")
    of_kind(play, "EDS")
    play.now = 60.0
    assert [routes(one) for one in of_kind(play, "RDS")] in ([], [{"/": "a"}])
    play.ack(unanswered)
    (response,) = of_kind(play, "RDS")
    assert routes(response) == {"/": "b"}


@row(SECTION, "M4", "A refused route is found also while a cluster is slow, and the others go", ADS)
def test_refused_while_slow(variant: Variant) -> None:
    play = with_a(variant, root="a", moved="a")
    bad = made.bad_route("/bad")
    play.serve(
        state(
            CDS=[known(made.cluster("a"), 1), known(SLOW, 1)],
            EDS=[known(made.endpoints("a", 80), 80)],
            RDS=[made.routes("rc", {"/bad": bad, "/": "a", "/moved": "slow", "/new": "slow"})],
            LDS=[known(made.listener("l", 80, "rc"), 1)],
        )
    )
    assert of_kind(play, "CDS")
    play.now = LATE_S
    for _ in range(20):
        responses = of_kind(play, "RDS")
        if not responses:
            break
        for response in responses:
            parsed = route_pb2.RouteConfiguration.FromString(response.resources[0].body)
            is_bad = any(status(one) == 99 for host in parsed.virtual_hosts for one in host.routes)
            play.nack(response) if is_bad else play.ack(response)
    else:
        pytest.fail("it does not end")
    assert {verdict.part for verdict in play.stream.verdicts()} == {"/bad"}
    (table,) = play.stream.channels[TYPES["RDS"]].acked.values()
    assert isinstance(table, Resource)
    assert table.parts_by_key["/moved"].body == made.routes("rc", {"/moved": "a"}).parts[0].body


@row(SECTION, "M5", "What is tried and neither refused nor accepted does not hold up what is left", ALL)
def test_trial_without_an_answer(variant: Variant) -> None:
    """A client refuses at once; what takes long is being warm."""
    play = refusing(variant)
    (first,) = play.hear()
    said = [line(first)]
    for _ in range(10):
        play.now += SILENT_S
        for response in play.hear():
            said.append(line(response))
            if "z-bad@99" in said[-1]:
                play.nack(response)
    channel = play.stream.channels[TYPES["CDS"]]
    assert set(channel.pinned) == {"z-bad"}, said
    assert len(said) <= 4, said
    play.serve(CDS={"A": 1, "slow": 1, "z-bad": 1, "more": 1})
    play.now += SILENT_S
    (response,) = play.hear()
    assert {"z-bad@1", "more@1"} <= set(line(response).split())
    play.ack(response)
    play.talk()
    assert {name for name, form in channel.sent.items() if form.version} == {"A", "slow", "z-bad", "more"}


@row(SECTION, "M6", "A name that is asked for while something is tried is answered", DELTA)
def test_asked_while_tried(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1, "B": 99, "C": 1})
    play.ask("A", "B")
    (both,) = play.hear()
    play.nack(both)
    assert len(play.hear()) == 1, "one of them"
    play.ask("C", "none")
    assert play.hears() == ["CDS C@1 -none ?none"]


@row(SECTION, "M7", "What is mended while it is being looked for is sent", ALL)
def test_mended_while_tried(variant: Variant) -> None:
    play = refusing(variant)
    assert play.hear()
    play.serve(CDS={"A": 1, "slow": 1, "z-bad": 2})
    said: list[str] = []
    for _ in range(5):
        play.now += SILENT_S
        said += play.hears()
    assert said == (["CDS A@1 z-bad@2", "CDS A@1 slow@1 z-bad@2"] if variant in SOTW else ["CDS z-bad@2"])


@row(SECTION, "M8", "A name that does not exist is told again when the response that told it was refused", ALL)
def test_missing_is_told_again(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1, "B": 99})
    play.ask("A", "B", "none")
    (first,) = play.hear()
    assert "?none" in line(first)
    play.nack(first)
    said: list[str] = []
    while responses := play.hear():
        for response in responses:
            said.append(line(response))
            play.nack(response) if "B@99" in said[-1] else play.ack(response)
        assert len(said) < 10
    assert sum("?none" in one for one in said) == 1, said


@row(SECTION, "M9", "A refused answer without content silences no later one", ALL)
def test_refused_absence(variant: Variant) -> None:
    play = Play(variant, "RDS")
    play.serve(RDS={"A": 1})
    play.ask("none")
    (first,) = play.hear()
    play.nack(first)
    play.ask("none", "other")
    assert any("?other" in one for one in play.hears())


@row(SECTION, "M10", "A removal that was refused once is told when it is due again", DELTA)
def test_refused_removal_again(variant: Variant) -> None:
    play = Play(variant)
    play.serve(CDS={"A": 1, "B": 1})
    play.ask("*")
    play.talk()
    play.serve(CDS={"A": 1})
    (removed,) = play.hear()
    play.nack(removed)
    play.talk()
    play.serve(CDS={"A": 1, "B": 2})
    assert play.talk() == ["CDS B@2"]
    play.serve(CDS={"A": 1})
    assert play.talk() == ["CDS -B"]


def test_the_group_whose_answer_is_awaited_is_the_present_one() -> None:
    """Else its answer would be taken for another's."""
    suspects = Suspects()
    suspects.rejected(["a", "b"], "no")
    assert (suspects.postpone(), suspects.current) == (True, ("b",))
    assert (suspects.postpone(), suspects.current) == (False, ("b",)), "a was tried, b is out there"
    assert (suspects.postpone(), suspects.current) == (False, ("b",))
    suspects.done()
    assert suspects.current == ("a",)
