"""What the authorization service's process is told at its start. Imports nothing heavy: every command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.address import Address
from serving.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How `causeway extauthz` runs."""

    listen: tuple[Address, ...] = setting("unix:/run/causeway/extauthz.sock", help="Where Envoy asks.")
    workers: int = setting(
        1, minimum=1, maximum=64, help="Processes. The first has the addresses given, the next ones a number: x-2.sock."
    )
    xds: Address | None = setting("unix:/run/causeway/xds.sock", help="The control plane.")
    policy: Path | None = setting(None, help="A policy document to obey in place of the control plane's.")
    state: Path | None = setting(None, help="Folder for the last known good policy, keys and revocations.")
    admin: Address | None = setting(None, help="Where health, metrics and revocations are served.")
    node: str = setting("", help="This process's name; the host's name and process id if left out.")
    cache_mb: int = setting(64, minimum=1, maximum=4096, help="Memory for verified credentials, each worker's.")
    log_every_allow: int = setting(100, minimum=0, help="Log one of so many allowed requests; 0: none.")
    drain: float = setting(5.0, minimum=0, help="Seconds that checks in flight get at the end.")
    tls_cert: Path | None = setting(None, help="Certificate for TCP listeners.")
    tls_key: Path | None = setting(None, help="Its key.")
    tls_ca: Path | None = setting(None, help="Only clients with a certificate of this authority may connect.")
    allow_insecure: bool = setting(False, help="Listen in plain text beyond loopback.")

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together")
        if self.policy is None and self.xds is None:
            raise ValueError("--xds or --policy is needed")
