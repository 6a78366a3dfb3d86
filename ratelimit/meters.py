"""What the service counts, with a bounded number of time series whatever callers send.

Plain integers on the hot path; a Prometheus collector reads them when asked. Labels come from configuration, except
the reference service's detailed metrics, whose labels hold values of requests: beyond `MOST_LABELS` they are counted
together under `other`. Who is refused most is kept by a sketch of fixed size, not by a label per caller.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ratelimit.core.budget import Code, Take, Taken
from ratelimit.core.rule import Planned, Rule

MOST_LABELS = 2_000
OTHER = "other"
REMEMBERED_REFUSALS = 500
NEAR_LIMIT = 0.8
_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Refusal(NamedTuple):
    """One refused descriptor."""

    at_us: float
    limit: str
    route: str
    key: bytes
    code: Code
    wait_us: int
    is_shadow: bool


class Offenders:
    """Who was refused most: the Space-Saving sketch. A count is at most `error` too high, never too low."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._counts: dict[tuple[str, bytes], list[int]] = {}

    def add(self, limit: str, key: bytes) -> None:
        who = (limit, key)
        found = self._counts.get(who)
        if found is not None:
            found[0] += 1
        elif len(self._counts) < self._most:
            self._counts[who] = [1, 0]
        else:
            least = min(self._counts, key=lambda each: self._counts[each][0])
            count = self._counts.pop(least)[0]
            self._counts[who] = [count + 1, count]

    def top(self, most: int = 10) -> list[tuple[str, bytes, int, int]]:
        """Limit, key, count and error, the highest count first."""
        rows = sorted(self._counts.items(), key=lambda row: -row[1][0])[:most]
        return [(limit, key, count, error) for (limit, key), (count, error) in rows]


