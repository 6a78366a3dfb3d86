"""The reference service's observable behaviour, on both stores: request in, statuses and counters out."""

from __future__ import annotations

import pytest

from ratelimit.core.answer import Style
from ratelimit.core.plan import RequestError
from ratelimit.core.rule import NOT_LIMITED
from tests.ratelimit.conftest import Served
from tests.ratelimit.requests import OK, OVER, descriptor, headers

BASIC = """
domain: basic
descriptors:
  - {key: key1, rate_limit: {unit: second, requests_per_unit: 50}}
  - {key: one_per_minute, rate_limit: {unit: minute, requests_per_unit: 1}}
"""
ANOTHER = """
domain: another
descriptors:
  - {key: key2, rate_limit: {unit: minute, requests_per_unit: 20}}
  - {key: key3, rate_limit: {unit: hour, requests_per_unit: 10}}
  - {key: key4, rate_limit: {unit: day, requests_per_unit: 20}}
"""
SECOND, MINUTE, HOUR, DAY = 1, 2, 3, 4


@pytest.fixture
def loaded(served: Served) -> Served:
    served.use_yaml(BASIC, ANOTHER)
    return served


async def test_an_unknown_domain_is_not_limited(loaded: Served) -> None:
    answer = await loaded.ask("foo", descriptor(("hello", "world")))

    assert answer.overall_code == OK
    assert [(s.code, s.HasField("current_limit"), s.limit_remaining) for s in answer.statuses] == [(OK, False, 0)]


async def test_a_limit_is_told_with_what_remains(loaded: Served) -> None:
    answer = await loaded.ask("basic", descriptor(("key1", "foo")))

    (status,) = answer.statuses
    assert (status.code, status.limit_remaining) == (OK, 49)
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (50, SECOND)
    assert status.duration_until_reset.seconds == 1
    assert answer.raw_body == b""
    assert headers(answer) == {}


async def test_twenty_a_minute_are_twenty(loaded: Served) -> None:
    for i in range(25):
        answer = await loaded.ask("another", descriptor(("key2", "rand")))
        (status,) = answer.statuses

        assert answer.overall_code == (OK if i < 20 else OVER)
        assert (status.code, status.limit_remaining) == ((OK, 19 - i) if i < 20 else (OVER, 0))
        hits = loaded.meters.limits[True, "another.key2"]
        assert (hits.total, hits.over) == (i + 1, max(0, i - 19))


async def test_one_descriptor_over_its_limit_refuses_and_the_other_counts_on(loaded: Served) -> None:
    for i in range(15):
        answer = await loaded.ask("another", descriptor(("key2", "r")), descriptor(("key3", "r")))
        first, second = answer.statuses

        assert answer.overall_code == (OK if i < 10 else OVER)
        assert (first.code, first.limit_remaining) == (OK, 19 - i)
        assert (second.code, second.limit_remaining) == ((OK, 9 - i) if i < 10 else (OVER, 0))


async def test_the_time_until_the_reset_runs(loaded: Served) -> None:
    first = await loaded.ask("another", descriptor(("key4", "durTest")))
    loaded.clock.forward(2)
    second = await loaded.ask("another", descriptor(("key4", "durTest")))

    assert first.statuses[0].duration_until_reset.seconds - second.statuses[0].duration_until_reset.seconds == 2


async def test_a_new_window_lets_through_again(loaded: Served) -> None:
    ask = descriptor(("one_per_minute", "x"))
    codes = [(await loaded.ask("basic", ask)).overall_code for _ in range(2)]
    loaded.clock.forward(60)

    assert codes == [OK, OVER]
    assert (await loaded.ask("basic", ask)).overall_code == OK


async def test_a_reload_changes_what_is_known(loaded: Served) -> None:
    ask = descriptor(("key1", "foo"))
    assert not (await loaded.ask("reload", ask)).statuses[0].HasField("current_limit")

    loaded.use_yaml(BASIC.replace("basic", "reload"))
    assert (await loaded.ask("reload", ask)).statuses[0].limit_remaining == 49
    assert not (await loaded.ask("basic", ask)).statuses[0].HasField("current_limit")


