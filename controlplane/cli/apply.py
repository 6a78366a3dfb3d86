"""`causeway apply`: read the manifests now, and return when every Envoy serves them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from controlplane.cli.control import ControlConnection, Unreachable
from serving.address import parse_address

_REFUSED, _NOT_LIVE, _UNREACHABLE = 1, 3, 4


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
    canary: Annotated[str, typer.Option(help="Serve it to some Envoys first: a number, or a share such as 10%.")] = "",
    watch: Annotated[float, typer.Option(help="Seconds a canary must go without more errors.", min=0.0)] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Read the manifests now and serve them.

    With --wait, done means done: the command returns when every connected Envoy and service has accepted the change,
    and fails with the reason when one has not. With --canary, some Envoys get it first; the others follow when those
    have accepted it and answer no more errors than before, else it is taken back.

    Exit codes: 0 served, 1 refused (problems in the manifests, or held), 3 not accepted everywhere, 4 no control plane.
    """
    connection = ControlConnection(parse_address(admin), timeout_s=timeout + watch + 10.0)
    try:
        outcome = connection.post("/apply", {"confirm": confirm, "canary": canary, "watch_s": watch})
        is_served = outcome.get("outcome") in ("served", "unchanged")
        waited = connection.get(f"/wait?timeout_s={timeout}") if wait and is_served else {}
    except Unreachable as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(_UNREACHABLE) from None
    if as_json:
        json.dump({**outcome, **waited}, sys.stdout, indent=2)
        typer.echo()
    else:
        _tell(outcome, waited)
    if not is_served:
        raise typer.Exit(_REFUSED)
    if waited and waited.get("is_live") is not True:
        raise typer.Exit(_NOT_LIVE)


def _tell(outcome: Mapping[str, object], waited: Mapping[str, object]) -> None:
    for problem in _texts(outcome.get("problems")):
        typer.echo(problem, err=True)
    match outcome.get("outcome"):
        case "served":
            typer.echo(f"served: revision {outcome.get('revision')}")
        case "unchanged":
            typer.echo(f"unchanged: revision {outcome.get('revision')}")
        case "held":
            typer.echo(f"held: {outcome.get('reason')}. Run again with --confirm to serve it.", err=True)
        case other:
            typer.echo(f"{other}: what was served before goes on", err=True)
    for reason in _texts(waited.get("reasons")):
        typer.echo(reason, err=True)
    clients = waited.get("clients")
    if waited and isinstance(clients, list):
        verb = "live on" if waited.get("is_live") is True else "not live everywhere:"
        typer.echo(
            f"{verb} {len(clients)} client{'' if len(clients) == 1 else 's'} after {waited.get('took_s', 0):.3f} s"
        )


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
