"""A control plane that starts again, however it ended, tells nobody what they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.protocol import PROTOCOLS, speaks
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


@pytest.fixture
def gateway(run_folder: Path) -> Iterator[Gateway]:
    one = Gateway(run_folder)
    yield one
    one.stop()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_restart_without_changes_sends_nothing_again(gateway: Gateway, origin: Origin, protocol: str) -> None:
    speaks(gateway, protocol)
    await gateway.apply(
        {
            "services": {"a": {"endpoints": [origin.address]}},
            "routes": [{"path": "/", "service": "a", "auth": "public"}],
        }
    )
    before = await told(gateway)
    gateway.control_plane.kill()
    gateway.control_plane.start()
    await back(gateway)
    after = await told(gateway)
    assert {name: count for name, count in after.items() if count != before[name]}.keys() <= ANSWERED[protocol]
    reloads = await gateway.envoy.stats(RELOADS)
    assert sum(reloads.values()) == 3, f"of clusters, listeners and routes, at the start: {reloads}"
    (envoy,) = [one for one in (await gateway.tell("GET", "/clients"))["clients"] if one["agent"] == "envoy"]
    assert envoy["responses"] == 2


RELOADS = r"(config_reload|listener_added|listener_modified)$"
# What the protocol demands an answer to. Incrementally the first request for everything, though the answer is empty; in
# the state of the world requests by name, since the server cannot know that they are the names of before.
ANSWERED = {
    "DELTA_GRPC": {"cluster_manager.cds.update_success", "listener_manager.lds.update_success"},
    "GRPC": {
        *(f"cluster.{name}.update_success" for name in ("causeway.extauthz", "causeway.ratelimit", "service/a")),
        "rds.update_success",
    },
}


async def told(gateway: Gateway) -> dict[str, int]:
    """How often Envoy was told something, by what it was about."""
    counted = await gateway.envoy.stats("(update_success|update_rejected)$")
    return {re.sub(r"^http.*rds\..*\.(\w+)$", r"rds.\1", name): count for name, count in counted.items()}


async def back(gateway: Gateway) -> None:
    """Envoy is connected, and has accepted everything."""

    async def is_there() -> bool:
        clients = (await gateway.tell("GET", "/clients"))["clients"]
        return any(one["agent"] == "envoy" and one["verdict"] == "synced" for one in clients)

    await until("Envoy back", is_there, within_s=40)
