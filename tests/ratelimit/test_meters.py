"""What is counted stays bounded whatever callers send."""

from __future__ import annotations

import random
from collections import Counter

from prometheus_client import CollectorRegistry, generate_latest

from ratelimit.core.budget import Code
from ratelimit.meters import MOST_LABELS, OTHER, REMEMBERED_REFUSALS, Meters, Offenders
from ratelimit.store.memory import MemoryStore
from tests.ratelimit.clock import Clock
from tests.ratelimit.conftest import Served
from tests.ratelimit.requests import descriptor, limited


def served() -> Served:
    clock = Clock()
    return Served(MemoryStore(clock), clock)


def exposed(meters: Meters) -> str:
    registry = CollectorRegistry()
    registry.register(meters)
    return generate_latest(registry).decode()


async def test_values_of_requests_make_no_more_labels_than_the_bound() -> None:
    one = served()
    one.use_yaml(
        "domain: d\ndescriptors: [{key: k, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 0}}]"
    )

    for i in range(MOST_LABELS + 500):
        await one.ask("d", descriptor(("k", str(i))))

    assert len(one.meters.limits) <= MOST_LABELS + 1
    assert one.meters.limits[True, OTHER].total == 500
    assert sum(hits.total for hits in one.meters.limits.values()) == MOST_LABELS + 500
    assert len(one.meters.exceeded) <= MOST_LABELS + 1
    assert len(one.meters.refusals) == REMEMBERED_REFUSALS


async def test_thousands_of_callers_make_no_new_series() -> None:
    one = served()
    one.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": {"requests": 1, "window_ms": 60_000}}})
    for _ in range(2):
        await one.ask("causeway", limited("l", ("ip", "1.1.1.1")))
    before = exposed(one.meters).count("\n")

    for i in range(2_000):
        await one.ask("causeway", limited("l", ("ip", f"1.1.{i >> 8}.{i & 255}")))

    assert exposed(one.meters).count("\n") == before


def test_the_sketch_finds_the_worst_among_many() -> None:
    dice, sketch, truth = random.Random(5), Offenders(most=50), Counter[bytes]()
    for _ in range(20_000):
        key = b"%d" % (dice.randrange(5) if dice.random() < 0.5 else dice.randrange(10_000))
        sketch.add("l", key)
        truth[key] += 1

    found = sketch.top(5)

    assert {key for _, key, _, _ in found} == {key for key, _ in truth.most_common(5)}
    assert all(truth[key] <= count <= truth[key] + error for _, key, count, error in found)


async def test_outcomes_are_told_by_limit() -> None:
    one = served()
    quota = {"requests": 1, "window_ms": 60_000}
    one.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": quota, "block": {"for_ms": 1000}}})
    for _ in range(3):
        await one.ask("causeway", limited("l", ("ip", "1.1.1.1"), ("route", "r")))

    text = exposed(one.meters)

    assert 'gateway_rate_limit_hits_total{limit="l",outcome="ok"} 1.0' in text
    assert 'gateway_rate_limit_hits_total{limit="l",outcome="blocked"} 2.0' in text
    assert 'gateway_rate_limit_exceeded_total{limit="l",route="r"} 2.0' in text
    assert [refusal.code for refusal in one.meters.refusals] == [Code.NOW_BLOCKED, Code.BLOCKED]


async def test_hits_near_the_limit_are_counted_as_the_reference_does() -> None:
    one = served()
    one.use_yaml("domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 10}}]")
    for _ in range(11):
        await one.ask("d", descriptor(("k", "v")))

    hits = one.meters.limits[True, "d.k"]

    assert (hits.total, hits.ok, hits.near, hits.over) == (11, 10, 2, 1)
