"""`causeway limits`: what is left of a limit, who is refused, who is blocked; and letting somebody through again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated
from urllib.parse import urlencode

import typer

from controlplane.cli.control import ControlConnection, Unreachable, admin_address

_REFUSED, _UNREACHABLE = 1, 4

Admin = Annotated[str, typer.Option(envvar="CAUSEWAY_RATELIMIT_ADMIN", help="The rate limit service's admin address.")]
Keys = Annotated[
    list[str] | None, typer.Option("--key", help="Whose counter: key=value, such as user=ann or ip=203.0.113.9.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
_ADMIN = "127.0.0.1:8080"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    limits = typer.Typer(help="What is left, who is refused or blocked.", invoke_without_command=True)
    limits.callback()(show)
    limits.command("blocked")(blocked)
    limits.command("unblock")(unblock)
    app.add_typer(limits, name="limits")


def show(
    context: typer.Context,
    key: Keys = None,
    limit: Annotated[str, typer.Option(help="Only this limit.")] = "",
    admin: Admin = _ADMIN,
    as_json: AsJson = False,
) -> None:
    """What is configured and who is refused most. With --key, what is left of that caller's limits."""
    if (verb := context.invoked_subcommand) is not None:
        _refuse_options(context, verb)
        return
    if key or limit:
        query = urlencode({**({"limit": limit} if limit else {}), **_pairs(key)})
        _answer(_ask(admin, "GET", f"/limits/status?{query}"), as_json, _tell_counters)
    else:
        _answer(_ask(admin, "GET", "/limits"), as_json, _tell_overview)


def blocked(admin: Admin = _ADMIN, as_json: AsJson = False) -> None:
    """Who is blocked, and until when."""
    _answer(_ask(admin, "GET", "/limits/blocked"), as_json, _tell_blocked)


def unblock(limit: Annotated[str, typer.Argument(help="The limit.")], key: Keys = None, admin: Admin = _ADMIN) -> None:
    """Forget a caller's counter and block under a limit: the next request finds it fresh."""
    answer = _ask(admin, "POST", "/limits/unblock", {"limit": limit, "key": _pairs(key)})
    if not answer.get("cleared"):
        typer.echo(f"error: {answer.get('error', 'no such counter: nothing was consumed, nothing blocked')}", err=True)
        raise typer.Exit(_REFUSED)
    typer.echo(f"cleared: {limit}")


def _refuse_options(context: typer.Context, verb: str) -> None:
    """What stands before a verb would not be heeded: another service would be asked, another caller meant."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name) if option.name else None
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"goes behind {verb}", param_hint=option.opts[0])


def _ask(admin: str, method: str, path: str, wish: Mapping[str, object] | None = None) -> dict[str, object]:
    connection = ControlConnection(admin_address(admin))
    try:
        answer = connection.get(path) if method == "GET" else connection.post(path, wish or {})
    except Unreachable as problem:
        typer.echo(f"error: {str(problem).replace('control plane', 'rate limit service')}", err=True)
        raise typer.Exit(_UNREACHABLE) from None
    return answer


def _answer(answer: Mapping[str, object], as_json: bool, tell: Callable[[Mapping[str, object]], None]) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif "error" in answer:
        typer.echo(f"error: {answer['error']}", err=True)
    else:
        tell(answer)
    if "error" in answer:
        raise typer.Exit(_REFUSED)


def _pairs(keys: Iterable[str] | None) -> dict[str, str]:
    pairs = {}
    for each in keys or ():
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f'"{each}": expected key=value, such as user=ann', param_hint="--key")
        pairs[name] = value
    return pairs


def _tell_counters(answer: Mapping[str, object]) -> None:
    for row in _rows(answer, "counters"):
        state = {"ok": "open", "over": "spent", "blocked": "blocked"}.get(str(row["would"]), str(row["would"]))
        wait = f", again in {row['retry_after_s']} s" if row.get("retry_after_s") else ""
        typer.echo(f"{row['limit']}: {row['remaining']} of {row['burst']} left ({state}{wait})")


def _tell_blocked(answer: Mapping[str, object]) -> None:
    rows = _rows(answer, "blocked")
    for row in rows:
        typer.echo(f"{row['limit']}: {_who(row)} until {row['until']}")
    if not rows:
        typer.echo("nobody is blocked")


def _tell_overview(answer: Mapping[str, object]) -> None:
    limits, store = answer.get("limits"), answer.get("store")
    if isinstance(store, dict):
        typer.echo(f"store: {store.get('kind')}{'' if store.get('answers') else ', does not answer'}")
    for name, limit in limits.items() if isinstance(limits, dict) else ():
        quotas = ", ".join(
            f"{'' if tier == 'default' else f'{tier} '}{q['requests']} per {q['window_s']:g} s"
            for tier, q in limit["in_effect"].items()
        )
        typer.echo(f"limit {name}: by {', '.join(limit['by'])}: {quotas}")
    for row in _rows(answer, "refused_most"):
        typer.echo(f"refused most: {row['limit']} {_who(row)}: {row['count']} times")
    for row in _rows(answer, "refusals")[:10]:
        wait = f"again in {row['retry_after_s']} s"
        typer.echo(f"refused {row['at']}: {row['limit']} {_who(row)} on {row['route'] or '-'}: {row['reason']}, {wait}")


def _who(row: Mapping[str, object]) -> str:
    key = row.get("key")
    return " ".join(str(part) for part in key[2:]) if isinstance(key, list) else ""


def _rows(answer: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = answer.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
