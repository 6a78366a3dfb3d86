"""`causeway status` against a running gateway: what an operator reads, and what a script gets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time

import pytest

from tests.support.behaviour import Answer
from tests.support.gateway import Gateway, causeway
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


async def status(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = causeway("status", "--admin", f"unix:{gateway.folder}/serve-admin.sock", *arguments)
    return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)


def manifest(origin: Origin) -> dict[str, object]:
    breaker = {"consecutive_failures": 2, "open_for": "60s"}
    return {
        "services": {"orders": {"endpoints": [origin.address], "circuit_breaker": breaker, "retry": {"attempts": 0}}},
        "routes": [{"path": "/**", "service": "orders", "auth": "public"}],
    }


async def test_routes_services_circuits_and_clients_are_shown(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin))

    async def with_services() -> subprocess.CompletedProcess[str] | None:
        """Envoy is asked about its services once a second."""
        shown = await status(gateway)
        return shown if "orders" in shown.stdout else None

    shown = await until("the services shown", with_services)
    assert shown is not None
    assert shown.returncode == 0, shown.stderr
    assert "1 route of" in shown.stdout
    for word in ("orders", "CLOSED", "envoy-under-test", "synced"):
        assert word in shown.stdout


async def test_an_open_circuit_is_shown_with_the_time_until_its_retest(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin))
    origin.always(Answer(status=500))
    for _ in range(3):
        await gateway.request("GET", "/")

    async def is_open() -> bool:
        services = json.loads((await status(gateway, "--json")).stdout)["services"]
        circuits = {one["name"]: one["circuit"] for one in services}
        circuit = circuits.get("orders", {"state": "not seen yet"})
        return circuit["state"] == "OPEN" and 0 < circuit["retest_in_s"] <= 60

    await until("the open circuit", is_open)


async def test_a_name_that_does_not_resolve_is_a_service_without_endpoints(gateway: Gateway) -> None:
    await gateway.apply(
        {
            "services": {"lost": {"endpoints": ["nowhere.invalid:80"]}},
            "routes": [{"path": "/**", "service": "lost", "auth": "public"}],
        }
    )
    refused = await gateway.request("GET", "/")
    assert (refused.status, refused.json()["code"]) == (503, "no_healthy_endpoint")
    assert "no name resolves" in refused.json()["message"]

    async def is_told() -> bool:
        services = json.loads((await status(gateway, "--json")).stdout)["services"]
        return {one["name"]: one["health"] for one in services} == {"lost": "0/0 endpoints"}

    await until("no endpoints shown", is_told)


async def test_an_edit_that_is_refused_is_shown_with_its_place_and_ends_with_1(
    gateway: Gateway, origin: Origin
) -> None:
    await gateway.apply(manifest(origin))
    gateway.write(manifest(origin), {"routes": [{"path": "/x", "service": "odrers", "auth": "public"}]})

    async def is_told() -> bool:
        shown = await status(gateway)
        return shown.returncode == 1 and "01.yaml:" in shown.stdout and 'did you mean "orders"?' in shown.stdout

    await until("the problem", is_told)


async def test_each_client_is_shown_with_what_it_has_type_by_type(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply(manifest(origin))
    line = next(one for one in (await status(gateway)).stdout.splitlines() if one.startswith("envoy-under-test"))
    assert re.search(r"envoy-under-test +gateway +envoy 1\.\d+\.\d+ +synced +[0-9.]+s +\w+ +0 +CDS (\d+)/\1 ", line), (
        line
    )
    assert re.search(r"LDS (\d+)/\1  RDS (\d+)/\2", line), line
    details = (await status(gateway, "--details")).stdout
    assert re.search(r"RouteConfiguration +ACKED +1 +1 +1 +0 +\w+ +[0-9.]+s", details), details
    clients = json.loads((await status(gateway, "--json")).stdout)["clients"]
    envoy = next(one for one in clients if one["id"] == "envoy-under-test")
    assert envoy["took_s"] is not None
    assert all(one["state"] == "ACKED" and one["acked_age_s"] >= 0 for one in envoy["types"])


async def test_a_frozen_envoy_is_flagged_within_five_seconds_and_well_when_it_goes_on(
    gateway: Gateway, origin: Origin
) -> None:
    await gateway.apply(manifest(origin))
    await until("it was asked at least once", lambda: has_services(gateway))
    os.kill(gateway.envoy.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        await until("it is flagged", lambda: has_verdict(gateway, "frozen"), within_s=10)
        assert time.monotonic() - began < 5
        shown = await status(gateway)
        assert shown.returncode == 1
        assert "envoy-under-test is frozen: connected, but no answer" in shown.stdout
    finally:
        os.kill(gateway.envoy.process.pid, signal.SIGCONT)
    await until("it is well", lambda: has_verdict(gateway, "synced"), within_s=10)


async def has_services(gateway: Gateway) -> bool:
    return bool((await gateway.status())["services"])


async def has_verdict(gateway: Gateway, verdict: str) -> bool:
    clients = (await gateway.status())["clients"]
    return any(one["id"] == "envoy-under-test" and one["verdict"] == verdict for one in clients)


async def test_where_no_control_plane_answers_it_is_said(tmp_path) -> None:
    argv = causeway("status", "--admin", f"unix:{tmp_path}/none.sock")
    shown = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert shown.returncode == 4
    assert "none.sock" in shown.stderr


@pytest.mark.parametrize("asked", ["soon", "-1", "nan"])
async def test_a_wait_of_no_number_of_seconds_is_refused_by_name(gateway: Gateway, asked: str) -> None:
    await gateway.apply({"routes": [{"path": "/x", "respond": {"status": 204}, "auth": "public"}]})
    answer = await gateway.tell("GET", f"/wait?timeout_s={asked}")
    assert answer == {"problems": [f"timeout_s: expected seconds, found '{asked}'"]}
