"""`causeway schema`: the JSON Schema of the manifests, for editors."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("schema")(schema)


def schema(
    reference: Annotated[
        bool, typer.Option("--reference", help="Print the reference as Markdown in its place.")
    ] = False,
) -> None:
    """Print the JSON Schema of a manifest.

    An editor with the YAML language server completes and checks manifests by it. Write it to a file, and name the file
    in the first line of each manifest:

        causeway schema > manifest.schema.json

        # yaml-language-server: $schema=manifest.schema.json
    """
    if reference:
        from controlplane.manifests.reference import markdown

        print(markdown(), end="")
        return
    import json

    from controlplane.manifests.schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
