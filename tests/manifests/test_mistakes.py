"""Every mistake of the corpus is found at its place, said in users' words, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.manifests.load import Refused
from controlplane.manifests.problem import Problem
from controlplane.reconcile import build
from controlplane.resolve.resolve import Deployment
from tests.manifests.mistakes import MARK, MISTAKES, Mistake

ENVIRON = {"ORDERS_TIMEOUT": "5s", "WORD": "soon-or-later", "NUMBER": "5"}


def problems(folder: Path, text: str) -> tuple[Problem, ...]:
    (folder / "a.yaml").write_text(text)
    result = build(folder, ENVIRON, Deployment())
    return result.problems if isinstance(result, Refused) else ()


def expected_place(text: str) -> tuple[int, int]:
    before = text[: text.index(MARK)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_mistake_is_found_where_it_is(tmp_path: Path, mistake: Mistake) -> None:
    found = problems(tmp_path, mistake.text.replace(MARK, ""))
    assert found, "nothing was found"
    first = found[0]
    said = "\n".join(map(str, found))
    assert mistake.message in first.message, said
    assert mistake.hint in first.hint, said
    assert (first.origin.line, first.origin.column) == expected_place(mistake.text), said
    if mistake.only:
        assert len(found) == 1, said


def test_the_corpus_is_large_and_each_mistake_is_named_once() -> None:
    names = [mistake.id for mistake in MISTAKES]
    assert len(names) >= 120
    assert len(set(names)) == len(names)
    assert all(mistake.text.count(MARK) == 1 for mistake in MISTAKES)


MANY = """\
services:
  a: {endpoints: ["a:1"], timout: 5s}
  b: {endpoints: ["b:1"]}
limits:
  few: {rate: 5/fortnight, by: ip}
routes:
  - {path: x, service: a, auth: public}
  - {path: /a, service: a, auth: public, limits: [few]}
  - {path: /b, service: c, auth: public}
  - {path: /c, service: b, auth: public, limits: [many]}
"""


def test_references_are_checked_beside_what_was_refused_and_no_refused_name_is_blamed(tmp_path: Path) -> None:
    assert [(str(p.origin), p.code) for p in problems(tmp_path, MANY)] == [
        ("a.yaml:2:27", "unknown-key"),
        ("a.yaml:5:15", "rate"),
        ("a.yaml:7:12", "path"),
        ("a.yaml:9:25", "reference"),
        ("a.yaml:10:51", "reference"),
    ]


@pytest.mark.parametrize("broken", ["services: [", "identity: {issuer: x}", "servces: {c: {endpoints: ['c:1']}}"])
def test_references_are_left_alone_where_names_are_unknown(tmp_path: Path, broken: str) -> None:
    (tmp_path / "b.yaml").write_text(broken)
    assert {p.origin.file for p in problems(tmp_path, "routes: [{path: /b, service: c}]\n")} == {"b.yaml"}


def test_all_mistakes_are_told_at_once_from_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "services:\n  a: {endpoints: [a], timout: 5}\nroutes:\n  - {path: x, service: a}\n"
    )
    (tmp_path / "b.yaml").write_text("routes: [\n")
    (tmp_path / "c.yaml").write_text("limits: {a: {rate: 5/min, by: ip, burst: 3}}\n")
    found = build(tmp_path, {}, Deployment())
    assert isinstance(found, Refused)
    assert [str(problem.origin) for problem in found.problems] == [
        "a.yaml:2:19",
        "a.yaml:2:23",
        "a.yaml:4:12",
        "b.yaml:1:9",
        "c.yaml:1:35",
    ]
