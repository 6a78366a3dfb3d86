"""`causeway extauthz`: the authorization service."""

from __future__ import annotations

import sys

import typer

from extauthz.settings import Settings
from serving.settings import command


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("extauthz")(command(Settings, _run))


def _run(settings: Settings) -> None:
    """Run the authorization service, which Envoy asks about every request."""
    from extauthz.server import serve
    from serving.logs import configure_logs
    from serving.process import run

    configure_logs("extauthz")
    sys.exit(run(lambda stop: serve(settings, stop)))
