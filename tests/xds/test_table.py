"""The published conformance table is what the tests say."""

from __future__ import annotations

from tests.xds.table import PAGE, page


def test_the_published_table_is_current() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.xds.table > docs/xds-conformance.md`"
