"""`causeway validate`: is everything in a folder right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.folder import PROBLEMS, AsJson, Folder, Format, built

if TYPE_CHECKING:
    from controlplane.snapshot.snapshot import Snapshot


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("validate")(validate)


def validate(
    folder: Folder = Path(),
    envoy: Annotated[
        bool,
        typer.Option("--envoy", help="Ask the Envoy binary too, with the configuration that would be served."),
    ] = False,
    format: Annotated[  # noqa: A002  # the flag's name
        Format, typer.Option("--format", help="How problems are printed; github and sarif are for CI.")
    ] = Format.TEXT,
    json: AsJson = False,
) -> None:
    """Check the manifests of a folder and print every problem with its file, line and column.

    Nothing is served and nothing is asked over the network. Variables are read from the environment, as they are when
    the gateway runs. The exit code is 0 when everything is right and 1 when there is any problem.

        causeway validate examples/quickstart

        causeway validate --envoy --format github manifests
    """
    how = Format.JSON if json else format
    result = built(folder, how)
    if envoy:
        _ask_envoy(result.snapshot, folder)
    if how is Format.TEXT:
        manifest = result.manifest
        counts = ", ".join(
            f"{len(found)} {what}{'' if len(found) == 1 else 's'}"
            for found, what in (
                (result.sources.files, "file"),
                (manifest.services, "service"),
                (manifest.routes, "route"),
                (manifest.limits, "limit"),
            )
        )
        print(f"{folder}: {counts}, no problems" + (" (Envoy agrees)" if envoy else ""))
    elif how is Format.JSON:
        print("[]")
    elif how is Format.SARIF:
        from controlplane.manifests.report import as_sarif

        print(as_sarif((), folder.as_posix()))


def _ask_envoy(snapshot: Snapshot, folder: Path) -> None:
    from controlplane.cli.rendering import envoy_says
    from controlplane.cli.up.envoy import EnvoyNotFoundError

    try:
        verdict = envoy_says(snapshot)
    except EnvoyNotFoundError as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(2) from None
    if verdict is not None:
        typer.echo(f"Envoy refuses the configuration made of {folder}:\n{verdict}", err=True)
        raise typer.Exit(PROBLEMS)
