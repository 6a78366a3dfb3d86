"""`causeway validate`: is everything in a folder right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.folder import PROBLEMS, AsJson, Folder, Format, built, report

if TYPE_CHECKING:
    from controlplane.reconcile import Built


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
    the gateway runs. The exit code is 0 when everything is right, 1 when there is any problem, and 2 when Envoy was to
    be asked and could not be.

        causeway validate examples/quickstart

        causeway validate --envoy --format github manifests
    """
    how = Format.JSON if json else format
    result = built(folder, how)
    if envoy:
        _ask_envoy(result, how, folder)
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


def _ask_envoy(result: Built, how: Format, folder: Path) -> None:
    from controlplane.cli.refusals import refusals
    from controlplane.cli.rendering import EnvoyIsSilentError, envoy_says
    from controlplane.cli.up.envoy import EnvoyNotFoundError
    from controlplane.manifests.load import Refused
    from controlplane.manifests.problem import Problem, in_order

    try:
        found = refusals(result.snapshot, envoy_says)
    except (EnvoyNotFoundError, EnvoyIsSilentError) as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(2) from None
    if found:
        nowhere = (result.sources.position(()),)
        problems = in_order(
            Problem(origin=origin, message=f"Envoy refuses this: {one.text}", code="envoy")
            for one in found
            for origin in one.origins or nowhere
        )
        report(Refused(problems=problems, sources=result.sources), how, folder)
        raise typer.Exit(PROBLEMS)
