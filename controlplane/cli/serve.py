"""`causeway serve`: the control plane."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from controlplane.cli.durations import seconds
from serving.address import Address
from serving.settings import command, setting

if TYPE_CHECKING:
    from controlplane.process import Canary


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The control plane's settings."""

    folder: Path = setting(".", positional=True, help="The folder with the manifests.", env=("CAUSEWAY_MANIFESTS",))
    xds: tuple[Address, ...] = setting("127.0.0.1:18000", help="Where Envoy and our services connect.")
    admin: Address = setting("127.0.0.1:18001", help="Status, health, metrics, and what `causeway apply` asks for.")
    state: Path = setting(".causeway", help="The folder for what must survive a restart.")
    extauthz: tuple[Address, ...] = setting((), help="Where the authorization service's workers listen.")
    ratelimit: tuple[Address, ...] = setting((), help="Where the rate limit service's workers listen.")
    envoy_admin: tuple[Address, ...] = setting((), help="Admin addresses of Envoys, for circuits and health.")
    allow_insecure: bool = setting(False, help="Serve plain text, and the admin address to anybody, beyond loopback.")
    xds_certificate: Path | None = setting(None, help="PEM of the control plane's certificate on its xDS addresses.")
    xds_key: Path | None = setting(None, help="PEM of its key.")
    xds_ca: Path | None = setting(None, help="PEM of the authority that signs clients: they must show a certificate.")
    xds_clients: Path | None = setting(None, help="File of the client certificates' names that may connect.")
    watch: bool = setting(True, help="Serve edits as they are saved; no: when `causeway apply` says so.")
    canary: str = setting("", help="Give edits to some Envoys first: a number, or a share such as 10%. Empty: to all.")
    canary_watch: str = setting("30s", help="How long those must do well before everybody gets the edit.")
    deletion_share: float = setting(
        0.5, minimum=0, maximum=1, help="An edit that removes more than this share at once waits for a confirmation."
    )

    def __post_init__(self) -> None:
        if not self.admin.is_loopback and not self.allow_insecure:
            raise ValueError(
                f"--admin {self.admin}: whoever reaches it can change what is served: "
                "loopback or unix:/path only, or allow it (--allow-insecure yes)"
            )
        if (self.xds_certificate is None) != (self.xds_key is None):
            raise ValueError("--xds-certificate and --xds-key go together")
        if self.xds_ca is not None and self.xds_certificate is None:
            raise ValueError("--xds-ca needs --xds-certificate and --xds-key")
        self.how_canary()
        if self.xds_clients is not None and self.xds_ca is None:
            raise ValueError("--xds-clients needs --xds-ca: names that nobody vouches for are no names")

    def how_canary(self) -> Canary:
        """Raises ValueError saying which flag is wrong."""
        from controlplane.process import Canary

        try:
            return Canary(size=self.canary, watch_s=seconds(self.canary_watch))
        except ValueError as problem:
            raise ValueError(f"--canary, --canary-watch: {problem}") from None


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
    from controlplane.cli.bootstrap import OLDEST_ENVOY
    from controlplane.observe.fleet import Fleet
    from controlplane.observe.observer import Observer
    from controlplane.process import Process
    from controlplane.reconcile import endpoint
    from controlplane.rejected import Rejected
    from controlplane.resolve.resolve import Deployment
    from controlplane.xds import api, csds
    from controlplane.xds.clients import AllowList
    from controlplane.xds.controlplane import ControlPlane
    from controlplane.xds.keeping import Keeper
    from controlplane.xds.policy import Policy
    from controlplane.xds.protocol import REQUEST_BYTES
    from controlplane.xds.rollout import Rollout
    from serving.admin import Admin
    from serving.process import background
    from serving.server import Limits, Server
    from serving.tls import TlsFiles

    held = _hold(settings.state)
    plane = ControlPlane(
        Policy(deletion_share=settings.deletion_share, oldest_envoy=OLDEST_ENVOY),
        allow_list=AllowList(settings.xds_clients) if settings.xds_clients is not None else None,
    )
    tls = None
    if settings.xds_certificate is not None and settings.xds_key is not None:
        tls = TlsFiles(
            certificate=settings.xds_certificate,
            key=settings.xds_key,
            ca=settings.xds_ca,
            flags=("--xds-certificate", "--xds-key", "--xds-ca"),
        )
    observer = Observer(settings.envoy_admin)
    deployment = Deployment(
        extauthz=tuple(map(endpoint, settings.extauthz)), ratelimit=tuple(map(endpoint, settings.ratelimit))
    )
    canary = settings.how_canary()
    fleet = Fleet(settings.envoy_admin, is_measuring=bool(canary.size))
    rollout = Rollout(plane, fleet.now, earlier=fleet.earlier, forget=fleet.forget)
    process = Process(
        settings.folder,
        deployment,
        plane,
        observer,
        os.environ,
        is_watching=settings.watch,
        canary=canary,
        rollout=rollout,
        rejected=Rejected(settings.state),
        frozen=fleet.frozen,
    )
    admin = Admin("control-plane", checks={"snapshot": process.not_ready, "critical services": observer.problem})
    keeper = Keeper(plane, settings.state, made_of=str(settings.folder.absolute()))
    keeper.restore()
    admin.get("/status", lambda _: {**process.status(), "state": keeper.as_json()})
    api.register(admin, plane, process.apply, rollout, keeper.kept, watch_s=canary.watch_s)
    server = Server(
        [*plane.services(), csds.service(plane)],
        limits=Limits(message_bytes=REQUEST_BYTES),
        tls=tls,
        allow_insecure=settings.allow_insecure,
    )
    await admin.start(settings.admin)
    always = (process.run(), process.watch_departures(), observer.run(), fleet.run(), keeper.run())
    async with background(*always, plane.watch_clients()):
        # Clients are let in when the manifests have been read once. Until then they keep what they have; what was kept
        # on disk could be of an older version of ours, and is for the case that the manifests cannot be used.
        await process.has_read.wait()
        await server.start(settings.xds)
        admin.started()
        await stop.wait()
    await rollout.stop()
    plane.end_all()
    await server.drain(grace_s=2)
    await keeper.keep()
    await admin.stop()
    if held is not None:
        os.close(held)


def _hold(state: Path) -> int | None:
    """The state folder is this process's until the descriptor is closed. Raises OSError when it is another's.

    None where it cannot be written: nothing will be, and what it keeps can be read all the same.
    """
    from serving.lock import LockedError, lock

    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return lock(state / "lock")
    except LockedError as other:
        whose = f"a control plane that runs (process {other.holder})"
        raise OSError(f"{state} is the state of {whose}: give each its own with --state") from None
    except OSError:
        return None
