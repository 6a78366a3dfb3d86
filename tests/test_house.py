"""The house is tidy: what no linter knows but every reader relies on."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OUR_CODE = ("controlplane", "extauthz", "ratelimit", "serving")
LONGEST_FILE = 450
LONGEST_TEST_FILE = 700
# Longer already. They may get shorter, not longer.
LONG_FILES = {"serving/http2.py": 540}

# word -> what to write in its place
BANNED = {
    r"\bTODO\b": "do it, or leave it out",
    r"\bFIXME\b": "fix it",
    r"\bXXX\b": "say what is the matter",
    r"\bHACK\b": "say why it is as it is",
    r"type: ignore(?!\[)": "name the error that is ignored",
}
# call -> what to write in its place, and where it is at home
BANNED_CALLS = {
    "print": ("the console of the command line, or the log", ("controlplane/cli/", "benchmarks/")),
    "breakpoint": ("nothing", ()),
    "time.sleep": ("wait for the condition", ("tests/support/waiting.py",)),
    "mock.patch": ("a fake, or the real thing", ()),
    "MagicMock": ("a fake, or the real thing", ()),
}


@cache
def tracked() -> tuple[str, ...]:
    """Files of the repository; without git (an unpacked archive), every file that is not hidden or built."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode == 0:
        return tuple(name for name in listing.stdout.splitlines() if (ROOT / name).is_file())
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return tuple(str(path) for path in found if not any(part.startswith(".") for part in path.parts))


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


def texts() -> Iterator[tuple[str, str]]:
    for name in tracked():
        if "\0" not in text_of(name)[:1024] and not name.startswith("tests/vectors/"):
            yield name, text_of(name)


def python_files(*folders: str) -> list[str]:
    return [name for name in tracked() if name.endswith(".py") and name.startswith(tuple(f"{f}/" for f in folders))]


def test_the_envoy_folder_holds_no_python() -> None:
    """A .py there would shadow the generated protos, whose package is also called `envoy`."""
    assert [name for name in tracked() if name.startswith("envoy/") and name.endswith(".py")] == []


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_words_have_better_ones(pattern: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()} ({BANNED[pattern]})"
        for name in python_files(*OUR_CODE, "tests", "benchmarks")
        if name != "tests/test_house.py"
        for number, line in enumerate(text_of(name).splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


@pytest.mark.parametrize("call", BANNED_CALLS)
def test_banned_calls_have_better_ones(call: str) -> None:
    better, at_home = BANNED_CALLS[call]
    found = [
        f"{name}:{node.lineno} ({better})"
        for name in python_files(*OUR_CODE, "tests", "benchmarks")
        if not name.startswith(at_home)
        for node in ast.walk(ast.parse(text_of(name)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == call
    ]
    assert found == []


def test_source_files_are_short_enough_to_read() -> None:
    def limit(name: str) -> int:
        return LONG_FILES.get(name, LONGEST_TEST_FILE if name.startswith("tests/") else LONGEST_FILE)

    files = python_files(*OUR_CODE, "tests", "benchmarks")
    assert {name: lines for name in files if (lines := text_of(name).count("\n")) > limit(name)} == {}
    assert set(LONG_FILES) <= set(files), "what is gone needs no exception"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name
        for name in python_files(*OUR_CODE, "tests", "benchmarks")
        if text_of(name).strip() and not ast.get_docstring(ast.parse(text_of(name)))
    ]
    assert silent == []


def test_no_file_or_folder_is_named_for_nothing() -> None:
    nothing = re.compile(r"(^|/)(utils?|helpers?|common|misc|manager)(\.py|/)")
    assert [name for name in tracked() if nothing.search(name)] == []


def test_nothing_names_a_package_registry() -> None:
    """Locks and images take packages from wherever their reader's pip, npm or Go is told to."""
    registry = re.compile(r"https?://[^\s/\"']*(pypi|pythonhosted|npmjs|proxy\.golang)[^\s\"']*", re.IGNORECASE)
    found = [f"{name}: {match[0]}" for name, text in texts() for match in registry.finditer(text)]
    assert found == []


def test_locks_name_no_index() -> None:
    lines = [line for name in tracked() if name.endswith(".lock") for line in text_of(name).splitlines()]
    assert [line for line in lines if re.search("index.url|find-links", line)] == []
    assert any("--hash=" in line for line in lines)


def test_nothing_names_the_machine_it_was_written_on() -> None:
    machine = re.compile(r"(?<![\w.])/(home|Users)/[a-z][\w.-]+/|(?<![\w.])/" + r"work/\w")
    found = [f"{name}: {match[0]}" for name, text in texts() for match in machine.finditer(text)]
    assert found == []


def test_every_document_has_one_title() -> None:
    def titles(text: str) -> int:
        outside_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        return len(re.findall(r"^# ", outside_code, flags=re.MULTILINE))

    documents = [name for name in tracked() if name.endswith(".md") and text_of(name).strip()]
    assert {name: count for name in documents if (count := titles(text_of(name))) != 1} == {}


def test_no_large_files() -> None:
    ours = [name for name in tracked() if not name.startswith("tests/vectors/")]
    large = {name: size for name in ours if (size := (ROOT / name).stat().st_size) > 600_000}
    assert large == {}


def test_the_license_is_apache() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
