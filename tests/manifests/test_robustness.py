"""Whatever stands in a file: it is read or refused with places inside it; never an exception, never a wrong place."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.manifests import report
from controlplane.manifests.file import read_file
from controlplane.manifests.interpolation import Environment
from controlplane.manifests.schema import json_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = [path.read_text() for path in sorted((ROOT / "examples").rglob("*.yaml"))]
ENVIRONMENT = Environment(variables={"A": "1", "B": "b"}, read=lambda path: path)
KEYS = sorted({k for d in json_schema()["$defs"].values() for k in d.get("properties", {})})  # type: ignore[attr-defined]

noise = st.sampled_from(
    [
        *"\t\n {}[]:,-#&*!|>'\"%@`$?~\\",
        "${",
        "$${A}",
        "${A}",
        "<<: ",
        "&a ",
        "*a",
        "---\n",
        "\x07",
        "é",
        "\U0001f600",
        "\r",
    ]
)


def check(content: bytes) -> None:
    file = read_file("a.yaml", content, ENVIRONMENT)
    lines = file.syntax.text.split("\n") if file.syntax.text else [""]
    for problem in file.problems:
        assert problem.message
        assert 1 <= problem.origin.line <= max(1, len(lines))
        width = len(lines[problem.origin.line - 1])
        assert 1 <= problem.origin.column <= width + 2
    report.plain(file.problems, lambda origin: file.line(origin.line))
    report.as_json(file.problems, lambda origin: file.line(origin.line))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(EXAMPLES), st.lists(st.tuples(st.floats(0, 1), noise | st.just(""), st.integers(0, 5)), max_size=5)
)
def test_a_damaged_example(text: str, edits: list[tuple[float, str, int]]) -> None:
    for where, what, dropped in edits:
        at = int(where * len(text))
        text = text[:at] + what + text[at + dropped :]
    check(text.encode("utf-8", "replace"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_bytes(content: bytes) -> None:
    check(content)


@settings(max_examples=100, deadline=None)
@given(st.lists(noise | st.sampled_from(KEYS) | st.text(max_size=3), max_size=40).map("".join))
def test_words_and_signs(text: str) -> None:
    check(text.encode("utf-8", "replace"))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["5s", "/a", "a:1", "${A}", "", "x"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["gateway", "identity", "limits", "services", "routes", "api_keys"]), values, max_size=4
    )
)
def test_known_keys_with_wrong_values(document: dict[str, object]) -> None:
    import json

    check(json.dumps(document).encode())