class Histogram:
    """Durations in fixed buckets."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, help_text: str) -> HistogramMetricFamily:
        total, buckets = 0, []
        for bound, count in zip([*map(str, _BOUNDS_S), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=self._sum)


@dataclass(slots=True)
class _Hits:
    """Hits of one label: all, by outcome, and near the limit."""

    total: int = 0
    ok: int = 0
    over: int = 0
    blocked: int = 0
    shadowed: int = 0
    near: int = 0


@dataclass(slots=True, eq=False)
class Meters(Collector):
    """All counts of a process. Also the store's observer. `tags` are added to the reference service's metrics."""

    tags: Mapping[str, str] = field(default_factory=dict)
    limits: dict[tuple[bool, str], _Hits] = field(default_factory=dict)
    exceeded: dict[tuple[str, str], int] = field(default_factory=dict)
    offenders: Offenders = field(default_factory=Offenders)
    refusals: deque[Refusal] = field(default_factory=lambda: deque(maxlen=REMEMBERED_REFUSALS))
    store_seconds: Histogram = field(default_factory=Histogram)
    store_takes: int = 0
    store_failures: dict[str, int] = field(default_factory=dict)
    decided_without_store: dict[tuple[str, str], int] = field(default_factory=dict)
    is_breaker_open: bool = False
    breaker_openings: int = 0
    requests: int = 0
    seconds: Histogram = field(default_factory=Histogram)
    request_errors: int = 0
    store_errors: int = 0
    unknown_limits: int = 0
    config_loads: int = 0
    config_failures: int = 0
    global_shadows: int = 0
    counters: int = 0

    def decided(self, planned: Sequence[Planned], taken: Sequence[Taken]) -> None:
        """Counts the outcome of a request's takes."""
        answers = iter(taken)
        for each in planned:
            if each.take is not None and each.rule is not None:
                self._count(each.rule, each.take, each.route, next(answers))

    def refused(self, violated: Iterable[tuple[Planned, Taken]], now_us: float, *, is_shadowed: bool = False) -> None:
        """Remembers who was refused, and why."""
        self.global_shadows += is_shadowed
        for (rule, take, route), taken in violated:
            if rule is None or take is None:
                continue
            self.refusals.append(Refusal(now_us, rule.name, route, take.key, taken.code, taken.wait_us, rule.is_shadow))
            if not rule.is_shadow and not is_shadowed:
                self.offenders.add(rule.name, take.key)
                label = (rule.name, "" if rule.is_reference else route)
                if label not in self.exceeded and len(self.exceeded) >= MOST_LABELS:
                    label = (OTHER, OTHER)
                self.exceeded[label] = self.exceeded.get(label, 0) + 1

    def _count(self, rule: Rule, take: Take, route: str, taken: Taken) -> None:
        label = (rule.is_reference, route if rule.is_reference else rule.label)
        hits = self.limits.get(label)
        if hits is None:
            if len(self.limits) >= MOST_LABELS:
                label = (rule.is_reference, OTHER)
            hits = self.limits.setdefault(label, _Hits())
        amount = max(take.hits, 0)
        hits.total += amount
        if taken.code is Code.OK:
            hits.ok += amount
            if rule.is_reference:
                used = rule.budget.requests - taken.remaining
                hits.near += max(0, min(amount, used - int(rule.budget.requests * NEAR_LIMIT)))
            return
        if taken.code is Code.OVER:
            hits.over += amount
        else:
            hits.blocked += amount
        if rule.is_shadow:
            hits.shadowed += amount

    # The store's observer

    def store_answered(self, seconds: float, takes: int) -> None:
        self.store_seconds.add(seconds)
        self.store_takes += takes

    def store_failed(self, reason: str) -> None:
        self.store_failures[reason] = self.store_failures.get(reason, 0) + 1

    def breaker_changed(self, *, is_open: bool) -> None:
        self.is_breaker_open = is_open
        self.breaker_openings += is_open

    def without_store(self, rule: Rule) -> None:
        """Counts a decision that a limit made while the store was away."""
        label = (rule.label if not rule.is_reference else "", rule.on_store_error.value)
        self.decided_without_store[label] = self.decided_without_store.get(label, 0) + 1

    # Prometheus

    def collect(self) -> Iterable[Metric]:
        """Everything, as Prometheus reads it."""
        exceeded = CounterMetricFamily(
            "gateway_rate_limit_exceeded", "Requests refused by a limit.", labels=["limit", "route"]
        )
        for (limit, route), count in self.exceeded.items():
            exceeded.add_metric([limit, route], count)
        decisions = CounterMetricFamily(
            "gateway_rate_limit_hits", "Hits asked of a limit, by outcome.", labels=["limit", "outcome"]
        )
        for (is_reference, limit), hits in self.limits.items():
            if not is_reference:
                outcomes = {"ok": hits.ok, "over": hits.over, "blocked": hits.blocked, "shadowed": hits.shadowed}
                for outcome, count in outcomes.items():
                    decisions.add_metric([limit, outcome], count)
        away = CounterMetricFamily(
            "gateway_rate_limit_without_store",
            "Decisions made while the store was away, by what the limit declares.",
            labels=["limit", "on_store_error"],
        )
        for (limit, declared), count in self.decided_without_store.items():
            away.add_metric([limit, declared], count)
        failures = CounterMetricFamily("gateway_rate_limit_store_failures", "Failed calls.", labels=["reason"])
        for reason, count in self.store_failures.items():
            failures.add_metric([reason], count)
        yield from (exceeded, decisions, away, failures)
        yield self.store_seconds.family("gateway_rate_limit_store_seconds", "Duration of a call to the store.")
        yield CounterMetricFamily("gateway_rate_limit_store_takes", "Decisions by the store.", value=self.store_takes)
        yield GaugeMetricFamily(
            "gateway_rate_limit_breaker_open", "1 while the store is not asked.", value=self.is_breaker_open
        )
        yield CounterMetricFamily(
            "gateway_rate_limit_breaker_openings", "Times the breaker opened.", value=self.breaker_openings
        )
        yield GaugeMetricFamily("gateway_rate_limit_counters", "Counters in memory.", value=self.counters)
        yield CounterMetricFamily(
            "gateway_rate_limit_unknown",
            "Descriptors naming a limit that is not configured.",
            value=self.unknown_limits,
        )
        yield from self._reference()

    def _reference(self) -> Iterable[Metric]:
        """The reference service's metrics under its names."""
        hits_of = {"total_hits": "total", "over_limit": "over", "near_limit": "near", "within_limit": "ok"}
        hits_of["shadow_mode"] = "shadowed"
        for name, attribute in hits_of.items():
            labels = ["domain", "key1", "key2", *self.tags]
            family = CounterMetricFamily(f"ratelimit_service_rate_limit_{name}", "Hits of a descriptor.", labels=labels)
            for (is_reference, label), hits in self.limits.items():
                if is_reference:
                    domain, _, keys = label.partition(".")
                    first, _, rest = keys.partition(".")
                    family.add_metric([domain, first, rest, *self.tags.values()], getattr(hits, attribute))
            # The reference exports counters without the suffix that OpenMetrics asks for.
            family.samples = [sample._replace(name=family.name) for sample in family.samples]
            family.type = "unknown"
            yield family
        errors = CounterMetricFamily(
            "ratelimit_service_should_rate_limit_error", "Failed calls, by cause.", labels=["err_type"]
        )
        errors.add_metric(["service_error"], self.request_errors)
        errors.add_metric(["redis_error"], self.store_errors)
        requests = CounterMetricFamily("ratelimit_service_requests", "Calls answered.", labels=["grpc_method"])
        requests.add_metric(["ShouldRateLimit"], self.requests)
        yield from (errors, requests)
        yield CounterMetricFamily(
            "ratelimit_service_global_shadow_mode", "Refusals that were none.", value=self.global_shadows
        )
        yield self.seconds.family("ratelimit_service_response_time_seconds", "Time to decide a call.")
        for name, count in (("success", self.config_loads), ("error", self.config_failures)):
            loads = CounterMetricFamily(
                f"ratelimit_service_config_load_{name}", f"Configurations, {name}.", labels=list(self.tags)
            )
            loads.add_metric(list(self.tags.values()), count)
            yield loads
