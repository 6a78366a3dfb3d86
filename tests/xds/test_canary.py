"""Some clients first: who they are, what they get, and when everybody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2

from controlplane.origin import Origin
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.canary import ENOUGH, Comparison, Requests, changed_places, choose
from controlplane.xds.cohort import choose_cohort, refusals
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.policy import Outcome
from controlplane.xds.rollout import Rollout, undecided
from tests.support.waiting import until
from tests.xds import made
from tests.xds.playbook import plain, state
from tests.xds.rows import TYPES, Variant
from tests.xds.served import serving
from tests.xds.wire_client import WireClient, connected, names


@pytest.mark.parametrize(
    ("size", "count"),
    [
        pytest.param("1", 1, id="a number"),
        pytest.param("3", 3, id="another number"),
        pytest.param("10%", 1, id="a share"),
        pytest.param("1%", 1, id="a small share is one at least"),
        pytest.param("25%", 3, id="a share is rounded up"),
        pytest.param("100%", 10, id="all"),
        pytest.param("99", 10, id="more than there are"),
    ],
)
def test_the_cohort_has_the_size(size: str, count: int) -> None:
    ids = [f"envoy-{number}" for number in range(10)]
    cohort = choose(size, ids)
    assert len(cohort) == count
    assert cohort == choose(size, reversed(ids)), "always the same ones"


@pytest.mark.parametrize("size", ["0", "-1", "0%", "101%", "some", "10 %x", ""])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match=r"canary|expected"):
        choose(size, ["a"])


def test_those_that_can_be_measured_are_chosen_first() -> None:
    ids = [f"envoy-{number}" for number in range(10)]
    for measured in ("envoy-3", "envoy-8"):
        assert choose("1", ids, {measured}) == {measured}


def counted(completed: int, failed: int, **by_service: int) -> Requests:
    return Requests(completed=completed, failed=failed, by_service=by_service)


WELL, FIFTH = counted(1000, 0), counted(100, 20)


@pytest.mark.parametrize(
    ("comparison", "is_good"),
    [
        pytest.param(Comparison(before=WELL, cohort=WELL, others=WELL), True, id="no errors"),
        pytest.param(Comparison(), True, id="no requests"),
        pytest.param(Comparison(before=WELL, cohort=counted(100, 5)), False, id="errors begin"),
        pytest.param(Comparison(before=WELL, cohort=counted(1000, 5)), True, id="a rise too small to mean anything"),
        pytest.param(Comparison(before=WELL, cohort=counted(4, 2)), True, id="so few errors are chance"),
        pytest.param(Comparison(before=WELL, cohort=counted(3, 3)), False, id="three errors of three are not"),
        pytest.param(
            Comparison(before=FIFTH, cohort=FIFTH, others=FIFTH, others_before=FIFTH),
            True,
            id="as many errors as before, and as the others",
        ),
        pytest.param(
            Comparison(before=WELL, cohort=counted(100, 30), others=counted(100, 30)),
            False,
            id="errors begin everywhere: no time for changes",
        ),
        pytest.param(
            Comparison(before=counted(100, 30), cohort=counted(100, 30), others=WELL, others_before=counted(100, 30)),
            False,
            id="the others recover and it does not",
        ),
        pytest.param(
            Comparison(before=counted(100, 30), cohort=counted(100, 30), others=WELL, others_before=WELL),
            True,
            id="it was always the worse one",
        ),
        pytest.param(
            Comparison(before=counted(100, 9), cohort=counted(100, 9), others=counted(ENOUGH - 1, 0)),
            True,
            id="too few requests of the others to compare with",
        ),
    ],
)  # fmt: skip
def test_error_rates_decide(comparison: Comparison, is_good: bool) -> None:
    assert (comparison.objection() is None) == is_good, comparison.objection()


def test_an_objection_says_what_is_compared_and_which_service_fails() -> None:
    asked = counted(200, 50, **{"orders 503": 49, "users 500": 1})
    assert Comparison(before=WELL, cohort=asked, others=WELL).objection() == (
        "25.0% of the canary's 200 requests fail (5xx; before 0.0%, of the others' 0.0%); "
        "service orders 503: 49, service users 500: 1"
    )


def placed(name: str, body: bytes, line: int) -> Resource:
    return whole(TYPES["CDS"], name, body, Origin(file="a.yaml", line=line, column=1))


def test_what_changed_is_named_by_its_place() -> None:
    before = Snapshot.of([placed("same", b"1", 1), placed("other", b"1", 2)])
    after = Snapshot.of([placed("same", b"1", 1), placed("other", b"2", 2), placed("new", b"1", 3)])
    assert changed_places(before, after) == ("a.yaml:2:1", "a.yaml:3:1")
    assert changed_places(after, after) == ()


class Envoys:
    """What the Envoys' counters say; a test changes it."""

    def __init__(self, **counters: Requests) -> None:
        self.counters = counters

    async def __call__(self) -> Mapping[str, Requests]:
        return {name.replace("_", "-"): one for name, one in self.counters.items()}