async def test_values_that_share_a_threshold_share_a_counter(served: Served) -> None:
    served.use_yaml(
        """
        domain: d
        descriptors:
          - {key: files, value: "files/*", share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 10}}
          - {key: files_no_share, value: "files_no_share/*", rate_limit: {unit: hour, requests_per_unit: 10}}
        """
    )
    for _ in range(10):
        await served.ask("d", descriptor(("files", "files/a.pdf")))
        await served.ask("d", descriptor(("files_no_share", "files_no_share/a.pdf")))

    shared = await served.ask("d", descriptor(("files", "files/b.csv")))
    own = await served.ask("d", descriptor(("files_no_share", "files_no_share/b.csv")))

    assert (shared.statuses[0].code, shared.statuses[0].limit_remaining) == (OVER, 0)
    assert (shared.statuses[0].current_limit.requests_per_unit, shared.statuses[0].current_limit.unit) == (10, HOUR)
    assert (own.statuses[0].code, own.statuses[0].limit_remaining) == (OK, 9)


class TestRequests:
    async def test_an_empty_domain_is_refused(self, loaded: Served) -> None:
        with pytest.raises(RequestError, match="rate limit domain must not be empty"):
            await loaded.ask("", descriptor(("a", "b")))
        assert loaded.meters.request_errors == 1

    async def test_no_descriptors_are_refused(self, loaded: Served) -> None:
        with pytest.raises(RequestError, match="rate limit descriptor list must not be empty"):
            await loaded.ask("basic")

    async def test_nothing_is_decided_before_there_is_a_configuration(self, served: Served) -> None:
        with pytest.raises(RequestError, match="no rate limit configuration loaded"):
            await served.ask("basic", descriptor(("a", "b")))

    async def test_what_is_no_request_is_refused(self, loaded: Served) -> None:
        with pytest.raises(RequestError):
            await loaded.service.decide(b"\xff\xff")

    async def test_a_request_has_an_end(self, loaded: Served) -> None:
        with pytest.raises(RequestError, match="at most 64 descriptors"):
            await loaded.ask("basic", *[descriptor(("key1", "a"))] * 65)
        with pytest.raises(RequestError, match="at most 32 entries"):
            await loaded.ask("basic", descriptor(*[("key1", "a")] * 33))


class TestHits:
    async def test_a_request_may_hit_several_times(self, loaded: Served) -> None:
        answer = await loaded.ask("basic", descriptor(("key1", "h")), hits=20)

        assert answer.statuses[0].limit_remaining == 30

    async def test_a_descriptors_own_hits_come_first(self, loaded: Served) -> None:
        answer = await loaded.ask("basic", descriptor(("key1", "h"), hits=5), descriptor(("key1", "i")), hits=20)

        assert [s.limit_remaining for s in answer.statuses] == [45, 30]

    async def test_zero_hits_only_look(self, loaded: Served) -> None:
        await loaded.ask("basic", descriptor(("key1", "h"), hits=49))
        for _ in range(3):
            answer = await loaded.ask("basic", descriptor(("key1", "h"), hits=0))

        assert (answer.statuses[0].code, answer.statuses[0].limit_remaining) == (OK, 1)

    async def test_a_look_at_exactly_the_limit_is_ok_and_beyond_it_is_not(self, loaded: Served) -> None:
        await loaded.ask("basic", descriptor(("key1", "h"), hits=50))
        at = await loaded.ask("basic", descriptor(("key1", "h"), hits=0))
        await loaded.ask("basic", descriptor(("key1", "h")))
        beyond = await loaded.ask("basic", descriptor(("key1", "h"), hits=0))

        assert [(a.overall_code, a.statuses[0].limit_remaining) for a in (at, beyond)] == [(OK, 0), (OVER, 0)]

    async def test_negative_hits_give_back(self, loaded: Served) -> None:
        await loaded.ask("basic", descriptor(("key1", "h"), hits=50))
        back = await loaded.ask("basic", descriptor(("key1", "h"), hits=10, back=True))

        assert (back.overall_code, back.statuses[0].limit_remaining) == (OK, 10)


