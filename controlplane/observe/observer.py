"""Asks Envoy about its endpoints once a second and keeps the circuits; logs and counts their changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import structlog
from prometheus_client import Counter, Gauge

from controlplane.observe.circuits import Circuit, Circuits, State
from controlplane.observe.envoy_admin import EnvoyAdmin
from serving.address import Address

_log = structlog.get_logger("controlplane.observe")
_STATE = Gauge("gateway_circuit_breaker_state", "0 closed, 1 half open, 2 open", ["service"])
_CHANGES = Counter("gateway_circuit_breaker_changes_total", "Changes of state", ["service", "state"])
INTERVAL_S = 1.0


class Observer:
    """The circuits as the first Envoy that answers sees them."""

    def __init__(self, addresses: tuple[Address, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.circuits: tuple[Circuit, ...] = ()
        self.open_for_s: Mapping[str, float] = {}
        """How long each service's circuit stays open: from the manifests, set on each change."""
        self.critical: tuple[str, ...] = ()
        """The services without which the gateway is not ready: from the manifests too."""
        self.on_look: Callable[[], Awaitable[None]] | None = None
        """Called after each look at Envoy."""
        self._admins = tuple(map(EnvoyAdmin, addresses))
        self._circuits = Circuits()
        self._clock = clock

    async def run(self) -> None:
        """Never returns."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(INTERVAL_S)
        finally:
            for admin in self._admins:
                await admin.close()

    def problem(self) -> str | None:
        """Why the gateway is not ready: a critical service has no endpoint that takes requests.

        What no Envoy has told of is not known to be missing: Envoy itself may be waiting for the control plane.
        """
        missing = [one.service for one in self.circuits if one.service in self.critical and not one.available]
        return f"no healthy endpoint: {', '.join(missing)}" if missing else None

    async def _look(self) -> None:
        for admin in self._admins:
            try:
                seen = await admin.clusters()
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
                continue
            self.circuits, changes = self._circuits.observe(seen, self.open_for_s, self._clock())
            for change in changes:
                level = _log.warning if change.after is State.OPEN else _log.info
                level("circuit", service=change.service, before=change.before.name, after=change.after.name)
                _CHANGES.labels(service=change.service, state=change.after.name).inc()
            for circuit in self.circuits:
                _STATE.labels(service=circuit.service).set(circuit.state.value)
            if self.on_look is not None:
                await self.on_look()
            return


def as_json(circuit: Circuit) -> dict[str, object]:
    """A circuit for `/status`."""
    return {
        "name": circuit.service,
        "health": f"{circuit.available}/{len(circuit.endpoints)} endpoints",
        "circuit": {
            "state": circuit.state.name,
            "since_s": round(circuit.since_s, 1),
            "retest_in_s": None if circuit.until_retest_s is None else round(circuit.until_retest_s, 1),
        },
        "endpoints": [
            {
                "address": endpoint.address,
                "is_available": endpoint.is_available,
                "is_ejected": endpoint.is_ejected,
                "is_failing_checks": endpoint.is_failing_checks,
                "active_requests": endpoint.active_requests,
            }
            for endpoint in circuit.endpoints
        ],
    }
