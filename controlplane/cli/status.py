"""`causeway status`: what the running control plane serves, to whom, how services are, and what is wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.control import ControlConnection, Json, Unreachable, admin_address
from serving.address import Address

if TYPE_CHECKING:
    from rich.table import Table

_UNREACHABLE = 4
_WIDE = 200
"""Columns where the output is no terminal: what reads it finds one line a client."""
_ADMIN = "127.0.0.1:18001"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("status")(status)


def status(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder that `causeway up` runs. Left out: --admin says whom to ask.")
    ] = None,
    admin: Annotated[str, typer.Option(envvar="CAUSEWAY_ADMIN", help="The control plane's admin address.")] = _ADMIN,
    details: Annotated[bool, typer.Option("--details", help="Show what each client has, type by type.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show what is served, to whom, the services' circuits, and what is wrong.

    Exit codes: 0 all is well, 1 something is wrong (problems in the manifests, an edit rolled back, something kept back
    or held, a client that refuses something, is silent or frozen, a state that cannot be written), 2 a wrong command
    line, 4 no control plane answers.
    """
    try:
        found = ControlConnection(_address(folder, admin)).get("/status")
    except (Unreachable, ValueError, OSError) as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(_UNREACHABLE) from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found, details=details)
    is_wrong = any(found.get(wrong) for wrong in ("problems", "kept_back", "held")) or _unkept(found)
    if is_wrong or any(map(_is_lost, _clients(found))):
        raise typer.Exit(1)


def _clients(found: Json) -> Iterable[Json]:
    return _rows(found.get("clients"))


def _unkept(found: Json) -> object:
    """Why a restart would not serve what is served now."""
    return _mapping(found.get("state")).get("problem")


def _is_lost(client: Json) -> bool:
    """It may be serving something old, or less than it should."""
    return client.get("verdict") in ("rejected", "silent", "frozen") or bool(client.get("drifted_to"))


def _address(folder: Path | None, admin: str) -> Address:
    if folder is None:
        return admin_address(admin)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    from controlplane.cli.up.places import places

    return places(folder, state=None, environ=os.environ).socket("control-plane")


