"""Problems as people and machines read them: with the line and a caret, as JSON, as annotations of a code review.

Lines come from `Sources.line`, which covers secrets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.text import Text

from controlplane.manifests.problem import Problem, dotted
from controlplane.origin import Origin

Line = Callable[[Origin], str | None]

WIDEST = 160


def plain(problems: Iterable[Problem], line: Line) -> str:
    """Each problem with its line and a caret under what is meant."""
    return "\n".join(str(_pretty(problem, line)) for problem in problems)


def show(problems: Sequence[Problem], line: Line, console: Console) -> None:
    """Prints every problem and how many there are, in colours where the console has them."""
    for problem in problems:
        console.print(_pretty(problem, line), soft_wrap=True, highlight=False)
    files = len({problem.origin.file for problem in problems})
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    console.print(Text(f"{count} in {files} file{'' if files == 1 else 's'}", style="bold red"), highlight=False)


def as_json(problems: Iterable[Problem], line: Line) -> str:
    """A list of objects, one for each problem."""
    return json.dumps([_record(problem, line) for problem in problems], indent=2, ensure_ascii=False)


def as_github(problems: Iterable[Problem], folder: str) -> str:
    """Workflow commands that mark the lines in a review on GitHub. `folder` leads from the repository to the files."""
    return "\n".join(
        f"::error file={_property(_joined(folder, p.origin.file))},line={p.origin.line},col={p.origin.column},"
        f"title={_property(p.code)}::{_message(p.text)}"
        for p in problems
    )


def as_sarif(problems: Sequence[Problem], folder: str) -> str:
    """A SARIF 2.1.0 log, which code scanning tools read."""
    rules = sorted({problem.code for problem in problems})
    results = [
        {
            "ruleId": p.code,
            "level": "error",
            "message": {"text": p.text},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": _joined(folder, p.origin.file)},
                        "region": {
                            "startLine": p.origin.line,
                            "startColumn": p.origin.column,
                            "endColumn": p.origin.column + p.length,
                        },
                    }
                }
            ],
        }
        for p in problems
    ]
    run = {"tool": {"driver": {"name": "causeway", "rules": [{"id": rule} for rule in rules]}}, "results": results}
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def _pretty(problem: Problem, line: Line) -> Text:
    text = Text(f"{problem.origin}: ", style="bold")
    if problem.subject:
        text.append(f"{problem.subject}: ", style="default not bold")
    text.append(problem.message, style="red not bold")
    text.append("\n")
    source = line(problem.origin)
    if source is not None and source.strip():
        source, column = _window(source, problem.origin.column)
        number = f"{problem.origin.line:>5} | "
        text.append(number, style="blue not bold")
        text.append(source.expandtabs(1) + "\n", style="default not bold")
        text.append(" " * (len(number) - 2) + "| ", style="blue not bold")
        caret = "^" * max(1, min(problem.length, len(source) - column + 1))
        text.append(" " * (column - 1) + caret + "\n", style="red")
    if problem.hint:
        text.append("      = ", style="blue not bold")
        text.append(problem.hint + "\n", style="green not bold")
    return text


def _window(source: str, column: int) -> tuple[str, int]:
    """The part of a long line around the column, and the column in it."""
    if len(source) <= WIDEST:
        return source, column
    first = max(0, min(column - WIDEST // 2, len(source) - WIDEST))
    shown = source[first : first + WIDEST]
    return (f"...{shown[3:]}" if first else shown), column - first


def _record(problem: Problem, line: Line) -> dict[str, str | int | None]:
    return {
        "file": problem.origin.file,
        "line": problem.origin.line,
        "column": problem.origin.column,
        "length": problem.length,
        "path": dotted(problem.path),
        "subject": problem.subject,
        "message": problem.message,
        "hint": problem.hint,
        "code": problem.code,
        "source": line(problem.origin),
    }


def _joined(folder: str, file: str) -> str:
    return f"{folder.rstrip('/')}/{file}" if folder not in ("", ".") else file


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
