"""Path patterns against a brute-force oracle, and the order that decides between them."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ir.route import ExactPath, PathPrefix, PathRegex
from controlplane.resolve.paths import Pattern, parse

WORDS = ("a", "b", "a.b")
segments = st.sampled_from((*WORDS, "*", ":x", "{y}"))
patterns = st.builds(
    lambda parts, rest: "/" + "/".join((*parts, *(["**"] if rest else []))),
    st.lists(segments, max_size=3),
    st.booleans(),
)
paths = st.builds(
    lambda parts, slash: "/" + "/".join(parts) + ("/" if slash and parts else ""),
    st.lists(st.sampled_from((*WORDS, "c", "ab")), max_size=4),
    st.booleans(),
)


def matches(pattern: str, path: str) -> bool:
    """The documented meaning, word by word."""
    want = [w for w in pattern.split("/") if w]
    have = [w for w in path.split("/") if w]
    if want and want[-1] == "**":
        want = want[:-1]
        have = have[: len(want)]
    return len(want) == len(have) and all(w[0] in "*:{" or w == h for w, h in zip(want, have, strict=True))


def envoy_matches(pattern: Pattern, path: str) -> bool:
    """What Envoy does with the matcher, as its route matching documentation says."""
    match pattern.matcher:
        case ExactPath(value):
            return path in (value, value + "/") if value != "/" else path == "/"
        case PathPrefix("/"):
            return True
        case PathPrefix(value):
            return path == value or path.startswith(value + "/")
        case PathRegex(value, prefix):
            return path.startswith(prefix) and re.fullmatch(value, path) is not None


@given(patterns, paths)
def test_a_pattern_matches_what_the_documentation_says(pattern: str, path: str) -> None:
    assert envoy_matches(parse(pattern), path) == matches(pattern, path)


@given(st.lists(patterns, min_size=2, max_size=5), paths)
def test_the_most_specific_pattern_comes_first(texts: list[str], path: str) -> None:
    """Of the patterns that match, the first in order is beaten at no segment by another."""
    found = sorted((p for p in texts if matches(p, path)), key=lambda p: parse(p).order)
    for better, worse in pairwise(found):
        assert rank(better, path) <= rank(worse, path)


def rank(pattern: str, path: str) -> list[int]:
    """Segment by segment: literal, single wildcard, nothing left, rest."""
    words = [w for w in pattern.split("/") if w]
    return [3 if w == "**" else 1 if w[0] in "*:{" else 0 for w in words] + ([] if words[-1:] == ["**"] else [2])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("/a/b", "/a/:x", id="a literal comes before a parameter"),
        pytest.param("/a/:x", "/a/**", id="a parameter comes before the rest"),
        pytest.param("/a", "/a/**", id="the path itself comes before everything below it"),
        pytest.param("/a/:x", "/:x/b", id="the first segment that differs decides"),
        pytest.param("/a/b/**", "/a/**", id="a longer literal beginning comes first"),
        pytest.param("/:x/**", "/**", id="anything comes before everything"),
    ],
)
def test_order(first: str, second: str) -> None:
    assert parse(first).order < parse(second).order


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        pytest.param("/a/b/:x/c", "/a/b/", id="what stands before the first wildcard"),
        pytest.param("/a/*/**", "/a/", id="the same before a rest"),
        pytest.param("/:x/b", "", id="nothing"),
    ],
)
def test_an_expression_says_how_its_paths_begin(pattern: str, prefix: str) -> None:
    found = parse(pattern).matcher
    assert isinstance(found, PathRegex)
    assert found.prefix == prefix


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("/a/:x", "/a/{y}", id="parameters by any name"),
        pytest.param("/a/*", "/a/:x", id="a wildcard and a parameter"),
        pytest.param("/a/", "/a", id="a trailing slash"),
    ],
)
def test_same_shape(one: str, other: str) -> None:
    assert parse(one).shape == parse(other).shape
