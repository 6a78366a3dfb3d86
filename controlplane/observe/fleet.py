"""Every Envoy whose admin interface is known: whether it answers, and what it answered to its clients lately.

An Envoy that is stopped keeps its connections and says nothing: only asking it tells. What it answered a while ago is
what a canary is compared with.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import aiohttp

from controlplane.observe.envoy_admin import EnvoyAdmin
from controlplane.observe.rates import STATS, Requests, counters
from serving.address import Address

INTERVAL_S = 1.0
FROZEN_AFTER_S = 2.5
MEASURE_EVERY = 5
REMEMBERED = 12
"""Readings: a minute of them."""


@dataclass(slots=True, kw_only=True)
class _Known:
    admin: EnvoyAdmin
    node_id: str = ""
    answered_at: float | None = None
    asked_at: float = 0.0
    """Since when an answer is missing."""
    readings: deque[Requests] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Fleet:
    """Asks each Envoy once a second; reads its counters as well while somebody may need a comparison."""

    def __init__(
        self, addresses: tuple[Address, ...], *, is_measuring: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._known = [_Known(admin=EnvoyAdmin(address)) for address in addresses]
        self._is_measuring = is_measuring
        self._clock = clock

    async def run(self) -> None:
        """Never returns."""
        await asyncio.gather(*map(self._follow, self._known))

    async def now(self) -> Mapping[str, Requests]:
        """The counters of every Envoy that answers, by node id."""
        answers = await asyncio.gather(*map(self._measured, self._known))
        return {one.node_id: found for one, found in zip(self._known, answers, strict=True) if found is not None}

    def earlier(self) -> Mapping[str, Requests]:
        """The oldest counters that are remembered, up to a minute old."""
        return {one.node_id: one.readings[0] for one in self._known if one.readings}

    def forget(self) -> None:
        """What was answered until now is no measure of anything. From now on there are readings to compare with."""
        self._is_measuring = True
        for one in self._known:
            one.readings.clear()

    def frozen(self) -> Mapping[str, float]:
        """Envoys that answered once and do not now, with the seconds since then."""
        now = self._clock()
        return {
            one.node_id: now - one.answered_at
            for one in self._known
            if one.answered_at is not None and one.asked_at > one.answered_at and now - one.answered_at > FROZEN_AFTER_S
        }

    async def _follow(self, one: _Known) -> None:
        try:
            for turn in count():
                is_due = turn % MEASURE_EVERY == 0 or not one.readings
                await self._look(one, measure=self._is_measuring and is_due)
                await asyncio.sleep(INTERVAL_S)
        finally:
            await one.admin.close()

    async def _look(self, one: _Known, *, measure: bool) -> None:
        one.asked_at = self._clock()
        try:
            server = await one.admin.get("/server_info")
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
            return
        node = server.get("node")
        node_id = str(node.get("id", "")) if isinstance(node, dict) else ""
        if node_id != one.node_id:
            one.readings.clear()
        one.node_id, one.answered_at = node_id, self._clock()
        if measure and (found := await self._measured(one)) is not None:
            if one.readings and found.completed < one.readings[-1].completed:
                one.readings.clear()  # it was started anew
            one.readings.append(found)

    async def _measured(self, one: _Known) -> Requests | None:
        try:
            if not one.node_id:
                await self._look(one, measure=False)
            return counters(await one.admin.get(STATS)) if one.node_id else None
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
            return None
