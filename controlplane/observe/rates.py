"""How many requests each Envoy answered and how many of them failed, by node id: what a canary is judged by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from controlplane.observe.envoy_admin import EnvoyAdmin
from serving.address import Address

_STATS = r"/stats?format=json&filter=^http\..*\.downstream_rq_(completed|5xx)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """An Envoy's counters."""

    completed: int
    failed: int


def asking(addresses: tuple[Address, ...]) -> Callable[[], Awaitable[Mapping[str, Requests]]]:
    """A function that asks every Envoy that answers."""

    async def ask() -> Mapping[str, Requests]:
        answers = await asyncio.gather(*(_counters(EnvoyAdmin(address)) for address in addresses))
        return dict(one for one in answers if one is not None)

    return ask


async def _counters(admin: EnvoyAdmin) -> tuple[str, Requests] | None:
    try:
        server, stats = await admin.get("/server_info"), await admin.get(_STATS)
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError):
        return None
    finally:
        await admin.close()
    node = server.get("node")
    return str(node.get("id", "")) if isinstance(node, dict) else "", counters(stats)


def counters(stats: Mapping[str, object]) -> Requests:
    """Envoy's `/stats?format=json`, added up over its listeners; its own admin listener is none of them."""
    completed = failed = 0
    rows = stats.get("stats", [])
    for row in rows if isinstance(rows, list) else []:
        name, value = str(row.get("name", "")), int(row.get("value", 0))
        if name.startswith("http.admin."):
            continue
        if name.endswith("_completed"):
            completed += value
        elif name.endswith("_5xx"):
            failed += value
    return Requests(completed=completed, failed=failed)
