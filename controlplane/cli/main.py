"""`causeway`: the command line. One file per verb; this one only gathers them."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

VERBS = (
    "up",
    "serve",
    "validate",
    "render",
    "routes",
    "status",
    "apply",
    "schema",
    "bootstrap",
    "extauthz",
    "ratelimit",
    "token",
    "keys",
    "revoke",
    "authz",
    "limits",
    "version",
)

_INTERRUPTED = 130


def build() -> typer.Typer:
    """The whole command tree, in the order in which `--help` shows it."""
    import typer

    app = typer.Typer(
        name="causeway",
        help="An API gateway: Envoy carries the traffic, the manifests in a folder say what it does.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in VERBS:
        module = f"controlplane.cli.{verb}"
        if find_spec(module):
            import_module(module).register(app)
    return app


def _root() -> None:
    """An API gateway: Envoy carries the traffic, the manifests in a folder say what it does."""


def main() -> None:
    """The console script. Nothing is imported before it: most of a short command's time, in which Ctrl-C comes too."""
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