def try_on(plane: ControlPlane) -> None:
    assert plane.trial is not None
    choose_cohort(plane, plane.trial)


@asynccontextmanager
async def on_trial(
    plane: ControlPlane, envoys: Envoys, *, canary: str = "1", **how: Any
) -> AsyncIterator[tuple[Rollout, dict[str, WireClient]]]:
    """A plane with two clients, one of which has revision 2 on trial; `envoy_0` is always measured first."""
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    nodes = [base_pb2.Node(id=f"envoy-{number}", user_agent_name="envoy") for number in range(2)]
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_EACH, node=nodes[0]) as one,
        connected(port, Variant.DELTA_EACH, node=nodes[1]) as two,
    ):
        for client in (one, two):
            await client.ask("CDS", "A")
            await client.hear()
        await plane.set_snapshot(state(CDS={"A": 2}), revision="2", canary=canary)
        rollout = Rollout(plane, envoys, **how)
        yield rollout, {"envoy-0": one, "envoy-1": two}
        await rollout.stop()


async def test_one_that_does_well_is_served_to_everybody() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
        rollout.begin(watch_s=0.3)
        assert names(await clients["envoy-0"].hear()) == ["A"]
        assert await clients["envoy-1"].is_quiet()
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert (course.state, course.cohort) == ("served", ("envoy-0",))
        assert names(await clients["envoy-1"].hear()) == ["A"]
        assert plane.revision == "2"


async def test_one_whose_requests_fail_is_taken_back_before_the_time_is_over() -> None:
    plane, envoys, forgotten = ControlPlane(), Envoys(envoy_0=WELL), []
    async with on_trial(plane, envoys, forget=lambda: forgotten.append("the failures")) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        await until("it is watched", lambda: rollout.course is not None and rollout.course.state == "watching")
        envoys.counters["envoy_0"] = counted(1100, 50)
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.state == "rolled back"
        assert "50.0% of the canary's 100 requests fail" in course.reason
        assert forgotten == ["the failures"], "they are no measure for the next"
        assert names(await clients["envoy-0"].hear()) == ["A"]
        assert await clients["envoy-1"].is_quiet()
        assert plane.revision == "1"


async def test_an_envoy_that_began_anew_has_perhaps_crashed() -> None:
    plane, envoys = ControlPlane(), Envoys(envoy_0=WELL)
    async with on_trial(plane, envoys) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        await until("it is watched", lambda: rollout.course is not None and rollout.course.state == "watching")
        envoys.counters["envoy_0"] = counted(3, 0)
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.reason == '"envoy-0" began anew while it had the change'


async def test_an_envoy_that_goes_away_takes_the_change_with_it() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL), away_s=0.2) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        await until("it is watched", lambda: rollout.course is not None and rollout.course.state == "watching")
        await clients["envoy-0"].end()
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.reason == '"envoy-0" has gone away while it had the change'


async def test_an_envoy_that_stops_answering_takes_the_change_with_it() -> None:
    """Stopped, it keeps its connection and what it has accepted."""
    plane, envoys = ControlPlane(), Envoys(envoy_0=WELL)
    async with on_trial(plane, envoys, away_s=0.2) as (rollout, clients):
        rollout.begin(watch_s=0.1)
        await clients["envoy-0"].hear()
        del envoys.counters["envoy_0"]
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.state == "rolled back"
        assert course.reason == '"envoy-0" has stopped answering at its admin interface while it had the change'
        assert plane.revision == "1"


async def test_an_envoy_that_answers_again_is_measured_from_then_on() -> None:
    plane, envoys = ControlPlane(), Envoys()
    async with on_trial(plane, envoys, canary="2", earlier=lambda: {"envoy-0": WELL}) as (rollout, clients):
        rollout.begin(watch_s=600)
        for client in clients.values():
            await client.hear()
        await until("it is watched", lambda: rollout.course is not None and rollout.course.state == "watching")
        envoys.counters["envoy_0"] = counted(1100, 0)
        await until("it is measured", lambda: rollout.course is not None and rollout.course.by_node)
        envoys.counters["envoy_0"] = counted(1200, 50)
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert "50.0% of the canary's 100 requests fail" in course.reason


async def test_one_that_is_not_accepted_in_time_is_taken_back() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL), accept_s=0.2) as (rollout, _):
        rollout.begin(watch_s=0.1)  # nobody reads, nobody answers
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert "not accepted by every client of the canary" in course.reason


async def test_a_person_decides_at_once() -> None:
    for is_good in (True, False):
        plane = ControlPlane()
        async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
            assert rollout.promote() is None, "nothing runs yet"
            rollout.begin(watch_s=600)
            await clients["envoy-0"].hear()
            course = rollout.promote() if is_good else rollout.abort()
            assert course is not None
            assert course.state == ("served" if is_good else "rolled back")
            assert plane.revision == ("2" if is_good else "1")
            assert rollout.abort() is None


