"""`causeway apply`: read the manifests now, and return when every Envoy serves them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from controlplane.cli.control import ControlConnection, Unanswered, Unreachable, admin_address
from controlplane.cli.durations import seconds

_REFUSED, _NOT_LIVE, _UNREACHABLE = 1, 3, 4
_MARGIN_S = 60.0
"""Above what the user waits for: reading the folder."""
_LONGEST_WAIT_S = 600.0
_LONGEST_WATCH_S = 24 * 3600.0
"""The control plane takes no longer ones."""


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("apply")(apply)


def apply(
    admin: Annotated[
        str, typer.Option(envvar="CAUSEWAY_ADMIN", help="The control plane's admin address.")
    ] = "127.0.0.1:18001",
    wait: Annotated[bool, typer.Option("--wait", help="Return when every connected client serves the change.")] = False,
    timeout: Annotated[
        str, typer.Option(help="How long to wait for every client; for a canary, besides the time it is watched.")
    ] = "30s",
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

    Exit codes: 0 served, 1 refused (problems in the manifests, held, rolled back, or overtaken by another change), 2 a
    wrong command line, 3 not accepted everywhere or no verdict on the canary in time, 4 no control plane.
    """
    if promote + abort + bool(canary) > 1:
        raise typer.BadParameter("--promote, --abort and --canary exclude each other")
    watch_s = _duration("--watch", watch, _LONGEST_WATCH_S) if watch else None
    timeout_s = _duration("--timeout", timeout, _LONGEST_WAIT_S)
    _check_size(canary)
    wish = {"confirm": confirm, "canary": canary, "watch_s": watch_s, "wait": wait, "timeout_s": timeout_s}
    path = "/canary/promote" if promote else "/canary/abort" if abort else "/apply"
    connection = ControlConnection(admin_address(admin), timeout_s=timeout_s + _MARGIN_S)
    try:
        if path == "/apply" and (wait or canary):
            connection.allow(_longest_watch_s(connection, watch_s))
        outcome = connection.post(path, wish if path == "/apply" else {})
        is_served = outcome.get("outcome") in ("served", "unchanged", "canary")
        is_wanted = is_served or (abort and outcome.get("outcome") == "rolled back")
        is_undecided = outcome.get("outcome") == "canary" and (wait or bool(canary))
        waited = connection.get(f"/wait?timeout_s={timeout_s}") if wait and is_wanted and not is_undecided else {}
    except Unreachable as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(_NOT_LIVE if isinstance(problem, Unanswered) else _UNREACHABLE) from None
    if as_json:
        json.dump({**outcome, **waited}, sys.stdout, indent=2)
        typer.echo()
    else:
        _tell(outcome, waited)
    if not is_wanted:
        raise typer.Exit(_REFUSED)
    if is_undecided or (waited and waited.get("is_live") is not True):
        raise typer.Exit(_NOT_LIVE)


def _duration(flag: str, text: str, longest_s: float) -> float:
    try:
        found = seconds(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint=flag) from None
    if found > longest_s:
        raise typer.BadParameter(f'"{text}": at most {longest_s:g} s', param_hint=flag)
    return found


def _check_size(canary: str) -> None:
    """What any control plane would refuse is a wrong command line."""
    if canary in ("", "no"):
        return
    from controlplane.xds.canary import choose

    try:
        choose(canary, ())
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--canary") from None


def _longest_watch_s(connection: ControlConnection, watch_s: float | None) -> float:
    """How long a canary may be watched before there is an answer: this one, or the one that runs already."""
    found = connection.get("/canary")
    course = found.get("course")
    running = course.get("watch_s") if isinstance(course, dict) and not course.get("is_over") else None
    asked = found.get("watch_s") if watch_s is None else watch_s
    return max(float(one) if isinstance(one, int | float) else 0.0 for one in (asked, running))


def _tell(outcome: Mapping[str, object], waited: Mapping[str, object]) -> None:
    for problem in _texts(outcome.get("problems")):
        typer.echo(problem, err=True)
    match outcome.get("outcome"):
        case "served":
            reason = f" ({outcome.get('reason')})" if outcome.get("reason") else ""
            typer.echo(f"served: revision {outcome.get('revision')}{reason}")
        case "unchanged":
            typer.echo(f"unchanged: revision {outcome.get('revision')}")
        case "canary" if outcome.get("reason"):
            typer.echo(f"on trial: {outcome.get('reason')}", err=True)
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
    plural = "" if len(clients) == 1 else "s"
    how = f"live on {len(clients)} client{plural}" if waited.get("is_live") is True else "not live everywhere"
    typer.echo(f"{how} after {waited.get('took_s', 0):.3f} s")
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
