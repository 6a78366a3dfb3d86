"""Durations, rates, sizes, percentages: what is written is what is meant, and prints as it is written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from controlplane.manifests.models.scalars import (
    LARGEST_BYTES,
    LONGEST_MS,
    Duration,
    DurationRange,
    Percent,
    Rate,
    Size,
    Timeout,
    Written,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1),
        ("250ms", 250),
        ("10s", 10000),
        ("1.5s", 1500),
        ("0.001s", 1),
        ("5m", 300000),
        ("1h", 3600000),
        ("1d", 86400000),
        ("366d", LONGEST_MS),
    ],
)
def test_a_duration_is_milliseconds(text: str, ms: int) -> None:
    assert Duration.parse(text) == ms
    assert Duration.parse(text).ms == ms


@pytest.mark.parametrize(
    "text",
    ["", "s", "1", "1 s", "-1s", "1.s", ".5s", "1e3s", "1S", "1_0s", "٣s", "0s", "0ms", "367d", "0.0001s", "1s "],
)
def test_is_no_duration(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"duration|more than zero|longer|whole number"):
        Duration.parse(text)


def test_a_timeout_may_be_none() -> None:
    assert Timeout.parse("none").is_none
    assert str(Timeout.parse("none")) == "none"
    assert not Timeout.parse("1ms").is_none


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5MB", 1_500_000),
        ("10MB", 10**7),
        ("1GiB", 2**30),
        ("1024GiB", LARGEST_BYTES),
    ],
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "10", "10M", "10mb", "10 MBs", "-1B", "0.3B", "1025GiB"])
def test_is_no_size(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"size|bytes|more than"):
        Size.parse(text)


@pytest.mark.parametrize(("text", "value"), [("0%", 0.0), ("50%", 50.0), ("0.5%", 0.5), ("100%", 100.0)])
def test_a_percentage_is_of_a_hundred(text: str, value: float) -> None:
    assert Percent.parse(text) == value
    assert Percent.parse(text).fraction == value / 100


@pytest.mark.parametrize("text", ["", "50", "%", "101%", "-1%", "1e1%"])
def test_is_no_percentage(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"percentage"):
        Percent.parse(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/min", Rate(5, Duration(60_000))),
        ("5/m", Rate(5, Duration(60_000))),
        ("100/30s", Rate(100, Duration(30_000))),
        ("1000/day", Rate(1000, Duration(86_400_000))),
        ("10/second", Rate(10, Duration(1_000))),
        ("600/min burst 100", Rate(600, Duration(60_000), 100)),
    ],
)
def test_a_rate_is_a_count_in_a_window(text: str, rate: Rate) -> None:
    if text == "5/m":  # a month or a minute? neither
        with pytest.raises(PydanticCustomError, match=r"unknown window"):
            Rate.parse(text)
    else:
        assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "5", "/min", "5/", "0/min", "5/min burst", "5/min burst 0", "-5/min", "5/0s"])
def test_is_no_rate(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"rate|burst|duration"):
        Rate.parse(text)


def test_a_range_is_two_durations() -> None:
    assert DurationRange.parse("250ms..2s") == DurationRange(Duration(250), Duration(2000))
    assert DurationRange.parse("1s..1s").first == 1000


durations = st.integers(1, LONGEST_MS).map(Duration)
sizes = st.integers(0, LARGEST_BYTES).map(Size)
percents = st.integers(0, 1_000_000).map(lambda n: Percent(n / 10_000))
rates = st.builds(Rate, st.integers(1, 10**9), durations, st.none() | st.integers(1, 10**9))
ranges = st.tuples(durations, durations).map(lambda pair: DurationRange(min(pair), max(pair)))


@given(st.one_of(durations, sizes, percents, rates, ranges))
def test_what_is_printed_reads_back_and_fits_the_pattern(value: Written) -> None:
    text = str(value)
    assert type(value).parse(text) == value
    assert re.search(value.pattern, text)


@given(st.text(max_size=20), st.sampled_from([Duration, Timeout, Size, Percent, Rate, DurationRange]))
def test_whatever_is_written_is_read_or_refused(text: str, kind: type[Written]) -> None:
    """Never another exception, and the pattern that editors use accepts what is read."""
    try:
        value = TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return
    assert type(value).parse(str(value)) == value
