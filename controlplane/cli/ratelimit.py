"""`causeway ratelimit`: the rate limit service."""

from __future__ import annotations

import sys
from functools import partial

import typer

from ratelimit.settings import Settings
from serving.settings import command


def register(app: typer.Typer) -> None:
    app.command("ratelimit")(command(Settings, _run))


def _run(settings: Settings) -> None:
    """The rate limit service: with a folder of the reference service's YAML, or beside the control plane."""
    from ratelimit.server import serve  # here, so that every other verb starts without gRPC
    from serving.logs import configure_logs
    from serving.process import run

    configure_logs("ratelimit")
    sys.exit(run(partial(serve, settings)))
