"""`causeway serve`: the control plane."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from serving.address import Address
from serving.settings import command, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The control plane's settings."""

    folder: Path = setting(".", positional=True, help="The folder with the manifests.", env=("CAUSEWAY_MANIFESTS",))
    xds: tuple[Address, ...] = setting("127.0.0.1:18000", help="Where Envoy and our services connect.")
    admin: Address = setting("127.0.0.1:18001", help="Status, health and metrics.")
    state: Path = setting(".causeway", help="The folder for what must survive a restart.")
    extauthz: tuple[Address, ...] = setting((), help="Where the authorization service's workers listen.")
    ratelimit: tuple[Address, ...] = setting((), help="Where the rate limit service's workers listen.")
    envoy_admin: tuple[Address, ...] = setting((), help="Admin addresses of Envoys, for circuits and health.")
    allow_insecure: bool = setting(False, help="Serve plain text beyond loopback.")


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("serve")(command(Settings, _serve))


def _serve(settings: Settings) -> None:
    """Run the control plane: watch a folder of manifests and tell every Envoy what it says.

    Edits go live by themselves. An edit with a problem is reported and changes nothing that is served.
    """
    from serving.logs import configure_logs
    from serving.process import run

    configure_logs("control-plane")
    sys.exit(run(lambda stop: _run(settings, stop)))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    from controlplane.observe.observer import Observer
    from controlplane.process import Process
    from controlplane.reconcile import endpoint
    from controlplane.resolve.resolve import Deployment
    from controlplane.xds import api
    from controlplane.xds.controlplane import ControlPlane
    from controlplane.xds.keeping import Keeper, restore
    from serving.admin import Admin
    from serving.process import background
    from serving.server import Server

    plane = ControlPlane()
    observer = Observer(settings.envoy_admin)
    deployment = Deployment(
        extauthz=tuple(map(endpoint, settings.extauthz)), ratelimit=tuple(map(endpoint, settings.ratelimit))
    )
    process = Process(settings.folder, deployment, plane, observer, os.environ)
    admin = Admin("control-plane", checks={"snapshot": process.not_ready})
    admin.get("/status", lambda _: process.status())
    api.register(admin, plane, process.apply)
    restore(plane, settings.state)
    keeper = Keeper(plane, settings.state)
    server = Server(plane.services(), allow_insecure=settings.allow_insecure)
    await admin.start(settings.admin)
    async with background(process.run(), observer.run(), keeper.run()):
        # Clients are let in when the manifests have been read once. Until then they keep what they have; what was kept
        # on disk could be of an older version of ours, and is for the case that the manifests cannot be used.
        await process.has_read.wait()
        await server.start(settings.xds)
        admin.started()
        await stop.wait()
    plane.end_all()
    await server.drain(grace_s=2)
    await keeper.keep()
    await admin.stop()
