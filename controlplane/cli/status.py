"""`causeway status`: what the running control plane serves, to whom, how services are, and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.control import ControlConnection, Json, Unreachable
from serving.address import Address, parse_address

_UNREACHABLE = 4
_ADMIN = "127.0.0.1:18001"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("status")(status)


def status(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder that `causeway up` runs. Left out: --admin says whom to ask.")
    ] = None,
    admin: Annotated[str, typer.Option(envvar="CAUSEWAY_ADMIN", help="The control plane's admin address.")] = _ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what is served, to whom, the services' circuits, and what is wrong.

    Exit codes: 0 all is well, 1 something is wrong (problems in the manifests, something kept back or held), 4 no
    control plane answers.
    """
    try:
        found = ControlConnection(_address(folder, admin)).get("/status")
    except (Unreachable, ValueError, OSError) as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(_UNREACHABLE) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    if any(found.get(wrong) for wrong in ("problems", "kept_back", "held")):
        raise typer.Exit(1)


def _address(folder: Path | None, admin: str) -> Address:
    if folder is None:
        return parse_address(admin)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    from controlplane.cli.up.places import places

    return places(folder, state=None, environ=os.environ).socket("control-plane")


def _show(found: Json) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    resources = ", ".join(f"{count} {kind}" for kind, count in _mapping(found.get("resources")).items())
    reload = _mapping(found.get("reload"))
    console.print(f"[bold]{found.get('routes', 0)} routes[/bold] of {found.get('folder')}, from {found.get('source')}")
    console.print(f"revision {found.get('revision') or 'none'}, served for {_age(found.get('served_s'))}: {resources}")
    if reload:
        console.print(f"last read {reload.get('at')} in {reload.get('took_ms')} ms: {reload.get('outcome')}")
    services = Table("service", "endpoints", "circuit", "since", "retest in", box=None, pad_edge=False)
    for row in _rows(found.get("services")):
        circuit = _mapping(row.get("circuit"))
        retest = circuit.get("retest_in_s")
        services.add_row(
            str(row.get("name")),
            str(row.get("health", "")).removesuffix(" endpoints"),
            _coloured(str(circuit.get("state", "unknown"))),
            _age(circuit.get("since_s")),
            _age(retest) if retest is not None else "",
        )
    clients = Table("client", "what", "version", "state", "revision", "lag", "NACKs", box=None, pad_edge=False)
    for row in _rows(found.get("clients")):
        clients.add_row(
            str(row.get("id")),
            str(row.get("agent")),
            str(row.get("version")),
            _coloured(str(row.get("verdict"))),
            str(row.get("revision") or "none"),
            _age(row.get("lag_s")),
            str(row.get("nacks")),
        )
    for table in (services, clients):
        if table.row_count:
            console.print()
            console.print(table)
    wrong = list(_wrong(found))
    if wrong:
        console.print()
    for line in wrong:
        console.print(line, style="red", markup=False, soft_wrap=True)


def _wrong(found: Json) -> Iterator[str]:
    problems = found.get("problems")
    if problems:
        yield "The last edit is not served:"
        yield from (f"  {problem}" for problem in _list(problems))
    for row in _rows(found.get("kept_back")):
        where = ", ".join(map(str, _list(row.get("origins")))) or "generated"
        what = f"{row.get('type')} {row.get('resource')}" + (f", {row.get('part')}" if row.get("part") else "")
        yield f"Kept back from {row.get('kind')}: {where}: {what}"
        yield f"  {str(row.get('text')).strip()} (served is {row.get('serving')})"
    held = _mapping(found.get("held"))
    if held:
        yield f"Held until `causeway apply --confirm`: it {held.get('reason')}"
    for client in _rows(found.get("clients")):
        for one in _rows(client.get("types")):
            if one.get("nack"):
                yield f"{client.get('id')} refused {one.get('type')}: {str(one.get('nack')).strip()}"


_COLOURS = {"CLOSED": "green", "OPEN": "red", "HALF_OPEN": "yellow", "synced": "green", "rejected": "red"}


def _coloured(word: str) -> str:
    colour = _COLOURS.get(word, "yellow")
    return f"[{colour}]{word}[/{colour}]"


def _age(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.0f}h"


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _rows(value: object) -> Iterable[Json]:
    return map(_mapping, _list(value))
