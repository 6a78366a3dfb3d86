"""Variables: hidden from YAML without moving anything, replaced by what the environment has, typed afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.manifests.interpolation import HIDDEN, Environment, Interpolation, hide, show


def read(path: str) -> str:
    if path == "secret":
        return "from a file\n"
    raise FileNotFoundError(path)


ENVIRONMENT = Environment(variables={"A": "1", "B": "", "C": "${A}", "D": "x: [y]"}, read=read)


def expand(text: str) -> str:
    value, faults = Interpolation(ENVIRONMENT).expand(text)
    assert not faults, faults
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("${A}", "1", id="a variable"),
        pytest.param("x${A}y${A}", "x1y1", id="several in one text"),
        pytest.param("${N:-d}", "d", id="a default for what is not set"),
        pytest.param("${A:-d}", "1", id="no default for what is set"),
        pytest.param("${B}", "", id="empty is set"),
        pytest.param("${B:-d}", "d", id="a default for what is empty, as in a shell"),
        pytest.param("${N:-}", "", id="an empty default"),
        pytest.param("${N:-http://a:1/b?c=d#e, f}", "http://a:1/b?c=d#e, f", id="anything but a brace in a default"),
        pytest.param("$${A}", "${A}", id="an escape"),
        pytest.param("$${A} ${A}", "${A} 1", id="an escape beside a variable"),
        pytest.param("$A $ $$ $5", "$A $ $$ $5", id="a dollar alone is a dollar"),
        pytest.param("${C}", "${A}", id="a value is not read again"),
        pytest.param("${D}", "x: [y]", id="a value is text, not YAML"),
        pytest.param("${file:secret}", "from a file", id="a file without its last line end"),
        pytest.param("${file:nowhere:-d}", "d", id="a default for a file that is not there"),
    ],
)
def test_becomes(text: str, value: str) -> None:
    assert expand(text) == value


@pytest.mark.parametrize(
    "text",
    ["${N}", "${}", "${1}", "${A", "${A-b}", "${A:?b}", "${A:+b}", "${a b}", "${A:-${B}}", "${file:}", "${file:x}"],
)
def test_is_a_fault_and_stays_as_written(text: str) -> None:
    value, faults = Interpolation(ENVIRONMENT).expand("x " + text)
    assert [fault.at for fault in faults] == [2]
    assert value.startswith("x ${")


def test_every_fault_of_a_text_is_told() -> None:
    assert len(Interpolation(ENVIRONMENT).expand("${N} ${M} ${A}")[1]) == 2


def test_what_was_used_is_known() -> None:
    interpolation = Interpolation(ENVIRONMENT)
    interpolation.expand("${A} ${N:-x} ${file:secret}")
    assert interpolation.used == {"A": "1", "N": None, "file:secret": "from a file"}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60).filter(lambda text: not HIDDEN.search(text))
pieces = st.lists(texts | st.sampled_from(["${A}", "$${", "${A:-b, c}", "$", "{", "}", "\n"]), max_size=8).map("".join)


@given(pieces)
def test_hiding_moves_nothing_and_can_be_undone(text: str) -> None:
    hidden = hide(text)
    assert len(hidden) == len(text)
    assert [i for i, c in enumerate(hidden) if c == "\n"] == [i for i, c in enumerate(text) if c == "\n"]
    assert show(hidden) == text


@given(texts)
def test_a_text_without_variables_is_left_alone(text: str) -> None:
    if "${" not in text:
        assert hide(text) == text
        assert expand(text) == text


@given(texts)
def test_an_escaped_text_comes_out_as_it_was(text: str) -> None:
    assert expand(text.replace("${", "$${").replace("$$${", "$" + "$${")) == text or "$${" in text


@given(texts)
def test_a_value_arrives_whole(value: str) -> None:
    environment = Environment(variables={"V": value}, read=read)
    assert Interpolation(environment).expand("<${V}>") == (f"<{value}>", [])
