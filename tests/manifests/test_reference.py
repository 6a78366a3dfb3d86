"""The reference in the docs is the one of this version, and its examples are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controlplane.manifests.load import Loaded, load
from controlplane.manifests.reference import markdown

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "manifests.md").read_text()
MARK = "<!-- reference -->\n"


def test_the_reference_in_docs_is_the_one_of_this_version() -> None:
    assert PAGE.partition(MARK)[2] == markdown(), f"after {MARK!r} goes what `causeway schema --reference` prints"


def test_every_link_in_the_reference_leads_to_a_chapter() -> None:
    chapters = {heading.lower() for heading in re.findall(r"(?m)^#+ (.*)$", PAGE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links - {chapter.replace(" ", "-") for chapter in chapters} == set()


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_an_example_on_the_page_is_right(tmp_path: Path, example: str) -> None:
    (tmp_path / "a.yaml").write_text(example)
    assert isinstance(load(tmp_path, {}), Loaded)
