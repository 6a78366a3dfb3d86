"""The rate limit service gone, its store shared, its store gone: what clients get."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_limits import ask_service, from_, manifest, statuses
from tests.ratelimit.requests import OK, limited, request, response
from tests.ratelimit.test_server import METHOD, Running
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.redis import Redis
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


@pytest.fixture(scope="module")
def store(run_folder: Path) -> Iterator[Redis]:
    redis = Redis(run_folder, name="limits-redis").start()
    yield redis
    redis.stop()


@pytest.fixture(scope="module")
def gateway(run_folder: Path, store: Redis) -> Iterator[Gateway]:
    """A gateway whose limits are in Redis."""
    one = Gateway(run_folder, flags={"ratelimit": ("--redis", store.url)})
    yield one
    one.stop()


@pytest.fixture
async def second(gateway: Gateway, store: Redis, origin: Origin) -> AsyncIterator[Running]:
    """Another replica of the rate limit service, on the same control plane and the same Redis."""
    await gateway.apply(modes(origin))
    folder = gateway.folder / uuid.uuid4().hex[:8]
    await asyncio.to_thread(folder.mkdir)
    one = await Running(folder, "--xds", f"unix:{gateway.folder}/xds.sock", "--redis", store.url).start()
    yield one
    await one.channel.close()
    one.process.stop()


def modes(origin: Origin, rate: str = "2/hour") -> dict[str, Any]:
    names = ("allow", "deny", "local")
    limits = {name: {"rate": rate, "by": "ip", "on_store_error": name} for name in names}
    routes = [{"path": f"/{name}", "limits": [name], "auth": "public"} for name in names]
    return manifest(origin, limits, *routes)


async def test_replicas_share_what_is_counted(gateway: Gateway, origin: Origin, second: Running) -> None:
    who = from_("198.51.100.201")
    await until("the second replica knowing the limits", lambda: _knows(second))

    assert await statuses(gateway, "/deny", who) == [200]
    asked = request("causeway", limited("deny", ("ip", "198.51.100.201")))
    answered = response(await second.channel.unary_unary(METHOD)(asked, timeout=5))
    assert (answered.overall_code, answered.statuses[0].limit_remaining) == (OK, 0)
    assert await statuses(gateway, "/deny", who) == [429]


async def _knows(second: Running) -> bool:
    return "deny" in (await second.http("GET", "/limits")).json()["limits"]


async def test_the_store_gone_each_limit_does_what_it_declares(gateway: Gateway, origin: Origin, store: Redis) -> None:
    await gateway.apply(modes(origin))
    store.stop()
    who = from_("198.51.100.202")

    assert await statuses(gateway, "/allow", *[who] * 4) == [200] * 4
    assert await statuses(gateway, "/deny", *[who] * 2) == [429] * 2
    assert 429 in await statuses(gateway, "/local", *[who] * 3)
    assert not (await ask_service(gateway, "GET", "/limits"))["store"]["answers"]

    store.start()

    async def answers() -> bool:
        return bool((await ask_service(gateway, "GET", "/limits"))["store"]["answers"])

    await until("the store being asked again", answers, within_s=3)
    assert await statuses(gateway, "/deny", *[who] * 3) == [200, 200, 429]


async def test_the_service_gone_a_limit_that_must_hold_refuses(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(modes(origin))
    who = from_("198.51.100.203")
    gateway.services["ratelimit"].kill()

    refused = await gateway.request("GET", "/deny", headers=who)
    assert (refused.status, refused.json()["code"]) == (503, "rate_limit_unavailable")
    assert await statuses(gateway, "/allow", *[who] * 4) == [200] * 4

    gateway.services["ratelimit"].start()

    async def counts() -> bool:
        return (await gateway.request("GET", "/deny", headers=who)).status == 200

    await until("the limit counting again", counts)


async def test_a_restart_keeps_the_limits_without_the_control_plane(gateway: Gateway, origin: Origin) -> None:
    """The last known good is on disk."""
    await gateway.apply(modes(origin))
    gateway.control_plane.kill()
    gateway.services["ratelimit"].stop()
    gateway.services["ratelimit"].start()

    async def knows() -> bool:
        try:
            return "deny" in (await ask_service(gateway, "GET", "/limits"))["limits"]
        except OSError:
            return False

    await until("the limits from disk", knows)
    await gateway.apply(modes(origin))
