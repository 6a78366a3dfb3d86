"""Our own limits, on both stores: who is counted together, what clients are told, what changes leave alone."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from tests.ratelimit.conftest import Served
from tests.ratelimit.requests import OK, OVER, descriptor, headers, limited
from tests.ratelimit.structured import parse_list

DOMAIN = "causeway"


def per_minute(requests: int, burst: int | None = None) -> dict[str, int]:
    return {"requests": requests, "window_ms": 60_000, **({"burst": burst} if burst else {})}


async def codes(served: Served, *asks: Any) -> list[int]:
    return [(await served.ask(DOMAIN, ask)).overall_code for ask in asks]


class TestWhoIsCountedTogether:
    async def test_by_the_values_of_the_keys(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["user", "method"], "stage": "identity", "quota": per_minute(1)}})

        assert await codes(
            served,
            limited("l", ("user", "ann"), ("method", "GET")),
            limited("l", ("user", "ann"), ("method", "POST")),
            limited("l", ("user", "bob"), ("method", "GET")),
            limited("l", ("method", "GET"), ("user", "ann")),
        ) == [OK, OK, OK, OVER]

    async def test_two_limits_with_the_same_values_are_two_counters(self, served: Served) -> None:
        one = {"by": ["ip"], "stage": "ip", "quota": per_minute(1)}
        served.use(limits={"a": one, "b": one})

        assert await codes(served, limited("a", ("ip", "1.1.1.1")), limited("b", ("ip", "1.1.1.1"))) == [OK, OK]

    async def test_entries_a_limit_does_not_count_by_make_no_difference(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(1)}})

        assert await codes(
            served,
            limited("l", ("ip", "1.1.1.1"), ("route", "a"), ("request_id", "1")),
            limited("l", ("ip", "1.1.1.1"), ("route", "b"), ("request_id", "2")),
        ) == [OK, OVER]

    async def test_who_has_not_got_the_key_is_counted_by_address(self, served: Served) -> None:
        """Or leaving a header out would escape the limit, and all the anonymous would share one counter."""
        served.use(limits={"l": {"by": ["header.x-app"], "stage": "ip", "quota": per_minute(1)}})

        assert await codes(
            served,
            limited("l", ("ip", "1.1.1.1")),
            limited("l", ("ip", "1.1.1.1")),
            limited("l", ("ip", "2.2.2.2")),
            limited("l", ("header.x-app", ""), ("ip", "1.1.1.1")),
        ) == [OK, OVER, OK, OK]

    @pytest.mark.parametrize("written", ["1.2.3.4", "1.2.3.4/32"])
    async def test_an_address_is_the_same_with_and_without_its_prefix(self, served: Served, written: str) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(1)}})
        await served.ask(DOMAIN, limited("l", ("masked_remote_address", "1.2.3.4/32")))

        assert await codes(served, limited("l", ("remote_address", written))) == [OVER]

    async def test_a_path_parameter_is_the_segment_where_the_pattern_has_it(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["path.id"], "stage": "ip", "quota": per_minute(1)}})

        def at(path: str) -> Any:
            return limited("l", ("pattern", "/events/:id/**"), ("path", path), ("ip", "1.1.1.1"))

        assert await codes(served, at("/events/7/a?x=1"), at("/events/8/a"), at("/events/7/b")) == [OK, OK, OVER]

    async def test_a_limit_nobody_configured_limits_nobody_and_is_counted(self, served: Served) -> None:
        served.use(limits={})

        assert await codes(served, limited("gone", ("ip", "1.1.1.1"))) == [OK]
        assert served.meters.unknown_limits == 1


class TestSeveralLimits:
    async def test_all_apply(self, served: Served) -> None:
        served.use(
            limits={
                "per-ip": {"by": ["ip"], "stage": "ip", "quota": per_minute(100)},
                "per-user": {"by": ["user"], "stage": "identity", "quota": per_minute(1)},
            }
        )
        both = (limited("per-ip", ("ip", "1.1.1.1")), limited("per-user", ("user", "ann")))

        answers = [await served.ask(DOMAIN, *both) for _ in range(2)]

        assert [[s.code for s in a.statuses] for a in answers] == [[OK, OK], [OK, OVER]]
        assert json.loads(answers[1].raw_body)["violated-policies"] == ["per-user"]


class TestTiers:
    limits: ClassVar[dict[str, Any]] = {
        "plan": {
            "by": ["tenant"],
            "stage": "identity",
            "tiers": {"free": per_minute(2), "pro": per_minute(100, 4)},
        }
    }

    async def test_each_tier_has_its_quota(self, served: Served) -> None:
        served.use(limits=self.limits)
        free, pro = (limited("plan", ("tenant", t), ("tier", t)) for t in ("free", "pro"))

        assert await codes(served, *[free] * 3) == [OK, OK, OVER]
        assert await codes(served, *[pro] * 5) == [OK, OK, OK, OK, OVER]

    @pytest.mark.parametrize("tier", ["gold", ""], ids=["an unknown tier", "an empty tier"])
    async def test_any_other_tier_has_the_strictest(self, served: Served, tier: str) -> None:
        served.use(limits=self.limits)

        assert await codes(served, *[limited("plan", ("tenant", "t"), ("tier", tier))] * 3) == [OK, OK, OVER]

    async def test_who_changes_tier_keeps_the_consumed_share(self, served: Served) -> None:
        served.use(limits=self.limits)
        await served.ask(DOMAIN, limited("plan", ("tenant", "t"), ("tier", "free")))

        answer = await served.ask(DOMAIN, limited("plan", ("tenant", "t"), ("tier", "pro"), hits=0))

        assert answer.statuses[0].limit_remaining == 2


class TestChanges:
    async def test_a_changed_limit_keeps_the_consumed_share(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(10)}})
        await served.ask(DOMAIN, limited("l", ("ip", "1.1.1.1"), hits=5))
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(100)}})

        answer = await served.ask(DOMAIN, limited("l", ("ip", "1.1.1.1"), hits=0))

        assert answer.statuses[0].limit_remaining == 50

    async def test_limits_are_tightened_while_a_service_is_in_trouble(self, served: Served) -> None:
        limit = {"by": ["ip"], "stage": "ip", "quota": per_minute(8)}
        limits = {"l": {**limit, "tighten": {"factor": 0.25, "services": ["tickets"]}}}
        served.use(limits=limits, troubled=["tickets"])

        assert await codes(served, *[limited("l", ("ip", "1.1.1.1"))] * 3) == [OK, OK, OVER]
        served.use(limits=limits, troubled=["users"])
        assert await codes(served, *[limited("l", ("ip", "2.2.2.2"))] * 8) == [OK] * 8


class TestExemptions:
    @pytest.mark.parametrize(
        ("entry", "is_exempt"),
        [
            pytest.param(("ip", "10.1.2.3"), True, id="an address in an exempt network"),
            pytest.param(("masked_remote_address", "10.1.2.3/32"), True, id="the same, masked"),
            pytest.param(("ip", "11.1.2.3"), False, id="an address outside"),
            pytest.param(("ip", "nonsense"), False, id="no address at all"),
            pytest.param(("user", "root"), True, id="an exempt user"),
            pytest.param(("user", "ann"), False, id="another user"),
            pytest.param(("tier", "internal"), True, id="an exempt tier"),
        ],
    )
    async def test_who_is_exempt_is_not_counted(self, served: Served, entry: tuple[str, str], is_exempt: bool) -> None:
        exempt = {"ip": ["10.0.0.0/8", "2001:db8::/32"], "user": ["root"], "tier": ["internal"]}
        served.use(limits={"l": {"by": ["user"], "stage": "identity", "quota": per_minute(1), "exempt": exempt}})

        assert (await codes(served, *[limited("l", entry)] * 2) == [OK, OK]) == is_exempt


class TestCost:
    async def test_a_fixed_cost_is_taken_for_every_request(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(10), "cost": 4}})

        assert await codes(served, *[limited("l", ("ip", "1.1.1.1"))] * 3) == [OK, OK, OVER]

    @pytest.mark.parametrize(
        ("cost", "left"),
        [("3", 7), ("0", 10), ("", 9), ("-3", 9), ("many", 9), ("٣", 9), ("9999999999", 9)],
        ids=[
            "a number",
            "nothing",
            "empty",
            "less than nothing",
            "a word",
            "another script's digit",
            "too many digits",
        ],
    )
    async def test_a_cost_told_by_an_entry(self, served: Served, cost: str, left: int) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(10)}})

        answer = await served.ask(DOMAIN, limited("l", ("ip", "1.1.1.1"), ("causeway.cost", cost)))

        assert (answer.overall_code, answer.statuses[0].limit_remaining) == (OK, left)

    @pytest.mark.parametrize(("cost", "left"), [(25, 0), (4, 6), (1, 9), (0, 10)])
    async def test_a_settled_cost_is_what_the_request_took_in_all(self, served: Served, cost: int, left: int) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(10)}})
        ip = ("ip", "1.1.1.1")
        assert await codes(served, limited("l", ip)) == [OK]

        settled = await served.ask(DOMAIN, limited("l", ip, ("causeway.settle", "1"), hits=cost))

        assert settled.statuses[0].limit_remaining == left
        assert await codes(served, limited("l", ip)) == [OK if left else OVER]


class TestBlocks:
    limits: ClassVar[dict[str, Any]] = {
        "login": {"by": ["ip"], "stage": "ip", "quota": per_minute(5), "block": {"for_ms": 300_000}}
    }

    async def test_the_sixth_of_five_is_blocked_for_five_minutes(self, served: Served) -> None:
        served.use(limits=self.limits)
        ask = limited("login", ("ip", "1.1.1.1"))
        assert await codes(served, *[ask] * 5) == [OK] * 5

        sixth = await served.ask(DOMAIN, ask)
        assert headers(sixth)["retry-after"] == "300"
        assert json.loads(sixth.raw_body)["code"] == "blocked"
        assert json.loads(sixth.raw_body)["blocked_until"] == "2023-11-14T22:05:00Z"
        served.clock.forward(299)
        assert headers(await served.ask(DOMAIN, ask))["retry-after"] == "1"
        served.clock.forward(1)
        assert await codes(served, *[ask] * 5) == [OK] * 5


class TestShadow:
    async def test_a_limit_in_shadow_refuses_nobody_and_says_nothing(self, served: Served) -> None:
        served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(1), "shadow": True}})

        answers = [await served.ask(DOMAIN, limited("l", ("ip", "1.1.1.1"))) for _ in range(2)]

        assert [a.overall_code for a in answers] == [OK, OK]
        assert headers(answers[1]) == {}
        assert served.meters.limits[False, "l"].shadowed == 1
        assert served.meters.refusals[-1].is_shadow
        assert served.meters.exceeded == {}


class TestWhatClientsSee:
    limits: ClassVar[dict[str, Any]] = {
        "per-ip": {"by": ["ip"], "stage": "ip", "quota": per_minute(60, 2)},
        'odd "name"': {"by": ["ip"], "stage": "ip", "quota": per_minute(10)},
    }

    async def ask(self, served: Served, **policy: Any) -> Any:
        served.use(limits=self.limits, **policy)
        ip = ("ip", "1.1.1.1")
        return await served.ask(DOMAIN, limited("per-ip", ip, ("request_id", "r-1")), limited('odd "name"', ip))

    async def test_the_fields_are_structured_lists_with_an_item_for_each_limit(self, served: Served) -> None:
        told = headers(await self.ask(served))

        assert parse_list(told["ratelimit-policy"]) == [
            ("per-ip", {"q": 60, "w": 60}),
            ('odd "name"', {"q": 10, "w": 60}),
        ]
        assert parse_list(told["ratelimit"]) == [("per-ip", {"r": 1, "t": 1}), ('odd "name"', {"r": 9, "t": 6})]

    async def test_a_refusal_says_why_and_until_when_everywhere_alike(self, served: Served) -> None:
        for _ in range(3):
            answer = await self.ask(served)
        told, body = headers(answer), json.loads(answer.raw_body)

        assert (told["retry-after"], body["retry_after"], answer.statuses[0].duration_until_reset.seconds) == (
            "1",
            1,
            1,
        )
        assert parse_list(told["ratelimit"])[0] == ("per-ip", {"r": 0, "t": 1})
        assert told["content-type"] == "application/json"
        assert body == {
            "error": "Too Many Requests",
            "message": "Rate limit per-ip exceeded, retry after 1 s",
            "status": 429,
            "request_id": "r-1",
            "code": "rate_limited",
            "limit": "per-ip",
            "retry_after": 1,
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "detail": "Rate limit per-ip exceeded, retry after 1 s",
            "violated-policies": ["per-ip"],
        }
        assert dict(answer.dynamic_metadata) == {"limit": "per-ip", "reason": "rate_limited", "retry_after": 1.0}

    async def test_the_older_fields_can_be_had_instead(self, served: Served) -> None:
        told = headers(await self.ask(served, headers="x"))

        assert told == {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "1"}

    @pytest.mark.parametrize(("style", "count"), [("both", 5), ("none", 0)])
    async def test_or_both_or_none(self, served: Served, style: str, count: int) -> None:
        assert len(headers(await self.ask(served, headers=style))) == count

    async def test_who_waits_as_long_as_told_is_let_through(self, served: Served) -> None:
        ask = limited("per-ip", ("ip", "9.9.9.9"))
        served.use(limits={"per-ip": {"by": ["ip"], "stage": "ip", "quota": per_minute(7)}})
        while (answer := await served.ask(DOMAIN, ask)).overall_code == OK:
            pass

        served.clock.forward(int(headers(answer)["retry-after"]))

        assert (await served.ask(DOMAIN, ask)).overall_code == OK


async def test_both_kinds_of_configuration_hold_side_by_side(served: Served) -> None:
    served.use(limits={"l": {"by": ["ip"], "stage": "ip", "quota": per_minute(1)}})
    served.use_yaml("domain: causeway\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]")

    answer = await served.ask(DOMAIN, limited("l", ("ip", "1.1.1.1")), descriptor(("k", "v")))

    assert [s.current_limit.requests_per_unit for s in answer.statuses] == [1, 1]
