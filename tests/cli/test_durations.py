"""Durations on the command line."""

from __future__ import annotations

import pytest

from controlplane.cli.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30.0), ("250ms", 0.25), ("5m", 300.0), ("10", 10.0), ("0.5", 0.5), ("0", 0.0)]
)
def test_as_in_manifests_or_a_number_of_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "10 s", "-1", "inf", "nan", "0s", "10x"])
def test_anything_else_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 10s or 5m"):
        seconds(text)
