"""Files as they come: empty, huge, broken, unreadable, several, in folders. Read, or refused with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.manifests import load as loading
from controlplane.manifests.interpolation import LARGEST_VALUE
from controlplane.manifests.load import LARGEST_INCLUDED, Loaded, Refused, load
from controlplane.manifests.syntax import LARGEST_FILE, MOST_DOCUMENTS

SERVICE = "services: {%s: {endpoints: ['a:1']}}\n"


def said(folder: Path) -> list[str]:
    result = load(folder, {})
    return [str(problem) for problem in result.problems] if isinstance(result, Refused) else []


def service_names(folder: Path) -> list[str]:
    result = load(folder, {})
    assert isinstance(result, Loaded), said(folder)
    return list(result.manifest.services)


BROKEN = [
    pytest.param(b"", "a.yaml:1:1: the file is empty", id="an empty file"),
    pytest.param(b"# only words\n---\n", "a.yaml:1:1: the file is empty", id="a file with nothing but a comment"),
    pytest.param("routes: []\n".encode("utf-16"), "a.yaml:1:1: the file is UTF-16", id="UTF-16"),
    pytest.param(b"routes: []\n# caf\xe9\n", "a.yaml:2:6: the byte 0xE9 is not UTF-8", id="Latin-1"),
    pytest.param(b"routes: []\x00\n", "a.yaml:1:11: the character U+0000", id="a zero byte"),
    pytest.param(b"routes: []\r", "a.yaml:1:11: the character U+000D", id="a line end of old"),
    pytest.param("routes: []\u2028".encode(), "a.yaml:1:11: the character U+2028", id="a line end of Unicode's own"),
    pytest.param(os.urandom(4096) + b"\xff", "a.yaml:", id="noise"),
    pytest.param(b"#" * (10 * 1000 * 1000), "a.yaml:1:1: the file has 10.0MB; a manifest has at most", id="10MB"),
    pytest.param(b"[" * 1_000_000, "a.yaml:1:33: nested more than 32 deep", id="a million brackets"),
    pytest.param(b"[\n" * 100_000, "a.yaml:33:1: nested more than 32 deep", id="brackets on lines of their own"),
    pytest.param(b"- " * 100_000, "a.yaml:1:1: nested more than 32 deep", id="a hundred thousand dashes"),
    pytest.param(b"{a: " * 40 + b"1" + b"}" * 40, "a.yaml:1:2: unknown key", id="a little too deep"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert said(tmp_path)[0].startswith(message)


def test_a_bomb_of_aliases_does_not_grow(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    found = said(tmp_path)
    assert len(found) == 29 * 9
    assert "a.yaml:2:10: aliases (*a0) are not read" in found[0]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + (SERVICE % "a").encode())
    assert service_names(tmp_path) == ["a"]


def test_line_ends_of_windows_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"services:\r\n  a:\r\n    endpoints: ['a:1']\r\n    timout: 5s\r\n")
    assert said(tmp_path) == ['a.yaml:4:5: service "a": unknown key "timout" (did you mean "timeout"?)']


@pytest.mark.parametrize(
    "value", ["yes", "no", "on", "off", "y", "0123", "1_000", "5:30", "2020-01-01", "0x1f", "Norway"]
)
def test_what_yaml_1_1_takes_for_something_else_is_text(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text(f"routes: [{{path: /a, respond: {{body: {value}}}}}]\n")
    result = load(tmp_path, {})
    assert isinstance(result, Loaded)
    respond = result.manifest.routes[0].respond
    assert respond is not None
    assert respond.body == value


def test_a_folder_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    assert said(tmp_path / "nowhere") == [
        f"{tmp_path}/nowhere:1:1: there is no such folder (name the folder that holds the manifests)"
    ]


def test_a_folder_without_manifests_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    assert "no manifests in this folder" in said(tmp_path)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE % "a")
    (tmp_path / "a.yaml").chmod(0)
    assert said(tmp_path) == ["a.yaml:1:1: the file cannot be read: Permission denied"]


def test_a_link_to_itself_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    assert said(tmp_path) == ["a.yaml:1:1: the file cannot be read: Too many levels of symbolic links"]


def test_a_pipe_is_a_problem_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert said(tmp_path) == ["a.yaml:1:1: this is not a file (a pipe or device cannot be a manifest)"]


def test_a_link_to_nowhere_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")
    assert said(tmp_path) == ["a.yaml:1:1: the file cannot be read: No such file or directory"]


def test_a_folder_named_as_a_file_is_read_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    (tmp_path / "a.yaml" / "b.yaml").write_text(SERVICE % "b")
    assert service_names(tmp_path) == ["b"]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(SERVICE % name)
    assert "more than 2 files" in said(tmp_path)[0]


def test_too_much_in_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LARGEST_FOLDER", 50)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(SERVICE % name)
    assert "of manifests" in said(tmp_path)[0]


def test_a_file_at_the_limit_is_read(tmp_path: Path) -> None:
    text = SERVICE % "a"
    (tmp_path / "a.yaml").write_text(text + "#" * (LARGEST_FILE - len(text) - 1) + "\n")
    assert service_names(tmp_path) == ["a"]


def test_all_files_of_all_folders_are_merged_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    for name in ("b.yaml", "a.yml", "team/c.yaml"):
        (tmp_path / name).write_text(SERVICE % Path(name).stem)
    assert service_names(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("name", [".hidden.yaml", "..data/a.yaml", "notes.txt", "a.yaml~", "a.json"])
def test_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE % "a")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("not: [yaml")
    assert service_names(tmp_path) == ["a"]


def test_a_folder_that_leads_back_to_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE % "a")
    (tmp_path / "loop").symlink_to(".")
    assert service_names(tmp_path) == ["a"]


def test_a_config_map_as_kubernetes_mounts_it_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "a.yaml").write_text(SERVICE % "a")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert service_names(tmp_path) == ["a"]


def test_several_documents_of_one_file_are_merged(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\n" + SERVICE % "a" + "---\n---\n" + SERVICE % "b")
    assert service_names(tmp_path) == ["a", "b"]


def test_one_file_can_be_read_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE % "a")
    (tmp_path / "b.yaml").write_text("broken: [")
    assert service_names(tmp_path / "a.yaml") == ["a"]


def _two(first: str, second: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a.yaml").write_text(first)
        (folder / "b.yaml").write_text(second)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(
            _two(SERVICE % "x", "# b\nservices:\n  x: {endpoints: ['b:1']}\n"),
            'b.yaml:3:3: service "x" is there twice (the first is at a.yaml:1:12)',
            id="services",
        ),
        pytest.param(
            _two("limits: {x: {rate: 5/min, by: ip}}", "limits: {x: {rate: 6/min, by: ip}}"),
            'b.yaml:1:10: limit "x" is there twice (the first is at a.yaml:1:10)',
            id="limits",
        ),
        pytest.param(
            _two("gateway: {name: a}", "routes: []\ngateway: {name: b}"),
            "b.yaml:2:1: `gateway` is there twice (the first is at a.yaml:1:1)",
            id="gateways",
        ),
        pytest.param(
            _two("identity: {}", "identity: {}"),
            "b.yaml:1:1: `identity` is there twice (the first is at a.yaml:1:1)",
            id="identities",
        ),
        pytest.param(
            _two("routes: [{path: /a, name: x, redirect: /b}]", "routes: [{path: /b, name: x, redirect: /c}]"),
            'b.yaml:1:27: a route named "x" is there twice (the first is at a.yaml:1:27)',
            id="names of routes",
        ),
    ],
)
def test_the_same_name_in_two_files_is_told_with_both_places(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path)
    assert said(tmp_path) == [message]


def test_too_many_documents_in_one_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\nroutes: []\n" * (MOST_DOCUMENTS + 1))
    assert said(tmp_path) == [f"a.yaml:1:1: more than {MOST_DOCUMENTS} documents in one file"]


@pytest.mark.parametrize(
    ("size", "is_read"),
    [pytest.param(LARGEST_INCLUDED, True, id="at the limit"), pytest.param(LARGEST_INCLUDED + 1, False, id="above it")],
)
def test_an_included_file_has_a_limit(tmp_path: Path, size: int, is_read: bool) -> None:
    (tmp_path / "a.yaml").write_text("routes: [{path: /a, redirect: '/${file:big}'}]\n")
    (tmp_path / "big").write_text("x" * size)
    assert any('"big" cannot be read' in problem for problem in said(tmp_path)) is not is_read


def test_a_variable_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routes: [{path: /a, redirect: '/${BIG}'}]\n")
    result = load(tmp_path, {"BIG": "x" * (LARGEST_VALUE + 1)})
    assert isinstance(result, Refused)
    assert "longer than" in result.problems[0].message


def test_an_included_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("routes: [{path: /a, redirect: '/${file:pipe}'}]\n")
    os.mkfifo(tmp_path / "pipe")
    assert '"pipe" cannot be read' in said(tmp_path)[0]
