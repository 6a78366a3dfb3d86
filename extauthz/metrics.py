"""Numbers about decisions, counted in plain integers and handed to Prometheus when it asks.

prometheus-client's own counters take a lock and a dictionary look-up each; a decision is made thousands of times a
second and a scrape happens every few seconds, so the work is put where it is rare.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BUCKETS_S: Final = (0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What is read off the service when somebody asks."""

    cache_entries: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    revocations: int
    jwks_age_s: tuple[tuple[str, float], ...]
    jwks_fetches: tuple[tuple[str, int], ...]


class Metrics(Collector):
    """Decisions by policy and reason, their latency, the cache, the keys' age."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges
        self._decisions: dict[tuple[str, str], int] = {}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def decided(self, policy: str, reason: str, seconds: float) -> None:
        place = (policy, reason)
        self._decisions[place] = self._decisions.get(place, 0) + 1
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterable[Metric]:
        decisions = CounterMetricFamily(
            "causeway_extauthz_decisions", "Decisions, by policy and reason.", labels=("policy", "reason")
        )
        for place, count in sorted(self._decisions.items()):
            decisions.add_metric(place, count)
        yield decisions
        latency = HistogramMetricFamily("causeway_extauthz_check_seconds", "Time to decide.")
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        latency.add_metric([], buckets, self._seconds)
        yield latency
        gauges = self._gauges()
        yield GaugeMetricFamily("causeway_extauthz_cache_entries", "Credentials held.", gauges.cache_entries)
        yield GaugeMetricFamily("causeway_extauthz_cache_bytes", "Memory of the cache, estimated.", gauges.cache_bytes)
        yield CounterMetricFamily("causeway_extauthz_cache_hits", "Credentials found verified.", gauges.cache_hits)
        yield CounterMetricFamily("causeway_extauthz_cache_misses", "Credentials verified anew.", gauges.cache_misses)
        yield GaugeMetricFamily("causeway_extauthz_revocations", "Revocations in force.", gauges.revocations)
        age = GaugeMetricFamily("causeway_extauthz_jwks_age_seconds", "Age of an issuer's keys.", labels=("issuer",))
        for issuer, seconds in gauges.jwks_age_s:
            age.add_metric((issuer,), seconds)
        yield age
        fetches = CounterMetricFamily(
            "causeway_extauthz_jwks_fetches", "Fetches of an issuer's keys.", labels=("issuer",)
        )
        for issuer, count in gauges.jwks_fetches:
            fetches.add_metric((issuer,), count)
        yield fetches
