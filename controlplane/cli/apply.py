"""`causeway apply`: read the manifests now, and return when every Envoy serves them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from controlplane.cli.control import ControlConnection, Unreachable
from controlplane.cli.durations import seconds
from serving.address import parse_address

_REFUSED, _NOT_LIVE, _UNREACHABLE = 1, 3, 4
_MARGIN_S = 60.0
"""Above what the user waits for: reading the folder, finding Envoys to try it on, their acceptance."""


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("apply")(apply)


def apply(
    admin: Annotated[
        str, typer.Option(envvar="CAUSEWAY_ADMIN", help="The control plane's admin address.")
    ] = "127.0.0.1:18001",
    wait: Annotated[bool, typer.Option("--wait", help="Return when every connected client serves the change.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.0)] = 30.0,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Serve it even if it removes most services or routes.")
    ] = False,
    canary: Annotated[
        str,
        typer.Option(help="Serve it to some Envoys first: a number, or a share such as 10%. `no`: to all at once."),
    ] = "",
    watch: Annotated[
        str, typer.Option(help="How long a canary must do well, such as 30s. Left out: as the control plane says.")
    ] = "",
    promote: Annotated[bool, typer.Option("--promote", help="Serve what is on trial to every Envoy now.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Take back what is on trial now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Read the manifests now and serve them.

    With --wait, done means done: the command returns when every connected Envoy and service has accepted the change and
    a restart of the control plane would serve it too; it fails with the reason when that is not so in time. With
    --canary, some Envoys get it first; the others follow when those have accepted it and answer no more errors than
    before and than the others, else it is taken back.

    Exit codes: 0 served, 1 refused (problems in the manifests, held, or rolled back), 2 a wrong command line, 3 not
    accepted everywhere, 4 no control plane.
    """
    if promote + abort + bool(canary) > 1:
        raise typer.BadParameter("--promote, --abort and --canary exclude each other")
    try:
        watch_s = seconds(watch) if watch else None
    except ValueError as problem:
        raise typer.BadParameter(f"--watch {problem}") from None
    wish = {"confirm": confirm, "canary": canary, "watch_s": watch_s, "wait": wait}
    path = "/canary/promote" if promote else "/canary/abort" if abort else "/apply"
    try:
        connection = ControlConnection(parse_address(admin), timeout_s=timeout + _MARGIN_S)
        if path == "/apply" and (wait or canary):
            connection.allow(_longest_watch_s(connection, watch_s))
        outcome = connection.post(path, wish if path == "/apply" else {})
        is_served = outcome.get("outcome") in ("served", "unchanged", "canary")
        is_wanted = is_served or (abort and outcome.get("outcome") == "rolled back")
        waited = connection.get(f"/wait?timeout_s={timeout}") if wait and is_wanted else {}
    except (Unreachable, ValueError) as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(_UNREACHABLE) from None
    if as_json:
        json.dump({**outcome, **waited}, sys.stdout, indent=2)
        typer.echo()
    else:
        _tell(outcome, waited)
    if not is_wanted:
        raise typer.Exit(_REFUSED)
    if waited and waited.get("is_live") is not True:
        raise typer.Exit(_NOT_LIVE)


def _longest_watch_s(connection: ControlConnection, watch_s: float | None) -> float:
    """How long a canary may be watched before there is an answer."""
    if watch_s is not None:
        return watch_s
    found = connection.get("/canary").get("watch_s")
    return float(found) if isinstance(found, int | float) else 0.0


def _tell(outcome: Mapping[str, object], waited: Mapping[str, object]) -> None:
    for problem in _texts(outcome.get("problems")):
        typer.echo(problem, err=True)
    match outcome.get("outcome"):
        case "served":
            reason = f" ({outcome.get('reason')})" if outcome.get("reason") else ""
            typer.echo(f"served: revision {outcome.get('revision')}{reason}")
        case "unchanged":
            typer.echo(f"unchanged: revision {outcome.get('revision')}")
        case "canary":
            typer.echo("on trial with some Envoys: `causeway status` shows how it goes")
        case "held":
            typer.echo(f"held: {outcome.get('reason')}. Run again with --confirm to serve it.", err=True)
        case None:
            typer.echo(f"error: {outcome.get('error')}", err=True)
        case other:
            why = f" ({outcome.get('reason')})" if outcome.get("reason") and not outcome.get("problems") else ""
            typer.echo(f"{other}{why}: what was served before goes on", err=True)
    for reason in _texts(waited.get("reasons")):
        typer.echo(reason, err=True)
    clients = waited.get("clients")
    if not waited or not isinstance(clients, list):
        return
    verb = "live on" if waited.get("is_live") is True else "not live everywhere:"
    plural = "" if len(clients) == 1 else "s"
    typer.echo(f"{verb} {len(clients)} client{plural} after {waited.get('took_s', 0):.3f} s")
    width = max((len(str(client.get("id"))) for client in clients), default=0)
    for client in sorted(clients, key=_slowness, reverse=True):
        took = client.get("took_s")
        how = f"{took * 1000:8.1f} ms" if isinstance(took, int | float) else f"{client.get('verdict'):>11}"
        typer.echo(f"  {client.get('id'):{width}} {how}")


def _slowness(client: Mapping[str, object]) -> float:
    """From the change being out to this client having all of it."""
    took = client.get("took_s")
    return float(took) if isinstance(took, int | float) else float("inf")


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