class TestModes:
    async def test_unlimited_says_so_and_asks_no_counter(self, served: Served) -> None:
        served.use_yaml("domain: d\ndescriptors: [{key: k, rate_limit: {unlimited: true}}]")

        answer = await served.ask("d", descriptor(("k", "v")))

        assert [(s.code, s.limit_remaining, s.HasField("current_limit")) for s in answer.statuses] == [
            (OK, NOT_LIMITED, False)
        ]
        assert served.meters.limits == {}

    async def test_nothing_passes_zero_requests(self, served: Served) -> None:
        served.use_yaml("domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 0}}]")

        assert (await served.ask("d", descriptor(("k", "v")))).overall_code == OVER

    async def test_shadow_counts_and_refuses_nobody(self, served: Served) -> None:
        served.use_yaml(
            "domain: d\ndescriptors: [{key: k, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}]"
        )
        for _ in range(3):
            answer = await served.ask("d", descriptor(("k", "v")))

        assert (answer.overall_code, answer.statuses[0].code, answer.statuses[0].limit_remaining) == (OK, OK, 0)
        assert served.meters.limits[True, "d.k"].shadowed == 2

    async def test_everything_in_shadow_tells_the_truth_in_the_statuses(self, served: Served) -> None:
        served.styled(Style(shadows_all=True))
        served.use_yaml("domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 0}}]")

        answer = await served.ask("d", descriptor(("k", "v")))

        assert (answer.overall_code, answer.statuses[0].code) == (OK, OVER)
        assert served.meters.global_shadows == 1

    QUOTAS = """
    domain: d
    descriptors:
      - {key: a, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
      - {key: b, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
      - {key: n, rate_limit: {unit: minute, requests_per_unit: 0}}
    """

    async def test_quotas_refuse_when_all_are_spent(self, served: Served) -> None:
        served.use_yaml(self.QUOTAS)
        ask = (descriptor(("a", "x")), descriptor(("b", "x")))

        assert [(await served.ask("d", *ask)).overall_code for _ in range(3)] == [OK, OK, OVER]

    async def test_a_limit_beside_quotas_refuses_alone(self, served: Served) -> None:
        served.use_yaml(self.QUOTAS)

        assert (await served.ask("d", descriptor(("a", "x")), descriptor(("n", "x")))).overall_code == OVER

    async def test_a_limit_that_replaces_another_leaves_its_counter_alone(self, served: Served) -> None:
        served.use_yaml(
            """
            domain: d
            descriptors:
              - {key: old, rate_limit: {name: old, unit: minute, requests_per_unit: 1}}
              - {key: new, rate_limit: {replaces: [{name: old}], unit: minute, requests_per_unit: 2}}
            """
        )
        both = (descriptor(("old", "x")), descriptor(("new", "x")))

        assert [(await served.ask("d", *both)).overall_code for _ in range(3)] == [OK, OK, OVER]
        assert (await served.ask("d", descriptor(("old", "x")))).overall_code == OK

    async def test_a_descriptor_may_bring_its_own_limit(self, served: Served) -> None:
        served.use_yaml(
            "domain: d\ndescriptors: [{key: k, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 9}}]"
        )
        ask = descriptor(("k", "v"), override=(1, MINUTE))

        first, second = [await served.ask("d", ask) for _ in range(2)]

        assert (first.statuses[0].current_limit.requests_per_unit, first.statuses[0].current_limit.unit) == (1, MINUTE)
        assert [first.overall_code, second.overall_code] == [OK, OVER]
        assert (await served.ask("unknown", ask)).overall_code == OK


class TestTold:
    async def test_the_reference_headers_are_of_the_closest_limit(self, served: Served) -> None:
        served.styled(Style(reference_headers=("A-Limit", "A-Remaining", "A-Reset")))
        served.use_yaml(ANOTHER)
        served.clock.forward(2)

        answer = await served.ask("another", descriptor(("key2", "v")), descriptor(("key3", "v")))

        assert headers(answer) == {"A-Limit": "10", "A-Remaining": "9", "A-Reset": "3598"}

    async def test_metadata_of_what_passed_is_passed_on_and_the_first_wins(self, served: Served) -> None:
        served.styled(Style(tells_metadata=True))
        served.use_yaml(
            """
            domain: d
            descriptors:
              - {key: a, metadata: {pool: one}, rate_limit: {unit: day, requests_per_unit: 1}}
              - {key: b, metadata: {pool: two, more: [1]}, rate_limit: {unit: day, requests_per_unit: 2}}
            """
        )
        ask = (descriptor(("a", "x")), descriptor(("b", "x")))

        first, second = [dict((await served.ask("d", *ask)).dynamic_metadata) for _ in range(2)]

        assert (first["pool"], list(first["more"])) == ("one", [1])
        assert second["pool"] == "two"
        assert first["domain"] == "d"
        assert [list(each["entries"]) for each in first["descriptors"]] == [["a=x"], ["b=x"]]

    async def test_values_that_would_join_to_anothers_key_have_their_own_counter(self, served: Served) -> None:
        served.use_yaml(
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 1}}]}]"
        )

        first = await served.ask("d", descriptor(("a", "x_b_y"), ("b", "z")))
        second = await served.ask("d", descriptor(("a", "x"), ("b", "y_b_z")))

        assert [first.overall_code, second.overall_code] == [OK, OK]
