"""`python -m benchmarks [names]`: run the benchmarks and print one table of figures and ratios.

A benchmark is a module in this folder with `run()`, plain or async, that returns `Result`s. The table goes to standard
output, and with the machine's description to `benchmarks/results/<time>.json`; what grows with a size is drawn beside
it, as `<time>.svg`.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks.plot import curves, svg
from benchmarks.result import Result

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every module here that has a `run`, told from its source so that listing imports nothing."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return [name for name in modules if "\ndef run(" in _source(name) or "\nasync def run(" in _source(name)]


def _source(name: str) -> str:
    path = FOLDER / f"{name}.py"
    return path.read_text() if path.exists() else ""


def measure(name: str) -> list[Result]:
    answer = import_module(f"benchmarks.{name}").run()
    return list(asyncio.run(answer) if inspect.iscoroutine(answer) else answer)


def machine() -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def table(results: dict[str, list[Result]]) -> Table:
    out = Table("benchmark", "what", "measured", "beside", "reference", "ratio", "note")
    for column in (2, 4, 5):
        out.columns[column].justify = "right"
    for name, rows in results.items():
        for row in rows:
            reference = "" if row.reference is None else f"{_figure(row.reference)} {row.unit}"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            out.add_row(name, row.what, f"{_figure(row.measured)} {row.unit}", row.beside, reference, ratio, row.note)
        out.add_section()
    return out


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones; all where none is named: {', '.join(names())}")
    chosen = parser.parse_args(arguments).names or names()
    if unknown := sorted(set(chosen) - set(names())):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    results: dict[str, list[Result]] = {}
    failures: dict[str, str] = {}
    for name in chosen:
        with console.status(f"measuring {name}"):
            try:
                results[name] = measure(name)
            except Exception as error:  # one that fails must not take the others' figures with it
                failures[name] = f"{type(error).__name__}: {error}"
    console.print(table(results))
    for name, failure in failures.items():
        console.print(f"[red]{name} failed:[/red] {failure}", highlight=False)
    _keep(results)
    return 1 if failures else 0


def _keep(results: dict[str, list[Result]]) -> None:
    folder = FOLDER / "results"
    folder.mkdir(exist_ok=True)
    rows = {name: [{**asdict(row), "ratio": row.ratio} for row in found] for name, found in results.items()}
    path = folder / time.strftime("%Y%m%dT%H%M%S.json")
    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=2) + "\n")
    if found := curves(row for some in results.values() for row in some):
        path.with_suffix(".svg").write_text(svg(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
