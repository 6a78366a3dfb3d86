"""Problems as people and programs read them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from controlplane.manifests import report
from controlplane.manifests.load import Refused, load

TEXT = """\
services:
  orders:
    endpoints: ["orders:3000"]
    timeout: 10
routes:
  - {path: orders, servce: orders}
"""


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    (tmp_path / "a.yaml").write_text(TEXT)
    result = load(tmp_path, {})
    assert isinstance(result, Refused)
    return result


def test_each_problem_shows_its_line_with_a_caret_and_what_would_be_right(refused: Refused) -> None:
    assert report.plain(refused.problems, refused.sources.line) == (
        'a.yaml:4:14: service "orders": a duration needs a unit, found 10\n'
        "    4 |     timeout: 10\n"
        "      |              ^^\n"
        '      = write "10s" for seconds or "10ms" for milliseconds\n'
        "\n"
        'a.yaml:6:12: route: a path starts with /, found "orders"\n'
        "    6 |   - {path: orders, servce: orders}\n"
        "      |            ^^^^^^\n"
        '      = write "/orders"\n'
        "\n"
        'a.yaml:6:20: route "orders": unknown key "servce"\n'
        "    6 |   - {path: orders, servce: orders}\n"
        "      |                    ^^^^^^\n"
        '      = did you mean "service"?\n'
    )


def test_a_pipe_gets_no_colours_and_a_terminal_does(refused: Refused) -> None:
    pipe, terminal = StringIO(), StringIO()
    report.show(refused.problems, refused.sources.line, Console(file=pipe))
    report.show(refused.problems, refused.sources.line, Console(file=terminal, force_terminal=True))
    assert "\x1b" not in pipe.getvalue()
    assert "\x1b" in terminal.getvalue()
    assert pipe.getvalue().endswith("3 problems in 1 file\n")


def test_brackets_in_a_message_are_not_taken_for_markup(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("limits: {a: {rate: 5/min, by: '[bold]x'}}\n")
    result = load(tmp_path, {})
    assert isinstance(result, Refused)
    out = StringIO()
    report.show(result.problems, result.sources.line, Console(file=out))
    assert '"[bold]x"' in out.getvalue()


def test_json_has_everything_in_fields(refused: Refused) -> None:
    assert json.loads(report.as_json(refused.problems, refused.sources.line))[0] == {
        "file": "a.yaml",
        "line": 4,
        "column": 14,
        "length": 2,
        "path": "services.orders.timeout",
        "subject": 'service "orders"',
        "message": "a duration needs a unit, found 10",
        "hint": 'write "10s" for seconds or "10ms" for milliseconds',
        "code": "duration",
        "source": "    timeout: 10",
    }


def test_github_gets_workflow_commands(refused: Refused) -> None:
    assert report.as_github(refused.problems, "deploy/x,y").splitlines()[2] == (
        "::error file=deploy/x%2Cy/a.yaml,line=6,col=20,title=unknown-key"
        '::route "orders": unknown key "servce" (did you mean "service"?)'
    )


def test_sarif_names_every_rule_and_place(refused: Refused) -> None:
    run = json.loads(report.as_sarif(refused.problems, "deploy"))["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["duration", "path", "unknown-key"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "deploy/a.yaml"
    assert place["region"] == {"startLine": 4, "startColumn": 14, "endColumn": 16}


def test_of_a_very_long_line_the_part_around_the_place_is_shown(tmp_path: Path) -> None:
    routes = ", ".join(f"{{path: /{n}, redirect: /x}}" for n in range(100))
    (tmp_path / "a.yaml").write_text(f"routes: [{routes}, {{path: here}}, {routes}]\n")
    result = load(tmp_path, {})
    assert isinstance(result, Refused)
    heading, source, caret, *_ = report.plain(result.problems[-1:], result.sources.line).splitlines()
    assert len(source) < report.WIDEST + 20
    assert source[caret.index("^") :].startswith("here")
    assert heading.startswith("a.yaml:1:")
