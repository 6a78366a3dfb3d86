"""Some clients first: who they are, what they get, and when everybody does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from envoy.config.core.v3 import base_pb2

from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.canary import Requests, choose, judge
from controlplane.xds.controlplane import ControlPlane, Outcome
from tests.support.waiting import until
from tests.xds import made
from tests.xds.playbook import plain, state
from tests.xds.rows import Variant
from tests.xds.served import serving
from tests.xds.wire_client import connected, names


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


@pytest.mark.parametrize("size", ["0", "-1", "0%", "some", "10 %x", ""])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match=r"canary|expected"):
        choose(size, ["a"])


def steadily(*shares: float) -> Counting:
    return Counting(list(shares))


class Counting:
    """Counters that grow by a hundred requests each time they are asked, of which these shares fail."""

    def __init__(self, shares: list[float]) -> None:
        self._shares = shares
        self._completed = self._failed = 0

    async def __call__(self) -> Mapping[str, Requests]:
        share = self._shares.pop(0) if len(self._shares) > 1 else self._shares[0]
        self._completed += 100
        self._failed += int(100 * share)
        return {"a": Requests(completed=self._completed, failed=self._failed)}


COHORT = frozenset({"a"})


@pytest.mark.parametrize(
    ("counters", "is_good"),
    [
        pytest.param(steadily(0.0), True, id="no errors"),
        pytest.param(steadily(0.0, 0.0, 0.05), False, id="errors begin"),
        pytest.param(steadily(0.2), True, id="as many errors as before"),
        pytest.param(steadily(0.0, 0.0, 0.005), True, id="a rise too small to mean anything"),
    ],
)
async def test_error_rates_decide(counters: Counting, is_good: bool) -> None:
    judgement = await judge(COHORT, lambda: True, tuple, counters, watch_s=0.05)
    assert judgement.is_good == is_good, judgement.reason


async def test_a_refusal_decides_at_once() -> None:
    judgement = await judge(COHORT, lambda: False, lambda: ("a.yaml:1:1: no",), steadily(0.0), watch_s=5.0)
    assert not judgement.is_good
    assert judgement.reason == "a.yaml:1:1: no"


async def test_silence_decides_in_the_end() -> None:
    judgement = await judge(COHORT, lambda: False, tuple, steadily(0.0), watch_s=0.01, accept_s=0.05)
    assert not judgement.is_good
    assert "not accepted" in judgement.reason


async def test_the_cohort_gets_it_first_and_everybody_when_it_is_good() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    nodes = [base_pb2.Node(id=f"envoy-{number}", user_agent_name="envoy") for number in range(2)]
    (first,) = choose("1", [node.id for node in nodes])
    async with (
        serving(plane) as port,
        connected(port, Variant.DELTA_EACH, node=nodes[0]) as one,
        connected(port, Variant.DELTA_EACH, node=nodes[1]) as two,
    ):
        clients = {"envoy-0": one, "envoy-1": two}
        for client in clients.values():
            await client.ask("CDS", "A")
            await client.hear()
        cohort, other = clients[first], next(client for name, client in clients.items() if name != first)
        for is_good in (False, True):
            assert await plane.set_snapshot(state(CDS={"A": 2}), revision="2", canary="1") is Outcome.CANARY
            assert names(await cohort.hear()) == ["A"]
            assert await other.is_quiet()
            await until("accepted", plane.cohort_has_accepted)
            assert plane.status().canary is not None
            plane.end_trial(is_good=is_good)
            assert names(await (other if is_good else cohort).hear()) == ["A"]
            assert plane.revision == ("2" if is_good else "1")
        assert await cohort.is_quiet()


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
        assert names(await authz.hear()) == ["p"]


async def test_another_change_ends_the_canary() -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A")
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 2}), canary="1")
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 3}))
        await client.hear()
        assert plane.trial is None
        await asyncio.wait_for(until("settled", lambda: all(s.stream.is_settled for s in plane.sessions)), 2)
