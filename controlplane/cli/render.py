"""`causeway render`: the Envoy configuration that a folder becomes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.folder import AsJson, Folder, built

if TYPE_CHECKING:
    from controlplane.manifests.load import Sources


class Kind(Enum):
    """The types of resources, by the names people use."""

    LISTENERS = "listeners"
    ROUTES = "routes"
    CLUSTERS = "clusters"
    ENDPOINTS = "endpoints"
    SECRETS = "secrets"
    POLICIES = "policies"


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("render")(render)


def render(
    folder: Folder = Path(),
    type: Annotated[  # noqa: A002  # the flag's name
        list[Kind] | None, typer.Option("--type", "-t", help="Only resources of this type; may be given again.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only the resource of this name.")] = None,
    json: AsJson = False,
) -> None:
    """Print the Envoy configuration that the manifests become, as YAML or JSON.

    What is printed is what Envoy and the two services are given over xDS, in Envoy's words. No secret is shown.
    Each resource comes with the version it is served under.

        causeway render examples/quickstart --type routes

        causeway render --json --type clusters --name service/orders
    """
    import json as encoding

    from controlplane.cli.rendering import SHORT_TYPES, readable

    result = built(folder)
    wanted = [kind.value for kind in type or Kind]
    private = private_texts(result.sources)
    rendered = {
        short: [
            {"version": resource.version, **readable(resource, private)}
            for resource in result.snapshot.of_type(SHORT_TYPES[short]).values()
            if name is None or resource.name == name
        ]
        for short in SHORT_TYPES
        if short in wanted
    }
    if name is not None and not any(rendered.values()):
        shown = {SHORT_TYPES[short] for short in wanted}
        names = ", ".join(sorted({r.name for r in result.snapshot if r.type_url in shown}))
        typer.echo(f"error: nothing is named {name}; there are: {names or 'none'}", err=True)
        raise typer.Exit(2)
    if json:
        print(encoding.dumps(rendered, indent=2, ensure_ascii=False))
        return
    import yaml

    print(yaml.dump(rendered, sort_keys=False, allow_unicode=True, width=120), end="")


def private_texts(sources: Sources) -> set[str]:
    """Values of variables in headers that routes set: the one place where a secret may stand in Envoy's own words."""
    return {text for file in sources.files.values() for text in file.private_headers}
