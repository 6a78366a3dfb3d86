"""`causeway apply` against the whole gateway: done means done, some first, nothing lost when the control plane dies."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.behaviour import Answer
from tests.support.gateway import Gateway, causeway
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


@pytest.fixture
def gateway(run_folder: Path) -> Iterator[Gateway]:
    one = Gateway(run_folder, flags={"serve": ("--watch", "no")})
    yield one
    one.stop()


def manifest(origin: Origin, **routes: str) -> dict[str, Any]:
    return {
        "services": {"one": {"endpoints": [origin.address]}},
        "routes": [{"path": f"/{name}", "service": service, "auth": "public"} for name, service in routes.items()],
    }


async def apply(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await run(gateway, "apply", *arguments)


async def run(gateway: Gateway, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = causeway(verb, "--admin", f"unix:{gateway.folder}/serve-admin.sock", *arguments)
    return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=60)


async def envoy_is_back(gateway: Gateway) -> None:
    """Envoy is connected and has everything; the services come when their wait is over."""

    async def is_synced() -> bool:
        clients = (await gateway.tell("GET", "/clients"))["clients"]
        return any(one["agent"] == "envoy" and one["verdict"] == "synced" for one in clients)

    await until("Envoy back and synced", is_synced, within_s=40)


async def test_apply(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    """One gateway, one story: the start of three processes is what costs."""
    origin = origins("one")
    await gateway.apply(manifest(origin, a="one"))

    # Done means done: the first request after it is answered by the new route, every time.
    for number in range(5):
        gateway.write(manifest(origin, a="one", **{f"new{number}": "one"}))
        done = await apply(gateway, "--wait", "--timeout", "20")
        assert done.returncode == 0, done.stderr
        assert "live on 3 clients" in done.stdout
        assert re.search(r"^  envoy-under-test +[0-9.]+ ms$", done.stdout, re.M), "each client with how long it took"
        assert (await gateway.request("GET", f"/new{number}")).status == 200

    # A broken manifest changes nothing, and says where it is broken.
    gateway.write(manifest(origin, a="nowhere"))
    refused = await apply(gateway, "--wait")
    assert refused.returncode == 1
    assert "00.yaml" in refused.stderr
    assert (await gateway.request("GET", "/a")).status == 200

    # Emptied, it is held until confirmed.
    many = {f"r{number}": "one" for number in range(8)}
    gateway.write(manifest(origin, **many))
    assert (await apply(gateway, "--wait")).returncode == 0
    gateway.write(manifest(origin, r0="one"))
    held = await apply(gateway)
    assert held.returncode == 1
    assert "--confirm" in held.stderr
    assert (await gateway.request("GET", "/r7")).status == 200
    assert (await gateway.status())["held"]["removes"]
    confirmed = await apply(gateway, "--confirm", "--wait")
    assert confirmed.returncode == 0, confirmed.stderr
    assert (await gateway.request("GET", "/r7")).status == 404

    # A canary that answers errors is taken back; one that does well is served.
    failing = origins("failing")
    failing.always(Answer(status=503))
    broken = manifest(origin, r0="failing", added="one")
    gateway.write({**broken, "services": {**broken["services"], "failing": {"endpoints": [failing.address]}}})
    async with Load(gateway.address, ["/r0"], connections=1) as load:
        await load.more(20)
        bad = await apply(gateway, "--canary", "100%", "--watch", "2", "--json")
    verdict = json.loads(bad.stdout)
    assert verdict["outcome"] == "rolled back", verdict
    assert "requests fail" in verdict["reason"]
    assert bad.returncode == 1
    assert (await gateway.request("GET", "/added")).status == 404
    assert (await gateway.request("GET", "/r0")).status == 200
    gateway.write(manifest(origin, r0="one", added="one"))
    good = await apply(gateway, "--canary", "1", "--watch", "0.5", "--wait")
    assert good.returncode == 0, good.stderr
    assert (await gateway.request("GET", "/added")).status == 200

    # Killed and started again under load: no request is lost, and Envoy is told nothing it has.
    before = await gateway.envoy.stats("(config_reload|listener_modified|update_rejected)$")
    async with Load(gateway.address, ["/added"], connections=2) as load:
        await load.more(50)
        gateway.control_plane.kill()
        await load.more(50)
        gateway.control_plane.start()
        await envoy_is_back(gateway)
        await load.more(50)
    assert load.failures == {}
    assert await gateway.envoy.stats("(config_reload|listener_modified|update_rejected)$") == before

    # Killed as soon as done is said, and started again with manifests that cannot be used: what was said to be done is
    # served, and where it comes from is said.
    gateway.write(manifest(origin, r0="one", added="one", last="one"))
    assert (await gateway.tell("POST", "/apply", {}))["outcome"] == "served"
    await gateway.live()
    gateway.control_plane.kill()
    (gateway.manifests / "00.yaml").write_text("routes: [")
    gateway.control_plane.start()
    await envoy_is_back(gateway)
    status = await gateway.status()
    assert status["source"] == "last known good"
    assert status["problems"]
    assert (await gateway.request("GET", "/last")).status == 200

    # Where it cannot be kept, done is not said. (The state's folder is a file.)
    state = gateway.folder / "serve-state"
    state.rename(gateway.folder / "away")
    state.write_text("")
    gateway.write(manifest(origin, r0="one", added="one"))
    unkept = await apply(gateway, "--wait", "--confirm")
    assert unkept.returncode == 3
    assert "a restart would not serve it" in unkept.stderr
    shown = await run(gateway, "status")
    assert shown.returncode == 1
    assert "Not safe from a restart: the last known good cannot be kept" in shown.stdout
    state.unlink()
    await until("it is kept again", lambda: (state / "last-known-good").exists())
    assert (await run(gateway, "status")).returncode == 0


async def test_no_control_plane() -> None:
    argv = causeway("apply", "--admin", "unix:/nowhere/at/all.sock", "--wait")
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "no control plane answers" in done.stderr
