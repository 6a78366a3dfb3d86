"""`causeway routes`: which requests go where, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from controlplane.cli.folder import AsJson, Folder, built
from controlplane.ir.names import service_of

if TYPE_CHECKING:
    from controlplane.ir.gateway import Gateway
    from controlplane.ir.identity import Authorization
    from controlplane.ir.route import Action, Route, ValueMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A route as a line of the table."""

    hosts: tuple[str, ...]
    methods: tuple[str, ...]
    path: str
    conditions: tuple[str, ...]
    target: str
    auth: str
    limits: tuple[str, ...]
    name: str
    place: str


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("routes")(routes)


def routes(
    folder: Folder = Path(),
    service: Annotated[str | None, typer.Option("--service", "-s", help="Only routes to this service.")] = None,
    json: AsJson = False,
) -> None:
    """List the routes in match order: the first that fits a request answers it.

    The order comes from the routes themselves, never from the files: the more specific host, path and conditions come
    first. A route with several hosts is listed under each of them.
    """
    rows = [row for row in table(built(folder).gateway) if service is None or service in row.target.split()]
    if json:
        import json as encoding

        print(encoding.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    _print(rows)


def table(gateway: Gateway) -> Iterator[Row]:
    """The rows, in match order. Every listener has the same routes, so one is enough."""
    for host in gateway.route_tables[0].virtual_hosts if gateway.route_tables else ():
        for route in host.routes:
            yield _row(route, host.domains)


def _row(route: Route, hosts: tuple[str, ...]) -> Row:
    return Row(
        hosts=hosts,
        methods=route.match.methods,
        path=route.pattern,
        conditions=tuple(
            [f"header {_condition(match)}" for match in route.match.headers]
            + [f"query {_condition(match)}" for match in route.match.query]
        ),
        target=_target(route.action),
        auth=auth(route.authorization),
        limits=tuple(limit.name for limit in route.limits),
        name=route.name,
        place=str(route.origin),
    )


def _condition(match: ValueMatch) -> str:
    match match.kind:
        case "exact":
            return f"{match.name}={match.value}"
        case "prefix":
            return f"{match.name}={match.value}..."
        case "suffix":
            return f"{match.name}=...{match.value}"
        case "contains":
            return f"{match.name}=...{match.value}..."
        case "regex":
            return f"{match.name}~{match.value}"
        case "present":
            return match.name
        case "absent":
            return f"no {match.name}"
        case other:
            assert_never(other)


def _target(action: Action) -> str:
    from controlplane.ir.route import DirectResponse, ErrorResponse, Forward, Redirect

    match action:
        case Forward(clusters=clusters):
            names = [service_of(cluster.cluster) for cluster in clusters]
            if len(clusters) == 1:
                return names[0]
            total = sum(cluster.weight for cluster in clusters) or 1
            return " ".join(f"{name} {100 * c.weight / total:.4g}%" for name, c in zip(names, clusters, strict=True))
        case Redirect(status=status):
            to = "".join(filter(None, (action.scheme and f"{action.scheme}://", action.host, action.path)))
            return f"redirect {status} {to}".rstrip()
        case DirectResponse(status=status) | ErrorResponse(status=status):
            return f"respond {status}"
        case other:
            assert_never(other)


def auth(asked: Authorization) -> str:
    """What a route asks of its callers, in the words of the manifests."""
    said: list[str] = [asked.mode]
    if asked.mode != "public":
        said += [f"by {' or '.join(asked.accept)}"] if asked.accept else []
        said += [f"from {' or '.join(asked.issuers)}"] if asked.issuers else []
        said += [f"role {'|'.join(roles)}" for roles in asked.roles]
        said += [f"scope {'|'.join(scopes)}" for scopes in asked.scopes]
        said += ["claims"] if asked.claims else []
        said += ["own tenant"] if asked.tenants else []
    said += ["addresses"] if asked.ip_allow or asked.ip_deny else []
    return ", ".join(said)


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    has_hosts = any(row.hosts != ("*",) for row in rows)
    for title, wanted in (("HOST", has_hosts), ("METHODS", True), ("PATH", True), ("TO", True), ("AUTH", True)):
        if wanted:
            shown.add_column(title, overflow="fold")
    shown.add_column("LIMITS", overflow="fold")
    shown.add_column("PLACE", style="dim", overflow="fold")
    for row in rows:
        path = " ".join((row.path, *(f"[{condition}]" for condition in row.conditions)))
        colour = "yellow" if row.auth.startswith("public") else "default"
        cells = [_plain(", ".join(row.hosts))] if has_hosts else []
        cells += [_plain(",".join(row.methods) or "any"), _plain(path), _plain(row.target)]
        shown.add_row(*cells, f"[{colour}]{_plain(row.auth)}[/]", _plain(", ".join(row.limits)), _plain(row.place))
    if console.is_terminal:
        console.print(shown)
    else:  # a pipe has no width: nothing may be folded
        Console(highlight=False, width=10_000).print(shown)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
