"""The whole gateway as its users start it: control plane, both services, Envoy; real processes on sockets of their own.

    await gateway.apply({"services": {...}, "routes": [...]})
    response = await gateway.request("GET", "/orders")

`apply` returns when Envoy serves what was applied. Manifests are mappings, or the text of a file where a test is about
the text. The listener's port is filled in where the manifests do not say one; in text it is `${GATEWAY_PORT}`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from controlplane.cli.bootstrap import ENVOY_ARGUMENTS
from tests.support import client
from tests.support.client import Address, Response
from tests.support.envoy import Envoy
from tests.support.process import Process
from tests.support.waiting import NeverHappenedError, free_port, until
from tests.support.wire import ClosedError

Manifest = Mapping[str, Any] | str
SERVICES = ("extauthz", "ratelimit")
_START_S = 60.0  # three Python processes start together, on a machine that may be busy


def causeway(*arguments: str | Path) -> list[str]:
    """The command line of one of our verbs, run by the Python that runs the tests."""
    return [sys.executable, "-c", "from controlplane.cli.main import main; main()", *map(str, arguments)]


class Gateway:
    """One gateway. Its processes start with the first `apply` and go on until `stop`.

    `env` is what the manifests' `${VARIABLES}` see; `flags` are added to a process's command line, by its name
    (`serve`, `extauthz`, `ratelimit`, `envoy`).
    """

    def __init__(
        self, folder: Path, *, env: Mapping[str, str] | None = None, flags: Mapping[str, tuple[str, ...]] | None = None
    ):
        self.port = free_port()
        self.manifests = folder / "manifests"
        self.folder = folder
        self._env = {"GATEWAY_PORT": str(self.port), "PORT": str(self.port), **(env or {})}
        self._flags = flags or {}
        self.control_plane = self._process(
            "serve",
            self.manifests,
            *("--xds", f"unix:{folder}/xds.sock"),
            *("--extauthz", f"unix:{folder}/extauthz.sock"),
            *("--ratelimit", f"unix:{folder}/ratelimit.sock"),
            *("--envoy-admin", f"unix:{folder}/envoy.sock"),
        )
        self.services = {
            name: self._process(name, "--listen", f"unix:{folder}/{name}.sock", "--xds", f"unix:{folder}/xds.sock")
            for name in SERVICES
            if find_spec(f"controlplane.cli.{name}")
        }
        arguments = (*ENVOY_ARGUMENTS, *self._flags.get("envoy", ()))
        self.envoy = Envoy(folder / "bootstrap.json", *arguments, folder=folder)

    def _process(self, verb: str, *arguments: str | Path) -> Process:
        own = ("--admin", f"unix:{self.folder}/{verb}-admin.sock", "--state", self.folder / f"{verb}-state")
        argv = causeway(verb, *arguments, *own, *self._flags.get(verb, ()))
        return Process(verb, argv, folder=self.folder, env=self._env)

    # What a test does

    async def apply(self, *manifests: Manifest, within_s: float = 20.0) -> None:
        """Make these the manifests, all of them, and wait until every Envoy and service has accepted them.

        Raises AssertionError with the problems when the control plane refuses them, or a client does.
        """
        self.write(*manifests)
        await self.start()
        outcome = await self.tell("POST", "/apply", {"confirm": True})
        assert outcome["outcome"] in {"served", "unchanged"}, f"{outcome['outcome']}: {outcome.get('problems')}"
        await self.connected()
        await self.live(within_s=within_s)

    async def request(self, method: str, path: str, **how: Any) -> Response:
        """One request through Envoy, on a connection of its own. See `client.request`."""
        return await client.request(self.address, method, path, **how)

    async def raw(self, message: bytes, **how: Any) -> Response:
        """These bytes through Envoy. See `client.raw`."""
        return await client.raw(self.address, message, **how)

    @property
    def address(self) -> Address:
        return Address(port=self.port)

    # The steps of `apply`, for tests that need them apart

    def write(self, *manifests: Manifest) -> None:
        """Put these manifests in the folder, each in a file of its own, and take away what else is there.

        The listeners are never missing meanwhile: the file that has them comes first. At worst they are there twice,
        which is a problem, and nothing is served of it.
        """
        complete = self._complete(list(manifests))
        self.manifests.mkdir(exist_ok=True)
        names = [f"{number:02}.yaml" for number in range(len(complete))]
        for name, manifest in sorted(zip(names, complete, strict=True), key=lambda one: "gateway" not in one[1]):
            text = manifest if isinstance(manifest, str) else _yaml(manifest)
            _replace(self.manifests / name, text)
        for path in self.manifests.iterdir():
            if path.name not in names:
                path.unlink()

    def _complete(self, manifests: list[Manifest]) -> list[Manifest]:
        own: dict[str, Any] = {"listeners": [{"port": self.port, "address": "127.0.0.1"}]}
        for number, manifest in enumerate(manifests):
            if isinstance(manifest, str):
                if "\ngateway:" in "\n" + manifest:
                    return manifests
            elif "gateway" in manifest:
                manifests[number] = {**manifest, "gateway": {**own, **manifest["gateway"]}}
                return manifests
        for number, manifest in enumerate(manifests):
            if not isinstance(manifest, str):
                manifests[number] = {**manifest, "gateway": own}
                return manifests
        return [*manifests, {"gateway": own}]

    async def start(self) -> None:
        """Start what is not running."""
        for process in (self.control_plane, *self.services.values()):
            if not process.is_alive:
                process.start()
        if not self.envoy.process.is_alive:
            await self._start_envoy()

    async def _start_envoy(self) -> None:
        bootstrap = self.folder / "bootstrap.json"
        if not bootstrap.exists():
            where = ("--xds", f"unix:{self.folder}/xds.sock", "--admin", f"unix:{self.folder}/envoy.sock")
            argv = causeway("bootstrap", *where, "--node-id", "envoy-under-test", "--format", "json")
            made = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True)
            bootstrap.write_bytes(made.stdout)
        await asyncio.to_thread(self.envoy.start)

    async def connected(self) -> None:
        """Wait until Envoy and both services are connected to the control plane."""
        wanted = 1 + len(self.services)
        names: list[str] = []

        async def all_there() -> bool:
            names[:] = [one["id"] for one in (await self.tell("GET", "/clients"))["clients"]]
            return len(names) >= wanted

        try:
            await until("Envoy and the services connected", all_there, within_s=_START_S)
        except NeverHappenedError as failure:
            raise NeverHappenedError(f"{failure}; connected are {names}") from None

    async def live(self, *, within_s: float = 20.0) -> None:
        """Wait until every connected Envoy and service has accepted what is served."""
        waited = await self.tell("GET", f"/wait?timeout_s={within_s}")
        assert waited["is_live"], f"not live: {waited['reasons']}"

    @property
    def is_whole(self) -> bool:
        """Every process runs."""
        return all(process.is_alive for process in self._processes)

    @property
    def _processes(self) -> tuple[Process, ...]:
        return (self.control_plane, *self.services.values(), self.envoy.process)

    def _check_alive(self) -> None:
        for process in self._processes:
            assert process.is_alive, f"{process.name} ended with {process.exit_code}:\n{process.tail()}"

    # What a test asks

    async def status(self) -> dict[str, Any]:
        """The control plane's own account: GET /status of its admin server."""
        return await self.tell("GET", "/status")

    async def tell(self, method: str, path: str, wish: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the control plane's admin server, as soon as it answers."""
        admin = Address(path=f"{self.folder}/serve-admin.sock")
        body = json.dumps(wish).encode() if wish is not None else b""

        async def ask() -> Response | None:
            self._check_alive()
            try:
                return await client.request(admin, method, path, body=body, host="localhost", timeout_s=60)
            except (OSError, ClosedError):
                return None

        answered = await until(f"the control plane answering {path}", ask, within_s=_START_S)
        assert answered is not None
        assert answered.body[:1] == b"{", f"{path}: {answered.status} {answered.body[:500]!r}"
        answer: dict[str, Any] = answered.json()
        return answer

    def logs(self, lines: int = 40) -> str:
        """The end of every process's log."""
        return "\n".join(f"--- {one.name} ---\n{one.tail(lines)}" for one in self._processes if one.log)

    def stop(self) -> None:
        """End every process: Envoy first, so that it does not miss the others."""
        for process in (self.envoy.process, *self.services.values(), self.control_plane):
            process.stop()


class _Dumper(yaml.SafeDumper):
    """Writes shared values out each time: manifests take no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _yaml(manifest: Mapping[str, Any]) -> str:
    return yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False)


def _replace(path: Path, text: str) -> None:
    """Write as editors do: a new file renamed over the old one."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.replace(path)
