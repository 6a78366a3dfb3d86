"""The gateway is ready only while its critical services are: what a load balancer in front of it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import client
from tests.support.behaviour import Answer
from tests.support.client import Address
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


def manifest(origins: Callable[..., Origin]) -> dict[str, Any]:
    check = {"path": "/health", "interval": "100ms", "timeout": "90ms", "unhealthy_after": 1, "healthy_after": 1}

    def service(name: str, **more: Any) -> dict[str, Any]:
        return {"endpoints": [origins(name).address], "health_check": check, **more}

    return {
        "services": {"orders": service("orders", critical=True), "extras": service("extras")},
        "routes": [
            {"path": "/orders", "service": "orders", "auth": "public"},
            {"path": "/extras", "service": "extras", "auth": "public"},
        ],
    }


async def ready(gateway: Gateway) -> tuple[int, str]:
    answer = await client.request(
        Address(path=f"{gateway.folder}/serve-admin.sock"), "GET", "/health/ready", host="localhost"
    )
    return answer.status, answer.json()["checks"]["critical services"]


async def seen_healthy(gateway: Gateway, name: str) -> str | None:
    services = {one["name"]: one["health"] for one in (await gateway.status())["services"]}
    return services.get(name)


async def test_without_a_critical_service_the_gateway_is_not_ready(
    gateway: Gateway, origins: Callable[..., Origin]
) -> None:
    orders = origins("orders")
    await gateway.apply(manifest(origins))
    await until("both services healthy", lambda: _both(gateway, "1/1 endpoints"))
    assert await ready(gateway) == (200, "ok")

    orders.on("/health", Answer(status=503))
    await until("not ready", lambda: _is(gateway, (503, "no healthy endpoint: orders")))
    refused = await gateway.request("GET", "/orders")
    assert (refused.status, refused.json()["code"]) == (503, "no_healthy_endpoint")

    orders.forget()
    await until("ready again", lambda: _is(gateway, (200, "ok")))


async def test_other_services_are_no_condition(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    extras = origins("extras")
    await gateway.apply(manifest(origins))
    extras.on("/health", Answer(status=503))
    await until("the other service out", lambda: _is_seen(gateway, "extras", "0/1 endpoints"))
    assert await ready(gateway) == (200, "ok")
    extras.forget()


async def test_an_edit_says_anew_which_are_critical(gateway: Gateway, origins: Callable[..., Origin]) -> None:
    extras = origins("extras")
    extras.on("/health", Answer(status=503))
    changed = manifest(origins)
    await gateway.apply(changed)
    await until("the other service out", lambda: _is_seen(gateway, "extras", "0/1 endpoints"))
    changed["services"]["extras"]["critical"] = True
    await gateway.apply(changed)
    await until("not ready", lambda: _is(gateway, (503, "no healthy endpoint: extras")))
    extras.forget()


async def _is(gateway: Gateway, expected: tuple[int, str]) -> bool:
    return await ready(gateway) == expected


async def _is_seen(gateway: Gateway, name: str, expected: str) -> bool:
    return await seen_healthy(gateway, name) == expected


async def _both(gateway: Gateway, expected: str) -> bool:
    return await _is_seen(gateway, "orders", expected) and await _is_seen(gateway, "extras", expected)
