"""The reference service's configuration: what is accepted, what is refused and why, what matches."""

from __future__ import annotations

import pytest
import yaml

from ratelimit.core.reference import Config, ConfigError, build
from ratelimit.core.rule import Unit


def config(text: str, *, name: str = "f.yaml") -> Config:
    return build([(name, yaml.safe_load(text))])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("descriptors: []", "config file cannot have empty domain", id="no domain"),
        pytest.param("domain: ''", "config file cannot have empty domain", id="an empty domain"),
        pytest.param("domain: d\ndescriptors: [{value: v}]", "descriptor has empty key", id="no key"),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, value: v}, {key: k, value: v}]",
            "duplicate descriptor composite key 'd.k_v'",
            id="the same key and value twice",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b}, {key: b}]}]",
            "duplicate descriptor composite key 'd.a.b'",
            id="the same key twice, one level down",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: foo, requests_per_unit: 5}}]",
            "invalid rate limit unit 'foo'",
            id="an unknown unit",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {requests_per_unit: 5}}]",
            "invalid rate limit unit ''",
            id="no unit",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: unknown, requests_per_unit: 5}}]",
            "invalid rate limit unit 'unknown'",
            id="the unit called unknown",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unlimited: true, unit: day}}]",
            "should not specify rate limit unit when unlimited",
            id="unlimited with a unit",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, ratelimit: {unit: day}}]",
            "config error, unknown key 'ratelimit'",
            id="a misspelt key",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requestsperunit: 1}}]",
            "config error, unknown key 'requestsperunit'",
            id="a misspelt key further in",
        ),
        pytest.param(
            "domain: d\n0.25: x", "config error, key is not of type string: 0.25", id="a key that is a number"
        ),
        pytest.param(
            "domain: d\ndescriptors: [a, b]",
            "config error, yaml file contains list of type other than map: a",
            id="a list of text",
        ),
        pytest.param("domain: d\ndescriptors: [{key: 0.5}]", "error checking config", id="a value that is a fraction"),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, replaces: [{name: ''}]}}]",
            "should not have an empty replaces entry",
            id="replaces nothing",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, name: n, replaces: [{name: n}]}}]",
            "replaces should not contain name of same descriptor",
            id="replaces itself",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, value: v, share_threshold: true, rate_limit: {unit: day}}]",
            "share_threshold can only be used with wildcard values",
            id="a shared threshold without a wildcard",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: many}}]",
            "error loading config file",
            id="a number that is none",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: -1}}]",
            "error loading config file",
            id="fewer than no requests",
        ),
        pytest.param(
            "domain: d\ndescriptors: [{key: k, shadow_mode: sometimes}]",
            "error loading config file",
            id="a flag that is neither",
        ),
    ],
)
def test_a_mistake_refuses_the_whole_configuration(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(text)

    assert str(refused.value).startswith("f.yaml: ")
    assert problem in str(refused.value)


def test_a_domain_in_two_files_is_refused_unless_they_are_to_be_merged() -> None:
    one = yaml.safe_load("domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]")
    other = yaml.safe_load("domain: d\ndescriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 1}}]")

    with pytest.raises(ConfigError, match=r"two\.yaml: duplicate domain 'd' in config file"):
        build([("one.yaml", one), ("two.yaml", other)])
    merged = build([("one.yaml", one), ("two.yaml", other)], merges_domains=True)
    assert merged.match("d", [("a", "")]) is not None
    assert merged.match("d", [("b", "")]) is not None


RULES = """
domain: d
descriptors:
  - {key: k, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: k, value: exact, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: k, value: "ex*", rate_limit: {unit: minute, requests_per_unit: 3}}
  - {key: k, value: "e*", rate_limit: {unit: minute, requests_per_unit: 4}}
  - {key: k, value: "bar*b", rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: k, value: "1*2*3", rate_limit: {unit: minute, requests_per_unit: 6}}
  - {key: only, value: this, rate_limit: {unit: minute, requests_per_unit: 7}}
  - key: deep
    descriptors:
      - {key: er, rate_limit: {unit: hour, requests_per_unit: 8}}
  - {key: a_b, rate_limit: {unit: hour, requests_per_unit: 9}}
  - {key: white, value: listed}
"""


@pytest.mark.parametrize(
    ("entries", "requests"),
    [
        pytest.param([("k", "other")], 1, id="a key without a value stands for any value"),
        pytest.param([("k", "")], 1, id="an empty value is any value"),
        pytest.param([("k", "exact")], 2, id="an exact value comes first"),
        pytest.param([("k", "extra")], 3, id="the first wildcard in the file wins"),
        pytest.param([("k", "else")], 4, id="the next wildcard is tried"),
        pytest.param([("k", "barb")], 5, id="a star may stand for nothing"),
        pytest.param([("k", "bar123b")], 5, id="a star in the middle"),
        pytest.param([("k", "bara")], 1, id="what follows the star must match"),
        pytest.param([("k", "xbarb")], 1, id="what comes before the star must match"),
        pytest.param([("k", "1x2y3")], 6, id="several stars"),
        pytest.param([("k", "1x3y2")], 1, id="several stars in their order"),
        pytest.param([("only", "that")], None, id="no rule for this value"),
        pytest.param([("deep", "x"), ("er", "y")], 8, id="two levels"),
        pytest.param([("deep", "x")], None, id="a level without a limit"),
        pytest.param([("k", "x"), ("er", "y")], None, id="more entries than the rule has"),
        pytest.param([("a_b", "c")], 9, id="an underscore in a key"),
        pytest.param([("a", "b")], None, id="a key and value that would join to another's key"),
        pytest.param([("white", "listed")], None, id="a descriptor without a limit is not limited"),
        pytest.param([], None, id="no entries"),
    ],
)
def test_what_matches(entries: list[tuple[str, str]], requests: int | None) -> None:
    matched = config(RULES).match("d", entries)

    assert (matched.rule.budget.requests if matched else None) == requests


def test_each_value_has_a_counter_of_its_own_unless_they_share_the_threshold() -> None:
    rules = config(
        """
        domain: d
        descriptors:
          - {key: own, value: "files/*", rate_limit: {unit: hour, requests_per_unit: 10}}
          - {key: shared, value: "files/*", share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 10}}
        """
    )

    def counter(key: str, value: str) -> tuple[str, ...]:
        matched = rules.match("d", [(key, value)])
        assert matched is not None
        return matched.parts

    assert counter("own", "files/a") != counter("own", "files/b")
    assert counter("shared", "files/a") == counter("shared", "files/b")
    assert rules.match("d", [("shared", "other/a")]) is None


def test_a_value_that_is_the_pattern_itself_is_not_the_shared_counter() -> None:
    rules = config(
        """
        domain: d
        descriptors:
          - {key: k, value: "a*", share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 10}}
          - {key: k, rate_limit: {unit: hour, requests_per_unit: 10}}
        """
    )
    shared, own = rules.match("d", [("k", "ab")]), rules.match("d", [("k", "=a*")])

    assert shared is not None
    assert own is not None
    assert shared.parts != own.parts


@pytest.mark.parametrize(
    ("descriptor", "entries", "label"),
    [
        pytest.param("{key: k", [("k", "v")], "d.k", id="a key alone"),
        pytest.param("{key: k, value: v", [("k", "v")], "d.k_v", id="a key and its value"),
        pytest.param("{key: k, detailed_metric: true", [("k", "v")], "d.k_v", id="detailed"),
        pytest.param("{key: k, value_to_metric: true", [("k", "v")], "d.k_v", id="the value in the metric"),
        pytest.param("{key: k, value: 'a*'", [("k", "ab")], "d.k_a*", id="a wildcard"),
        pytest.param("{key: k, value: 'a*', value_to_metric: true", [("k", "ab")], "d.k_ab", id="a wildcard's value"),
        pytest.param(
            "{key: k, value: 'a*', share_threshold: true, detailed_metric: true",
            [("k", "ab")],
            "d.k_a*",
            id="a shared threshold is one metric",
        ),
    ],
)
def test_metric_labels(descriptor: str, entries: list[tuple[str, str]], label: str) -> None:
    rules = config(f"domain: d\ndescriptors: [{descriptor}, rate_limit: {{unit: day, requests_per_unit: 1}}}}]")

    matched = rules.match("d", entries)

    assert matched is not None
    assert matched.label == label


def test_metadata_survives_a_detailed_metric() -> None:
    """The reference service loses it there."""
    rules = config(
        "domain: d\ndescriptors: [{key: k, detailed_metric: true, metadata: {pool: [1, {a: b}]}, "
        "rate_limit: {unit: day, requests_per_unit: 1}}]"
    )

    matched = rules.match("d", [("k", "v")])

    assert matched is not None
    assert matched.rule.metadata == '{"pool": [1, {"a": "b"}]}'


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("second", 1),
        ("MINUTE", 60),
        ("hour", 3600),
        ("day", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ],
)
def test_units(unit: str, seconds: int) -> None:
    matched = config(f"domain: d\ndescriptors: [{{key: k, rate_limit: {{unit: {unit}, requests_per_unit: 1}}}}]").match(
        "d", [("k", "")]
    )

    assert matched is not None
    assert matched.rule.budget.window_us == seconds * 1_000_000
    assert matched.rule.unit is Unit[unit.upper()]
