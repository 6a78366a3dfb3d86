"""The state of each service's circuit, from what Envoy says about its endpoints. Pure: observations and times in.

Envoy has no circuit of its own: it ejects an endpoint (outlier detection) and puts it back after a fixed time. Seen
as a circuit, a service is OPEN while every endpoint is ejected, HALF_OPEN from the moment one is back until a request
to it succeeded, and CLOSED otherwise. Envoy does not say when it ejected an endpoint; the first observation of the
ejection stands for it, so the time until the retest is right to within one interval between observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


class State(Enum):
    """A circuit's state. The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSeen:
    """One endpoint as one Envoy reports it. Counters count since Envoy started."""

    address: str
    is_ejected: bool
    is_failing_checks: bool = False
    is_overloaded: bool = False
    successes: int = 0
    errors: int = 0
    active_requests: int = 0

    @property
    def is_available(self) -> bool:
        """Whether Envoy would send it a request."""
        return not (self.is_ejected or self.is_failing_checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """A service's circuit. `until_retest_s` is None unless it is open."""

    service: str
    state: State
    since_s: float
    endpoints: tuple[EndpointSeen, ...]
    until_retest_s: float | None = None

    @property
    def available(self) -> int:
        """How many endpoints take requests."""
        return sum(endpoint.is_available for endpoint in self.endpoints)

    @property
    def is_troubled(self) -> bool:
        """Whether the service needs sparing: its circuit is not closed, half of it is out, or it has all it can do."""
        half_out = bool(self.endpoints) and self.available * 2 <= len(self.endpoints)
        return self.state is not State.CLOSED or half_out or any(each.is_overloaded for each in self.endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A circuit went from one state to another."""

    service: str
    before: State
    after: State


@dataclass(slots=True)
class _Memory:
    state: State = State.CLOSED
    since: float = 0.0
    ejected_at: dict[str, float] = field(default_factory=dict)
    successes_when_out: dict[str, int] = field(default_factory=dict)


class Circuits:
    """The circuits of every service on one Envoy."""

    def __init__(self) -> None:
        self._memory: dict[str, _Memory] = {}

    def observe(
        self, seen: Mapping[str, tuple[EndpointSeen, ...]], open_for_s: Mapping[str, float], now: float
    ) -> tuple[tuple[Circuit, ...], tuple[Change, ...]]:
        """Every circuit now, and what changed since the last call. `open_for_s` is how long a service's stays open."""
        circuits, changes = [], []
        for service in self._memory.keys() - seen.keys():
            del self._memory[service]
        for service, endpoints in sorted(seen.items()):
            memory = self._memory.setdefault(service, _Memory(since=now))
            before = memory.state
            state = _next(memory, endpoints, now)
            if state is not before:
                changes.append(Change(service=service, before=before, after=state))
                memory.state, memory.since = state, now
            circuit = Circuit(service=service, state=state, since_s=now - memory.since, endpoints=endpoints)
            if state is State.OPEN:
                first = min(memory.ejected_at.values())
                circuit = replace(circuit, until_retest_s=max(0.0, first + open_for_s.get(service, 30.0) - now))
            circuits.append(circuit)
        return tuple(circuits), tuple(changes)


def _next(memory: _Memory, endpoints: tuple[EndpointSeen, ...], now: float) -> State:
    for endpoint in endpoints:
        if endpoint.is_ejected:
            memory.ejected_at.setdefault(endpoint.address, now)
            memory.successes_when_out[endpoint.address] = endpoint.successes
        else:
            memory.ejected_at.pop(endpoint.address, None)
    present = {endpoint.address: endpoint for endpoint in endpoints}
    memory.ejected_at = {a: at for a, at in memory.ejected_at.items() if a in present}
    if endpoints and all(endpoint.is_ejected for endpoint in endpoints):
        return State.OPEN
    if memory.state is State.CLOSED:
        return State.CLOSED
    # An endpoint that was never out, or whose counters began anew with its cluster, is as good as a proven one.
    proven = any(
        endpoint.successes != memory.successes_when_out.get(endpoint.address)
        for endpoint in endpoints
        if not endpoint.is_ejected
    )
    if proven or not endpoints:
        memory.successes_when_out.clear()
        return State.CLOSED
    return State.HALF_OPEN
