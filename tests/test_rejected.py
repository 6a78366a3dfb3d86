"""What a canary has refuted is remembered over restarts, and a file that is no use is no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.rejected import FILE_NAME, Rejected


def test_it_is_remembered_and_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Rejected(folder).remember("v2", ("rolled back: no", "changed were a.yaml:1:1"))
    again = Rejected(folder)
    assert (again.version, again.problems) == ("v2", ("rolled back: no", "changed were a.yaml:1:1"))
    again.forget()
    assert Rejected(folder).version == ""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": "v"}', '{"version": "v", "problems": 1}'])
def test_a_damaged_file_is_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    assert Rejected(tmp_path).problems == ()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    rejected = Rejected(tmp_path / "state")
    rejected.remember("v2", ("no",))
    assert rejected.version == "v2"
