"""`causeway up DIR`: the whole gateway from one command, with everything it needs and nothing left behind.

children.py    the table of what runs
supervisor.py  keeps it running: restart, stop in time
demo.py        services to try the gateway with
screen.py      what a person sees
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    def up(
        folder: Annotated[Path, typer.Argument(help="The folder of manifests.")],
        state: Annotated[
            Path | None,
            typer.Option(help="Where to keep logs and the last good configuration.", envvar="CAUSEWAY_STATE"),
        ] = None,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every line that the processes write.")] = False,
        plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also on a terminal.")] = False,
    ) -> None:
        """Run the gateway of a folder on this machine: control plane, services, Envoy, and the folder's demo services.

        Needs neither Docker nor Redis nor root. Edits of the folder go live as they are saved. Ctrl-C stops everything.
        """
        from controlplane.cli.up.run import up as run

        raise typer.Exit(run(folder, state=state, is_verbose=verbose, is_plain=plain))

    app.command("up")(up)
