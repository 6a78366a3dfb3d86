"""Reads Envoy's admin interface: the shell around `circuits`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from controlplane.ir.names import is_service, service_of
from controlplane.observe.circuits import EndpointSeen
from serving.address import Address, UnixAddress

_TIMEOUT = aiohttp.ClientTimeout(total=2)


class EnvoyAdmin:
    """One Envoy's admin interface, over TCP or a Unix socket."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None

    async def clusters(self) -> dict[str, tuple[EndpointSeen, ...]]:
        """The endpoints of every service. Raises OSError or aiohttp.ClientError when Envoy cannot be asked."""
        body = await self.get("/clusters?format=json")
        return services_of(body)

    async def get(self, path: str) -> Mapping[str, object]:
        """The JSON that the path answers. Raises OSError, aiohttp.ClientError, TimeoutError or ValueError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=_connector(self.address), timeout=_TIMEOUT)
        host = "envoy" if isinstance(self.address, UnixAddress) else str(self.address)
        async with self._session.get(f"http://{host}{path}") as response:
            response.raise_for_status()
            found: dict[str, object] = await response.json(content_type=None)
            return found

    async def close(self) -> None:
        """Lets go of the connection."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)


def _connector(address: Address) -> aiohttp.BaseConnector:
    return aiohttp.UnixConnector(str(address.path)) if isinstance(address, UnixAddress) else aiohttp.TCPConnector()


def services_of(clusters: Mapping[str, object]) -> dict[str, tuple[EndpointSeen, ...]]:
    """The services in the answer to `/clusters?format=json`, by name."""
    found = {}
    statuses = clusters.get("cluster_statuses", [])
    for status in statuses if isinstance(statuses, list) else []:
        name = str(status.get("name", ""))
        if is_service(name):
            found[service_of(name)] = tuple(map(_endpoint, status.get("host_statuses", [])))
    return found


def _endpoint(status: Mapping[str, dict[str, object]]) -> EndpointSeen:
    health = status.get("health_status", {})
    counters = {str(one.get("name")): int(str(one.get("value", 0))) for one in _stats(status)}
    return EndpointSeen(
        address=_address(status.get("address", {})),
        is_ejected=bool(health.get("failed_outlier_check")),
        is_failing_checks=bool(health.get("failed_active_health_check")),
        successes=counters.get("rq_success", 0),
        errors=counters.get("rq_error", 0),
        active_requests=counters.get("rq_active", 0),
    )


def _stats(status: Mapping[str, object]) -> list[dict[str, object]]:
    stats = status.get("stats", [])
    return stats if isinstance(stats, list) else []


def _address(address: Mapping[str, object]) -> str:
    socket, pipe = address.get("socket_address"), address.get("pipe")
    if isinstance(socket, dict):
        host = str(socket.get("address", ""))
        return f"[{host}]:{socket.get('port_value')}" if ":" in host else f"{host}:{socket.get('port_value')}"
    return f"unix:{pipe.get('path')}" if isinstance(pipe, dict) else ""
