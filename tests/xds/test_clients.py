"""The allow-list: what its lines mean, and what becomes of it while it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.xds.clients import AllowList, identity, parse

NOT_TEXT = "b.test\nc.test # café\n".encode("latin-1")


def test_the_lines_of_a_list() -> None:
    names = parse("\n# a comment\nEnvoy.test # another\n*.edge.test\nservice  authz.test\n")
    assert names.clients == {"envoy.test", "*.edge.test"}
    assert names.services == {"authz.test"}


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    file = tmp_path / "clients"
    file.write_text("a.test\n", encoding="utf-8-sig")
    assert AllowList(file).allows({"a.test"})


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda file: file.unlink(), id="gone"),
        pytest.param(lambda file: file.write_bytes(NOT_TEXT), id="not UTF-8"),
        pytest.param(lambda file: (file.unlink(), file.mkdir()), id="a folder"),
    ],
)
def test_an_unreadable_list_leaves_the_last_one(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    file = tmp_path / "clients"
    file.write_text("a.test\n")
    allow_list = AllowList(file)
    spoil(file)
    assert not allow_list.refresh()
    assert allow_list.allows({"a.test"})
    with pytest.raises(OSError, match="clients"):
        AllowList(file)


def test_a_list_that_can_be_read_again_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "clients"
    file.write_text("a.test\n")
    allow_list = AllowList(file)
    file.write_bytes(NOT_TEXT)
    assert not allow_list.refresh()
    file.write_text("b.test\n")
    assert allow_list.refresh()
    assert not allow_list.allows({"a.test"})


def test_what_is_no_text_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "clients"
    file.write_bytes(NOT_TEXT)
    with pytest.raises(OSError, match=r"clients:2: the list of clients is not UTF-8"):
        AllowList(file)


@pytest.mark.parametrize(
    ("context", "found"),
    [
        pytest.param({"x509_subject_alternative_name": [b"A.test"], "x509_common_name": [b"b"]}, {"a.test"}, id="SAN"),
        pytest.param({"x509_common_name": [b"b"]}, {"b"}, id="common name where there is no SAN"),
        pytest.param({}, set(), id="no certificate"),
    ],
)
def test_identity(context: dict[str, list[bytes]], found: set[str]) -> None:
    assert identity(context) == found
