"""What the verbs that read a folder share: its argument, building it, and showing what is wrong with it."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from controlplane.manifests.load import Refused
    from controlplane.reconcile import Built

PROBLEMS = 1
"""The exit code when the manifests have problems. 2 is a wrong command line."""

Folder = Annotated[
    Path,
    typer.Argument(
        help="The folder with the manifests, or one file.", envvar="CAUSEWAY_MANIFESTS", show_default="this folder"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Format(Enum):
    """How problems are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


def built(folder: Path, how: Format = Format.TEXT) -> Built:
    """The folder, built as `causeway serve` would. Prints every problem and ends the process when there is one."""
    from controlplane.manifests.load import Refused
    from controlplane.reconcile import build
    from controlplane.resolve.resolve import Deployment

    result = build(folder, os.environ, Deployment())
    if isinstance(result, Refused):
        report(result, how, folder)
        raise typer.Exit(PROBLEMS)
    return result


def report(refused: Refused, how: Format, folder: Path) -> None:
    """Prints the problems: for people on standard error, for programs on standard output."""
    from rich.console import Console

    from controlplane.manifests import report as shown

    root = folder if folder.is_dir() else folder.parent
    problems, line = refused.problems, refused.sources.line
    match how:
        case Format.TEXT:
            shown.show(problems, line, Console(stderr=True, file=sys.stderr))
        case Format.JSON:
            print(shown.as_json(problems, line))
        case Format.GITHUB:
            print(shown.as_github(problems, root.as_posix()))
        case Format.SARIF:
            print(shown.as_sarif(problems, root.as_posix()))