async def test_a_newer_change_is_tried_on_the_same_clients() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        older = asyncio.create_task(rollout.over("2"))
        await asyncio.sleep(0)
        await plane.set_snapshot(state(CDS={"A": 3}), revision="3", canary="1")
        rollout.begin(watch_s=0.1)
        assert names(await clients["envoy-0"].hear()) == ["A"]
        overtaken = await asyncio.wait_for(older, 5)
        assert overtaken is not None
        assert overtaken.state == "overtaken"
        newer = await asyncio.wait_for(rollout.over("3"), 5)
        assert newer is not None
        assert newer.state == "served"
        assert plane.revision == "3"


async def test_files_as_they_were_before_end_the_trial() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        assert await plane.set_snapshot(state(CDS={"A": 1}), revision="1", canary="1") is Outcome.UNCHANGED
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.state == "overtaken"
        assert names(await clients["envoy-0"].hear()) == ["A"]
        assert plane.trial is None


async def test_with_nothing_to_go_back_to_there_is_no_trial() -> None:
    plane = ControlPlane()
    assert await plane.set_snapshot(state(CDS={"A": 1}), canary="1") is Outcome.SERVED


async def test_an_edit_waits_for_an_envoy_to_try_it_on_and_a_person_does_not_for_long() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    await plane.set_snapshot(state(CDS={"A": 2}), revision="2", canary="1")
    patient, hasty = Rollout(plane), Rollout(plane)
    patient.begin(watch_s=0.1)
    assert patient.course is not None
    assert patient.course.state == "waiting for an Envoy"
    hasty.begin(watch_s=0.1, patience_s=0.1)
    course = await asyncio.wait_for(hasty.over("2"), 5)
    assert course is not None
    assert course.reason == "no Envoy is connected"
    await patient.stop()


async def test_who_waits_for_the_verdict_is_told_in_time_that_there_is_none_yet() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    await plane.set_snapshot(state(CDS={"A": 2}), revision="2", canary="1")
    alone = Rollout(plane)
    alone.begin(watch_s=600)
    course = await asyncio.wait_for(alone.over("2", patience_s=0), 5)
    assert course is not None
    assert undecided(course) == "no Envoy is connected to try it on"
    await alone.stop()

    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, _):
        rollout.begin(watch_s=0.1)  # nobody reads, nobody answers
        course = await asyncio.wait_for(rollout.over("2", patience_s=0.5), 5)
        assert course is not None
        assert undecided(course) == "no verdict yet: waiting for acceptance, on envoy-0"
        assert plane.trial is not None, "it goes on"


async def test_what_is_served_and_what_is_on_trial_change_together() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
        rollout.begin(watch_s=600)
        await clients["envoy-0"].hear()
        both = [state(CDS={"A": 11}), state(CDS={"A": 12})]
        plane.adjust(both[0], on_trial=both[1])
        for client in clients.values():
            assert names(await client.hear()) == ["A"]
        rollout.promote()
        assert names(await clients["envoy-1"].hear()) == ["A"]
        assert plane.snapshot is both[1]


async def test_one_that_is_refused_is_taken_back_and_nobody_else_sees_it() -> None:
    plane = ControlPlane()
    async with on_trial(plane, Envoys(envoy_0=WELL)) as (rollout, clients):
        rollout.begin(watch_s=600)
        refused = await clients["envoy-0"].hear(ack=False)
        await clients["envoy-0"].answer(refused, error="no such thing")
        course = await asyncio.wait_for(rollout.over("2"), 5)
        assert course is not None
        assert course.reason == 'A: envoy-0 refuses Cluster "A": no such thing'
        assert await clients["envoy-1"].is_quiet()
        assert plane.revision == "1"
        assert plane.status().kept_back == (), "what was taken back is kept back from nobody"


async def test_what_was_refused_before_is_not_held_against_a_change() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1, "B": 1}), revision="1")
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A", "B")
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 1, "B": 2}), revision="2")
        await client.answer(await client.hear(ack=False), error="no such thing")
        await until("it is kept back", plane.quarantine.all)
        await plane.set_snapshot(state(CDS={"A": 3, "B": 2}), revision="3", canary="1")
        try_on(plane)
        assert refusals(plane) == ()


async def test_the_services_are_in_the_cohort() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(Snapshot.of([made.policy("p", "1"), plain("CDS", "A", 1)]), revision="1")
    service = base_pb2.Node(id="authz", user_agent_name="causeway")
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_ADS, node=service) as authz,
        connected(port, Variant.DELTA_EACH) as envoy,
    ):
        await authz.ask("ECDS", "p")
        await authz.hear()
        await envoy.ask("CDS", "A")
        await envoy.hear()
        changed = Snapshot.of([made.policy("p", "2"), plain("CDS", "A", 1)])
        await plane.set_snapshot(changed, revision="2", canary="1")
        try_on(plane)
        assert names(await authz.hear()) == ["p"]


async def test_another_change_ends_the_canary() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A")
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 2}), canary="1")
        try_on(plane)
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 3}))
        await client.hear()
        assert plane.trial is None
        await asyncio.wait_for(until("settled", lambda: all(s.stream.is_settled for s in plane.sessions)), 2)
