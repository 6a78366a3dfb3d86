"""A service whose name server does not answer: the edit that adds it is live in seconds, and so is what comes after."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, causeway
from tests.support.origin import Origin
from tests.support.silence import silent_name_server

pytestmark = pytest.mark.gateway


@pytest.fixture
def gateway(run_folder: Path) -> Iterator[Gateway]:
    """Its Envoy starts as everybody's does, but asks a name server that is silent."""
    folder = run_folder / "silent"
    folder.mkdir()
    where = ("--xds", f"unix:{folder}/xds.sock", "--admin", f"unix:{folder}/envoy.sock")
    argv = causeway("bootstrap", *where, "--node-id", "envoy-under-test", "--format", "json")
    bootstrap = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    with silent_name_server() as port:
        resolver = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        bootstrap["typed_dns_resolver_config"]["typed_config"]["resolvers"] = [resolver]
        (folder / "bootstrap.json").write_text(json.dumps(bootstrap))
        one = Gateway(folder)
        yield one
        one.stop()


async def test_a_name_that_nobody_resolves_is_given_up_in_seconds(
    gateway: Gateway, origins: Callable[..., Origin]
) -> None:
    """With the resolver's own time-outs Envoy would not accept a cluster for minutes."""
    working = {"endpoints": [origins("one").address]}
    routes = [{"path": "/works", "service": "works", "auth": "public"}]
    await gateway.apply({"services": {"works": working}, "routes": routes})
    routes.append({"path": "/silent", "service": "silent", "auth": "public"})
    silent = {"endpoints": ["silent.test:80"], "retry": {"attempts": 0}}
    await gateway.apply({"services": {"works": working, "silent": silent}, "routes": routes}, within_s=30)
    assert (await gateway.request("GET", "/works")).status == 200
    response = await gateway.request("GET", "/silent")
    assert (response.status, response.json()["code"]) == (503, "no_healthy_endpoint")
