"""What the control plane says about itself, read for the screen: GET /status of its admin server.

Reading is tolerant: what is missing or of another shape is not shown. It must not know how to draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import aiohttp

from serving.address import UnixAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    name: str
    health: str
    circuit: str
    retest_in_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The control plane's view: routes served, services, the last reload, and what is wrong."""

    routes: int | None = None
    services: tuple[ServiceRow, ...] = ()
    reloaded_at: str = ""
    problems: tuple[str, ...] = ()


async def ask(address: UnixAddress) -> Summary | None:
    """The control plane's status, or None while it does not answer."""
    document = await _get(address, "/status")
    return None if document is None else summary(document)


async def is_ready(address: UnixAddress) -> bool:
    """Whether the process whose admin server this is says that it can work."""
    return await _get(address, "/health/ready") is not None


async def _get(address: UnixAddress, path: str) -> object | None:
    connector = aiohttp.UnixConnector(str(address.path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=1)) as session,
            session.get(f"http://admin{path}") as response,
        ):
            found: object = await response.json()
            return found if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


def summary(document: object) -> Summary:
    """The parts of a /status document that the screen shows."""
    top = _mapping(document)
    reload = _mapping(top.get("reload"))
    return Summary(
        routes=_count(top.get("routes")),
        services=tuple(_services(top.get("services"))),
        reloaded_at=_text(reload.get("at")),
        problems=tuple(_text(one) for one in _list(reload.get("problems"))),
    )


def _services(found: object) -> Iterator[ServiceRow]:
    rows = [{"name": name, **_mapping(row)} for name, row in found.items()] if isinstance(found, dict) else _list(found)
    for row in map(_mapping, rows):
        circuit = row.get("circuit")
        retest_in_s = _mapping(circuit).get("retest_in_s")
        yield ServiceRow(
            name=_text(row.get("name")),
            health=_text(row.get("health")),
            circuit=_text(_mapping(circuit).get("state")) if isinstance(circuit, dict) else _text(circuit),
            retest_in_s=float(retest_in_s) if isinstance(retest_in_s, int | float) else None,
        )


def _count(found: object) -> int | None:
    match found:
        case bool():
            return None
        case int():
            return found
        case list() | dict():
            return len(found)
        case _:
            return None


def _mapping(found: object) -> Mapping[str, object]:
    return found if isinstance(found, dict) else {}


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []


def _text(found: object) -> str:
    return "" if found is None else str(found)
