"""The service on each store, with a clock that is moved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from ratelimit.core.answer import Style
from ratelimit.core.limits import Limits
from ratelimit.core.reference import build
from ratelimit.meters import Meters
from ratelimit.policy import Policy
from ratelimit.service import RateLimitService
from ratelimit.store.connect import connect
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import RedisStore
from tests.ratelimit.clock import Clock
from tests.ratelimit.requests import request, response


class Served:
    """A service to ask. `ask` gives the parsed RateLimitResponse."""

    def __init__(self, store: MemoryStore | RedisStore, clock: Clock) -> None:
        self.clock = clock
        self.meters = Meters()
        self.store = store
        self.service = RateLimitService(store, self.meters, clock=clock)

    def styled(self, style: Style) -> None:
        self.service = RateLimitService(self.store, self.meters, style=style, clock=self.clock)

    def use_yaml(self, *texts: str) -> None:
        """The reference service's configuration, a text for each file."""
        self.service.use(config=build([(f"{i}.yaml", yaml.safe_load(text)) for i, text in enumerate(texts)]))

    def use(self, **policy: Any) -> None:
        """Our own limits."""
        self.service.use(limits=Limits(Policy.model_validate(policy)))

    async def ask(self, domain: str, *descriptors: Any, hits: int = 0) -> Any:
        return response(await self.service.decide(request(domain, *descriptors, hits=hits)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def served(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Served]:
    if request.param == "memory":
        yield Served(MemoryStore(clock), clock)
        return
    server = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    meters = Meters()
    store = RedisStore(connect(server.url).client, observer=meters, timeout_s=2.0, clock=clock)
    yield Served(store, clock)
    await store.close()
