"""The table of what `causeway up` runs: who, with which arguments, over which sockets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from controlplane.cli.up.demo import Demo
from controlplane.cli.up.envoy import EnvoyAdmin
from controlplane.cli.up.places import Places
from controlplane.cli.up.supervisor import Child

DRAIN_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the table is made from."""

    folder: Path
    places: Places
    demo: Demo
    envoy: Path
    environ: Mapping[str, str]  # with the demo services' addresses
    concurrency: int


def children(plan: Plan, envoy_file: Path) -> tuple[Child, ...]:
    """The processes of one gateway. They may start in any order: each waits for what it needs."""
    from controlplane.cli.bootstrap import ENVOY_ARGUMENTS

    sockets = plan.places.socket
    verbs = {
        "control-plane": (
            "serve",
            str(plan.folder),
            *("--xds", str(sockets("xds"))),
            *("--admin", str(sockets("control-plane"))),
            *("--state", str(plan.places.state / "control-plane")),
            *("--extauthz", str(sockets("extauthz"))),
            *("--ratelimit", str(sockets("ratelimit"))),
            *("--envoy-admin", str(sockets("envoy"))),
        ),
        "extauthz": (
            "extauthz",
            *("--listen", str(sockets("extauthz"))),
            *("--xds", str(sockets("xds"))),
            *("--admin", str(sockets("extauthz-admin"))),
            *("--state", str(plan.places.state / "extauthz")),
        ),
        "ratelimit": (
            "ratelimit",
            *("--listen", str(sockets("ratelimit"))),
            *("--xds", str(sockets("xds"))),
            *("--admin", str(sockets("ratelimit-admin"))),
            *("--state", str(plan.places.state / "ratelimit")),
        ),
    }
    ours = [
        Child(name=name, argv=causeway(*arguments), environ=plan.environ, folder=Path.cwd())
        for name, arguments in verbs.items()
        if find_spec(f"controlplane.cli.{arguments[0]}")
    ]
    admin = EnvoyAdmin(sockets("envoy").path)
    envoy = Child(
        name="envoy",
        argv=(
            str(plan.envoy),
            *("-c", str(envoy_file)),
            *ENVOY_ARGUMENTS,
            "--disable-hot-restart",  # no shared memory is left behind
            *("--concurrency", str(plan.concurrency)),
            *("--log-level", "warning"),
        ),
        environ=plan.environ,
        folder=plan.places.state,
        stop_first=True,
        before_stop=lambda: admin.drain(most_s=DRAIN_S),
    )
    demos = [
        Child(
            name=service.name,
            argv=service.run,
            environ={**plan.environ, "PORT": str(service.port), "PYTHONUNBUFFERED": "1"},
            folder=plan.folder,
        )
        for service in plan.demo.services
    ]
    return (*ours, envoy, *demos)


def causeway(*arguments: str) -> tuple[str, ...]:
    """The command line of one of our own verbs, run by the Python that runs this."""
    return (sys.executable, "-c", "from controlplane.cli.main import main; main()", *arguments)