def _show(found: Json, *, details: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    resources = ", ".join(f"{count} {kind}" for kind, count in _mapping(found.get("resources")).items())
    reload = _mapping(found.get("reload"))
    console.print(heading(found), style="bold", markup=False)
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
    clients = Table("client", "cluster", "what", "state", "for", "revision", "NACKs", box=None, pad_edge=False)
    clients.columns[0].no_wrap = True
    if not details:
        clients.add_column("accepted")
    for row in _clients(found):
        clients.add_row(
            escape(str(row.get("id"))),
            escape(str(row.get("cluster") or "")),
            escape(f"{row.get('agent')} {row.get('version') or ''}"),
            _coloured(str(row.get("verdict"))),
            _age(lasts(row)),
            str(row.get("revision") or "none"),
            str(row.get("nacks")),
            *([_types(row)] if not details else ()),
        )
    for table in (services, _canary(_mapping(found.get("canary"))), clients):
        if table is not None and table.row_count:
            console.print()
            console.print(table)
    if details:
        for row in _clients(found):
            console.print()
            console.print(_details(row))
    wrong = list(_wrong(found))
    if wrong:
        console.print()
    for line in wrong:
        console.print(line, style="red", markup=False, soft_wrap=True)


def heading(found: Json) -> str:
    """What is served. The last known good says nothing of routes as they were written."""
    folder = found.get("folder")
    if not found.get("revision"):
        return f"nothing of {folder} is served yet"
    if found.get("source") != "manifests":
        return f"{found.get('source')} of {folder}"
    count = found.get("routes", 0)
    return f"{count} route{'' if count == 1 else 's'} of {folder}, from manifests"


def lasts(client: Json) -> object:
    """How many seconds a client has been in its state: frozen, without what is served, or with it."""
    return client.get("frozen_s") or client.get("lag_s") or client.get("since_s")


_TYPES = {
    "Cluster": "CDS",
    "ClusterLoadAssignment": "EDS",
    "Listener": "LDS",
    "RouteConfiguration": "RDS",
    "Secret": "SDS",
    "TypedExtensionConfig": "ECDS",
}


def _types(client: Json) -> str:
    """Per type: what was accepted, and whether something was refused or is not answered."""
    found = {str(one.get("type")): one for one in _rows(client.get("types"))}
    return "  ".join(f"{short} {_state(found[name])}" for name, short in _TYPES.items() if name in found)


def _state(one: Json) -> str:
    is_accepted = one.get("state") == "ACKED"
    return _coloured(f"{one.get('accepted')}/{one.get('holds')}" if is_accepted else str(one.get("state")))


def _details(client: Json) -> Table:
    from rich.markup import escape
    from rich.table import Table

    title = f"{client.get('id')} ({client.get('protocol')}, connected for {_age(client.get('connected_s'))})"
    table = Table(
        *(escape(title), "state", "asked for", "has", "accepted", "to come", "version", "since"),
        box=None,
        pad_edge=False,
    )
    for one in _rows(client.get("types")):
        since = one.get("nack_age_s") if one.get("state") == "NACKED" else one.get("acked_age_s")
        table.add_row(
            str(one.get("type")),
            _coloured(str(one.get("state"))),
            *(str(one.get(key)) for key in ("subscribed", "holds", "accepted", "pending", "version")),
            _age(since),
        )
    return table


def _canary(course: Json) -> Table | None:
    """The canary that runs, Envoy by Envoy."""
    from rich.markup import escape
    from rich.table import Table

    if not course or course.get("is_over"):
        return None
    requests, left = _mapping(course.get("requests")), course.get("left_s")
    title = f"canary of revision {course.get('revision')}: {course.get('state')}, for {_age(course.get('since_s'))}"
    table = Table(title + (f", {_age(left)} to go" if left is not None else ""), "requests", "fail", "before", box=None)
    measured = {str(row.get("id")): row for row in _rows(course.get("envoys"))}
    for name in map(str, _list(course.get("cohort"))):
        row = measured.get(name)
        before = _percent(_mapping(requests.get("before")).get("share"))
        if row is None:
            table.add_row(escape(name), "not measured", "", "")
        else:
            table.add_row(escape(name), str(row.get("completed")), _percent(row.get("share")), before)
    others = _mapping(requests.get("others"))
    if others.get("completed"):
        table.add_row("the others", str(others.get("completed")), _percent(others.get("share")), "")
    if not table.row_count:
        table.add_row("no Envoy yet", "", "", "")
    return table


def _percent(share: object) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else ""


def _wrong(found: Json) -> Iterator[str]:
    problems = found.get("problems")
    if problems:
        yield "The last edit is not served:"
        yield from (f"  {problem}" for problem in _list(problems))
    for row in _rows(found.get("kept_back")):
        where = ", ".join(map(str, _list(row.get("origins")))) or "generated"
        what = f"{row.get('type')} {row.get('resource')}" + (f", {row.get('part')}" if row.get("part") else "")
        yield f"Kept back from {row.get('kind')}: {where}: {what}"
        yield f"  {str(row.get('text')).strip()} ({row.get('serving')} is served in its place)"
    held = _mapping(found.get("held"))
    if held:
        yield f"Held until `causeway apply --confirm`: it {held.get('reason')}"
    if _unkept(found):
        yield f"Not safe from a restart: {_unkept(found)}"
    for client in _clients(found):
        yield from wrong_with(client)


def wrong_with(client: Json) -> Iterator[str]:
    """What is wrong with a client, a line each."""
    name = client.get("id")
    match client.get("verdict"):
        case "frozen":
            silent = _age(client.get("frozen_s"))
            yield f"{name} is frozen: connected, but no answer from its admin interface for {silent}"
        case "silent":
            waiting = [str(one.get("type")) for one in _rows(client.get("types")) if one.get("state") == "WAITING"]
            what, ago = ", ".join(waiting), _age(client.get("heard_s"))
            yield f"{name} is silent: it has not answered to {what}; last heard {ago} ago"
    if client.get("drifted_to"):
        yield f"{name} says in mid-stream that it is {client.get('drifted_to')}; it is served as {name}"
    for one in _rows(client.get("types")):
        if one.get("nack"):
            ago = f" {_age(one.get('nack_age_s'))} ago" if one.get("nack_age_s") is not None else ""
            where = "".join(f"{place}: " for place in _list(one.get("nack_origins")))
            yield f"{name} refused {one.get('type')}{ago}: {where}{str(one.get('nack')).strip()}"


_GREEN, _RED = ("CLOSED", "synced", "ACKED"), ("OPEN", "rejected", "silent", "frozen", "NACKED")


def _coloured(word: str) -> str:
    is_count = word.replace("/", "").isdecimal()
    colour = "green" if word in _GREEN or is_count else "red" if word in _RED else "yellow"
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
