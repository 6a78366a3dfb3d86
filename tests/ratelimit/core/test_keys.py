"""Counter identities: no two share one, whatever bytes are in keys and values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.core.keys import LONGEST, identity, parts

ANY = st.lists(st.text(max_size=80), max_size=6)


@given(ANY, ANY)
def test_different_parts_have_different_identities(one: list[str], other: list[str]) -> None:
    assert (identity(one) == identity(other)) == (one == other)


@given(st.lists(st.text(max_size=6), max_size=5))
def test_an_identity_can_be_read_again(written: list[str]) -> None:
    assert parts(identity(written)) == tuple(written)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(["a_b", "c"], ["a", "b_c"], id="an underscore moves from one part to the next"),
        pytest.param(["a", "b"], ["a:1:b"], id="a value that looks like an encoded part"),
        pytest.param(["1:a"], ["a"], id="a value that looks like a length"),
        pytest.param(["", "a"], ["a", ""], id="an empty part moves"),
        pytest.param(["a"], ["a", ""], id="an empty part is a part"),
        pytest.param(["é"], ["é".encode().decode("latin-1")], id="lengths are of bytes"),
    ],
)
def test_pairs_that_joining_would_confuse(one: list[str], other: list[str]) -> None:
    assert identity(one) != identity(other)


@pytest.mark.parametrize("size", [LONGEST, LONGEST * 50])
def test_long_values_are_told_apart_in_few_bytes(size: int) -> None:
    one, other = identity(["limit", "x" * size + "1"]), identity(["limit", "x" * size + "2"])

    assert one != other
    assert len(one) <= LONGEST


def test_no_value_can_pass_for_the_identity_of_a_long_one() -> None:
    long = identity(["limit", "x" * 1000])

    assert identity([long.decode()]) != long
    assert not long[:1].isdigit(), "an identity that was cut begins as none that was not"


def test_surrogates_in_a_value_are_bytes_like_any_other() -> None:
    assert identity(["\udcff"]) != identity(["?"])
