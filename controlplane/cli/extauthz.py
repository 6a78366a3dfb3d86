"""`causeway extauthz`: the authorization service, one process or several.

Python decides on one core; more cores take more workers. Each has addresses of its own, so that Envoy spreads requests
over them as over any endpoints and notices one that is gone: the first has the addresses given, the others a number in
them (`extauthz-2.sock`, the next port).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import typer

from extauthz.settings import Settings
from serving.address import Address, TcpAddress, UnixAddress
from serving.settings import command

_WORKER = "CAUSEWAY_EXTAUTHZ_WORKER"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("extauthz")(command(Settings, _run))


def _run(settings: Settings) -> None:
    """Run the authorization service, which Envoy asks about every request."""
    from extauthz.server import serve
    from serving.logs import configure_logs
    from serving.process import die_with_parent, run

    is_worker = _WORKER in os.environ
    name = f"extauthz-{os.environ[_WORKER]}" if is_worker else "extauthz"
    configure_logs(name)
    if is_worker:
        die_with_parent()
    elif settings.workers > 1:
        sys.exit(run(lambda stop: _supervise(settings, stop)))
    sys.exit(run(lambda stop: serve(settings, stop)))


async def _supervise(settings: Settings, stop: asyncio.Event) -> None:
    """Keeps the workers running; one that ends is started again."""
    from tempfile import TemporaryDirectory

    import structlog

    from controlplane.cli.up.supervisor import Child, Event, Supervisor

    log = structlog.get_logger("extauthz.workers")

    def tell(event: Event) -> None:
        (log.warning if event.is_bad else log.info)(event.text, worker=event.child)

    children = [
        Child(
            name=f"extauthz-{number}",
            argv=(sys.executable, "-c", "from controlplane.cli.main import main; main()", "extauthz", *flags),
            environ={**os.environ, _WORKER: str(number)},
            folder=Path.cwd(),
        )
        for number in range(1, settings.workers + 1)
        for flags in [worker_flags(settings, number, sys.argv[2:])]
    ]
    with TemporaryDirectory(prefix="causeway-") as logs:
        supervisor = Supervisor(
            children,
            logs=Path(logs),
            tell=tell,
            line=lambda _, line: print(line, file=sys.stderr),
            stop_within_s=settings.drain + 2,
        )
        await supervisor.run(stop)


def worker_flags(settings: Settings, number: int, given: list[str]) -> tuple[str, ...]:
    """The command line of worker `number`: what was given, with its own addresses behind, which win."""
    own = [flag for address in settings.listen for flag in ("--listen", str(numbered(address, number)))]
    if settings.admin is not None:
        own += ["--admin", str(numbered(settings.admin, number))]
    return (*_without(given, {"--listen", "--admin", "--workers"}), *own)


def numbered(address: Address, number: int) -> Address:
    """The address of worker `number`; the first one's is the address itself."""
    if number == 1:
        return address
    match address:
        case UnixAddress(path):
            return UnixAddress(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        case TcpAddress(host, port):
            return TcpAddress(host, port + number - 1 if port else 0)


def _without(given: list[str], flags: set[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in given:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept
