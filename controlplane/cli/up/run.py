"""`causeway up` from start to end: check what can be checked first, write Envoy's file, run the table, show it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane.cli.bootstrap import BootstrapSettings, bootstrap
from controlplane.cli.up.children import Plan, causeway, children
from controlplane.cli.up.demo import DemoError, Try, read_demo
from controlplane.cli.up.envoy import EnvoyAdmin, EnvoyNotFoundError, find_envoy
from controlplane.cli.up.places import AlreadyRunningError, lock, places
from controlplane.cli.up.ports import PortTakenError, refuse_taken_ports
from controlplane.cli.up.screen import LiveScreen, PlainScreen, Screen, reachable
from controlplane.cli.up.status import ask, is_ready
from controlplane.cli.up.supervisor import Event, Supervisor
from serving.address import TcpAddress

LOOK_S = 0.5
SERVICES_LOOKS = 20  # how often a gateway that answers waits for its two services before it says so
CLUSTER = "gateway"


class ManifestsRefusedError(Exception):
    """The folder has problems; the message is all of them, one a line."""


def up(folder: Path, *, state: Path | None, is_verbose: bool, is_plain: bool) -> int:
    """Runs until a signal; the exit code. What stands in the way is printed, with what would help."""
    try:
        plan = _plan(folder, state)
        held = lock(plan.places)
        try:
            refuse_taken_ports(_listen_addresses(plan))
            asyncio.run(_run(plan, _screen(is_verbose=is_verbose, is_plain=is_plain)))
        finally:
            os.close(held)
    except (
        DemoError,
        EnvoyNotFoundError,
        AlreadyRunningError,
        ManifestsRefusedError,
        PortTakenError,
        OSError,
    ) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def _plan(folder: Path, state: Path | None) -> Plan:
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder; give the folder that holds the manifests")
    demo = read_demo(folder)
    return Plan(
        folder=folder.absolute(),
        places=places(folder, state=state, environ=os.environ),
        demo=demo,
        envoy=find_envoy(),
        environ={**os.environ, **{service.variable: service.address for service in demo.services}},
        concurrency=min(4, os.cpu_count() or 1),
    )


def _listen_addresses(plan: Plan) -> list[TcpAddress]:
    """Where the manifests want to listen. Raises ManifestsRefusedError with every problem of them."""
    from controlplane.manifests.load import Refused, load

    loaded = load(plan.folder, plan.environ)
    if isinstance(loaded, Refused):
        raise ManifestsRefusedError("\n".join(map(str, loaded.problems)))
    return [TcpAddress(listener.address, listener.port) for listener in loaded.manifest.gateway.listeners]


def _screen(*, is_verbose: bool, is_plain: bool) -> Screen:
    if not is_plain and not is_verbose and sys.stdout.isatty():
        from rich.console import Console

        return LiveScreen(Console())
    return PlainScreen(lambda text: print(text, flush=True), is_verbose=is_verbose)


async def _run(plan: Plan, screen: Screen) -> None:
    stop, at_once = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            at_once.set()
        screen.tell(Event(child="", text="stopping" if not stop.is_set() else "stopping at once"))
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    admin = plan.places.socket("envoy")
    for stale in plan.places.sockets.glob("*.sock"):  # the lock is ours: nobody listens there any more
        stale.unlink()
    supervisor = Supervisor(
        children(plan, _write_bootstrap(plan)), logs=plan.places.logs, tell=screen.tell, line=_Lines(screen).line
    )
    watching = asyncio.create_task(_watch(plan, supervisor, screen, EnvoyAdmin(admin.path)))
    try:
        await supervisor.run(stop, at_once)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        screen.tell(Event(child="", text="everything has stopped"))
        screen.show(supervisor.running, None)
        screen.close()


async def _watch(plan: Plan, supervisor: Supervisor, screen: Screen, envoy: EnvoyAdmin) -> None:
    """Says when the gateway answers and where, and shows how it is from then on."""
    told: tuple[TcpAddress, ...] = ()
    patience = SERVICES_LOOKS
    services = [plan.places.socket(f"{name}-admin") for name in ("extauthz", "ratelimit") if name in supervisor.running]
    while True:
        summary, listeners = await asyncio.gather(ask(plan.places.socket("control-plane")), envoy.listeners())
        # What Envoy serves before the manifests were read is the last run's.
        is_current = summary is not None and bool(summary.reloaded_at)
        if listeners and listeners != told and is_current and await envoy.is_live():
            patience -= 1
            if patience < 0 or all(await asyncio.gather(*map(is_ready, services))):
                told = listeners
                screen.ready(listeners, _tries(plan, listeners))
        screen.show(supervisor.running, summary)
        await asyncio.sleep(LOOK_S)


def _tries(plan: Plan, listeners: Sequence[TcpAddress]) -> list[Try]:
    """The folder's commands with this run's addresses in them."""
    folder = os.path.relpath(plan.folder)
    beside = Path(sys.executable).with_name("causeway")
    command = (
        "causeway" if shutil.which("causeway") else os.path.relpath(beside) if beside.exists() else " ".join(causeway())
    )
    places = {"{gateway}": f"http://{reachable(listeners[0])}", "{folder}": folder, "{causeway}": command}
    found = []
    for one in plan.demo.tries:
        text = one.command
        for mark, value in places.items():
            text = text.replace(mark, value)
        found.append(Try(text=one.text, command=text))
    return found


def _write_bootstrap(plan: Plan) -> Path:
    settings = BootstrapSettings(
        xds=plan.places.socket("xds"), admin=plan.places.socket("envoy"), node_id="up", cluster=CLUSTER
    )
    file = plan.places.state / "envoy.json"
    file.write_text(json.dumps(bootstrap(settings), indent=2), encoding="utf-8")
    return file


class _Lines:
    """Passes the children's lines on, and makes an event of the one that every user meets: a port that is taken."""

    _TAKEN = re.compile(r"cannot bind '([^']+)': Address already in use")

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told: set[str] = set()

    def line(self, child: str, text: str) -> None:
        self._screen.line(child, text)
        found = self._TAKEN.search(text)
        if found and found[1] not in self._told:
            self._told.add(found[1])
            advice = "stop what listens there, or change the listener's port"
            self._screen.tell(
                Event(child=child, text=f"{found[1]} is in use by another program: {advice}", is_bad=True)
            )
