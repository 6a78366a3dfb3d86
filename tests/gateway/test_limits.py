"""Limits through the whole gateway: who is refused, what they are told, what the service saw."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.ratelimit.structured import parse_list
from tests.support import client
from tests.support.behaviour import Answer
from tests.support.client import Address
from tests.support.gateway import Gateway, causeway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway

Headers = list[tuple[str, str]]


def manifest(origin: Origin, limits: dict[str, Any], *routes: dict[str, Any]) -> dict[str, Any]:
    return {
        "gateway": {"trusted_proxies": 1},
        "identity": {"issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}}},
        "services": {"tickets": {"endpoints": [origin.address]}},
        "limits": limits,
        "routes": [{"service": "tickets", **route} for route in routes],
    }


def from_(address: str) -> Headers:
    """As the trusted proxy in front of the gateway tells it."""
    return [("x-forwarded-for", address)]


def as_(user: str, **claims: Any) -> Headers:
    return [("authorization", f"Bearer {token(sub=user, **claims)}")]


async def statuses(gateway: Gateway, target: str, *requests: Headers, method: str = "GET") -> list[int]:
    return [(await gateway.request(method, target, headers=headers)).status for headers in requests]


async def test_as_many_as_allowed_reach_the_service_and_the_rest_are_told_when(
    gateway: Gateway, origin: Origin
) -> None:
    route = {"path": "/few", "limits": ["few"], "auth": "public"}
    await gateway.apply(manifest(origin, {"few": {"rate": "3/hour", "by": "ip"}}, route))

    responses = [await gateway.request("GET", "/few", headers=from_("198.51.100.1")) for _ in range(4)]
    refused = responses[3]
    body = refused.json()

    assert [r.status for r in responses] == [200, 200, 200, 429]
    assert len(origin.requests) == 3
    assert refused.values("content-type") == ["application/json"]
    assert refused.header("retry-after") == "1200"
    assert (body["error"], body["code"], body["limit"], body["status"]) == (
        "Too Many Requests",
        "rate_limited",
        "few",
        429,
    )
    assert body["request_id"] == refused.header("x-request-id")
    assert parse_list(responses[0].header("ratelimit-policy") or "") == [("few", {"q": 3, "w": 3600})]
    assert parse_list(responses[0].header("ratelimit") or "")[0][1]["r"] == 2
    assert parse_list(refused.header("ratelimit") or "") == [("few", {"r": 0, "t": 1200})]
    assert refused.header("x-envoy-ratelimited") is None


async def test_the_older_fields_can_be_asked_for(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/older", "limits": ["older"], "auth": "public"}
    written = manifest(origin, {"older": {"rate": "5/hour", "by": "ip"}}, route)
    written["gateway"]["rate_limit_headers"] = "x"
    await gateway.apply(written)

    told = await gateway.request("GET", "/older", headers=from_("198.51.100.141"))

    assert (told.header("x-ratelimit-limit"), told.header("x-ratelimit-remaining")) == ("5", "4")
    assert told.header("ratelimit") is None


class TestAddress:
    async def test_each_client_has_a_limit_of_its_own(self, gateway: Gateway, origin: Origin) -> None:
        route = {"path": "/ip", "limits": ["one"], "auth": "public"}
        await gateway.apply(manifest(origin, {"one": {"rate": "1/hour", "by": "ip"}}, route))

        first, second = from_("198.51.100.7"), from_("198.51.100.8")
        assert await statuses(gateway, "/ip", first, second, first) == [200, 200, 429]

    async def test_a_client_cannot_pass_for_another(self, gateway: Gateway, origin: Origin) -> None:
        """Only what the trusted proxy added counts: the last address."""
        route = {"path": "/forged", "limits": ["forged"], "auth": "public"}
        await gateway.apply(manifest(origin, {"forged": {"rate": "1/hour", "by": "ip"}}, route))

        forged = [from_(f"203.0.113.{i}, 198.51.100.9") for i in range(3)]
        assert await statuses(gateway, "/forged", *forged) == [200, 429, 429]

    async def test_a_whole_64_of_ipv6_is_one_client(self, gateway: Gateway, origin: Origin) -> None:
        route = {"path": "/v6", "limits": ["v6"], "auth": "public"}
        await gateway.apply(manifest(origin, {"v6": {"rate": "1/hour", "by": "ip"}}, route))

        same, other = [from_("2001:db8::1"), from_("2001:db8::2")], from_("2001:db8:0:1::1")
        assert await statuses(gateway, "/v6", *same, other) == [200, 429, 200]

    async def test_a_flood_never_reaches_the_verifier(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"flood": {"rate": "1/hour", "by": "ip"}}
        await gateway.apply(manifest(origin, limits, {"path": "/flood", "limits": ["flood"]}))

        wrong = [("authorization", "Bearer nonsense"), *from_("198.51.100.11")]
        assert await statuses(gateway, "/flood", wrong, wrong, wrong) == [401, 429, 429]


class TestIdentity:
    async def test_by_user_whatever_the_address(self, gateway: Gateway, origin: Origin) -> None:
        await gateway.apply(
            manifest(origin, {"user": {"rate": "1/hour", "by": "user"}}, {"path": "/user", "limits": ["user"]})
        )
        ann, bob = as_("ann"), as_("bob")

        assert await statuses(gateway, "/user", [*ann, *from_("198.51.100.1")], bob) == [200, 200]
        assert await statuses(gateway, "/user", [*ann, *from_("198.51.100.2")]) == [429]

    async def test_a_header_of_the_clients_changes_nothing(self, gateway: Gateway, origin: Origin) -> None:
        await gateway.apply(
            manifest(origin, {"spoof": {"rate": "1/hour", "by": "user"}}, {"path": "/spoof", "limits": ["spoof"]})
        )

        asks = [[*as_("carl"), ("x-user-id", f"u{i}"), ("user", f"u{i}"), ("x-user", f"u{i}")] for i in range(2)]
        assert await statuses(gateway, "/spoof", *asks) == [200, 429]

    async def test_the_anonymous_are_counted_by_address(self, gateway: Gateway, origin: Origin) -> None:
        route = {"path": "/anonymous", "limits": ["anonymous"], "auth": "public"}
        await gateway.apply(manifest(origin, {"anonymous": {"rate": "1/hour", "by": "user"}}, route))

        one, other = from_("198.51.100.21"), from_("198.51.100.22")
        assert await statuses(gateway, "/anonymous", one, one, other) == [200, 429, 200]

    async def test_tiers_come_from_the_token_and_a_change_keeps_the_share(
        self, gateway: Gateway, origin: Origin
    ) -> None:
        limit = {"by": "tenant", "tier_from": "plan", "tiers": {"free": "2/hour", "pro": "4/hour"}}
        await gateway.apply(manifest(origin, {"plan": limit}, {"path": "/plan", "limits": ["plan"]}))

        free, pro = as_("dora", tenant_id="t1", plan="free"), as_("dora", tenant_id="t1", plan="pro")
        rich, unknown = as_("ed", tenant_id="t2", plan="pro"), as_("flo", tenant_id="t3", plan="gold")
        assert await statuses(gateway, "/plan", *[rich] * 5) == [200, 200, 200, 200, 429]
        assert await statuses(gateway, "/plan", *[unknown] * 3) == [200, 200, 429]
        assert await statuses(gateway, "/plan", free, pro, pro, pro) == [200, 200, 200, 429]


class TestOtherKeys:
    @pytest.mark.parametrize(
        ("by", "path", "same", "other"),
        [
            pytest.param("header.x-app", "/k-header", ("/k-header", "a"), ("/k-header", "b"), id="a header"),
            pytest.param("query.q", "/k-query", ("/k-query?q=1", ""), ("/k-query?q=2", ""), id="a query parameter"),
            pytest.param("path.id", "/k-path/:id/x", ("/k-path/1/x", ""), ("/k-path/2/x", ""), id="a path parameter"),
        ],
    )
    async def test_by(
        self, gateway: Gateway, origin: Origin, by: str, path: str, same: tuple[str, str], other: tuple[str, str]
    ) -> None:
        name = by.replace(".", "-")
        route = {"path": path, "limits": [name], "auth": "public"}
        await gateway.apply(manifest(origin, {name: {"rate": "1/hour", "by": by}}, route))

        async def status(target: str, app: str) -> int:
            return (await gateway.request("GET", target, headers=[("x-app", app)])).status

        assert [await status(*same), await status(*same), await status(*other)] == [200, 429, 200]

    async def test_by_a_combination(self, gateway: Gateway, origin: Origin) -> None:
        route = {"path": "/both", "limits": ["both"], "auth": "public"}
        await gateway.apply(manifest(origin, {"both": {"rate": "1/hour", "by": ["ip", "method"]}}, route))
        one = from_("198.51.100.31")

        assert await statuses(gateway, "/both", one, one) == [200, 429]
        assert await statuses(gateway, "/both", one, method="POST") == [200]

    @pytest.mark.parametrize(("by", "ip"), [("header.x-app", 41), ("query.q", 42), ("user", 43), ("api_key", 44)])
    async def test_a_client_that_leaves_the_key_out_is_limited_by_address(
        self, gateway: Gateway, origin: Origin, by: str, ip: int
    ) -> None:
        route = {"path": "/absent", "limits": ["absent"], "auth": "public"}
        await gateway.apply(manifest(origin, {"absent": {"rate": "1/hour", "by": by}}, route))

        assert await statuses(gateway, "/absent", *[from_(f"198.51.100.{ip}")] * 2) == [200, 429]


async def test_limits_of_the_gateway_and_of_the_route_hold_together(gateway: Gateway, origin: Origin) -> None:
    limits = {
        "all": {"rate": "3/hour", "by": "ip", "everywhere": True},
        "one": {"rate": "1/hour", "by": "ip"},
    }
    routes = ({"path": "/t/one", "limits": ["one"], "auth": "public"}, {"path": "/t/**", "auth": "public"})
    await gateway.apply(manifest(origin, limits, *routes))
    who = from_("198.51.100.51")

    told = (await gateway.request("GET", "/t/one", headers=who)).header("ratelimit-policy") or ""
    assert [name for name, _ in parse_list(told)] == ["all", "one"]
    assert await statuses(gateway, "/t/one", who) == [429]
    assert await statuses(gateway, "/t/other", who, who) == [200, 429]


async def test_a_violation_blocks_and_can_be_cleared(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/login", "limits": ["login"], "auth": "public", "methods": ["POST"]}
    await gateway.apply(manifest(origin, {"login": {"rate": "5/min", "by": "ip", "block": "5m"}}, route))
    who = from_("198.51.100.61")

    assert await statuses(gateway, "/login", *[who] * 5, method="POST") == [200] * 5
    blocked = await gateway.request("POST", "/login", headers=who)
    assert (blocked.status, blocked.header("retry-after"), blocked.json()["code"]) == (429, "300", "blocked")
    (listed,) = (await ask_service(gateway, "GET", "/limits/blocked"))["blocked"]
    assert listed["key"] == ["causeway", "login", "198.51.100.61"]
    until_told, until_listed = (datetime.fromisoformat(t) for t in (blocked.json()["blocked_until"], listed["until"]))
    assert abs(until_told - until_listed) <= timedelta(seconds=1)

    wish = {"limit": "login", "key": {"ip": "198.51.100.61"}}
    assert (await ask_service(gateway, "POST", "/limits/unblock", wish))["cleared"]
    assert await statuses(gateway, "/login", who, method="POST") == [200]


async def test_what_is_left_and_why_can_be_asked(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/asked", "limits": ["asked"], "auth": "public"}
    await gateway.apply(manifest(origin, {"asked": {"rate": "2/hour", "by": "ip"}}, route))
    who = from_("198.51.100.71")

    await statuses(gateway, "/asked", who)
    (counter,) = (await ask_service(gateway, "GET", "/limits/status?limit=asked&ip=198.51.100.71"))["counters"]
    assert (counter["remaining"], counter["would"], counter["requests"]) == (1, "ok", 2)
    await statuses(gateway, "/asked", who, who)
    seen = await ask_service(gateway, "GET", "/limits")
    assert seen["refusals"][0]["limit"] == "asked"
    assert seen["refusals"][0]["key"] == ["causeway", "asked", "198.51.100.71"]
    assert seen["refused_most"][0]["count"] >= 1
    metrics = await service(gateway, "GET", "/metrics")
    assert b'gateway_rate_limit_exceeded_total{limit="asked"' in metrics.body


async def test_a_limit_in_shadow_refuses_nobody(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/shadow", "limits": ["quiet"], "auth": "public"}
    await gateway.apply(manifest(origin, {"quiet": {"rate": "1/hour", "by": "ip", "shadow": True}}, route))

    assert await statuses(gateway, "/shadow", *[from_("198.51.100.81")] * 3) == [200, 200, 200]


async def test_who_is_exempt_is_not_limited(gateway: Gateway, origin: Origin) -> None:
    limit = {"rate": "1/hour", "by": "ip", "exempt": {"ip": ["10.0.0.0/8"]}}
    await gateway.apply(manifest(origin, {"ex": limit}, {"path": "/ex", "limits": ["ex"], "auth": "public"}))

    assert await statuses(gateway, "/ex", *[from_("10.1.2.3")] * 3) == [200, 200, 200]
    assert await statuses(gateway, "/ex", *[from_("11.1.2.3")] * 2) == [200, 429]


async def test_a_changed_limit_keeps_the_consumed_share(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/changed", "limits": ["changed"], "auth": "public"}
    who = from_("198.51.100.91")
    await gateway.apply(manifest(origin, {"changed": {"rate": "4/hour", "by": "ip"}}, route))
    await statuses(gateway, "/changed", who, who)

    await gateway.apply(manifest(origin, {"changed": {"rate": "8/hour", "by": "ip"}}, route))

    assert await statuses(gateway, "/changed", *[who] * 5) == [200, 200, 200, 200, 429]


class TestCost:
    async def test_a_fixed_cost(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"dear": {"rate": "10/hour", "by": "ip", "cost": 4}}
        await gateway.apply(manifest(origin, limits, {"path": "/dear", "limits": ["dear"], "auth": "public"}))

        assert await statuses(gateway, "/dear", *[from_("198.51.100.101")] * 3) == [200, 200, 429]

    async def test_a_cost_that_authentication_injects(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"claimed": {"rate": "10/hour", "by": "user", "cost": {"request_header": "x-cost"}}}
        written = manifest(origin, limits, {"path": "/claimed", "limits": ["claimed"]})
        written["identity"]["headers"] = {"x-cost": "cost"}
        await gateway.apply(written)

        dear, plain = as_("gus", cost="4"), as_("hal")
        assert await statuses(gateway, "/claimed", *[[*dear, ("x-cost", "0")]] * 3) == [200, 200, 429]
        assert await statuses(gateway, "/claimed", *[plain] * 11) == [200] * 10 + [429]

    async def test_a_cost_that_a_client_could_send_is_refused(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"sent": {"rate": "10/hour", "by": "user", "cost": {"request_header": "x-sent"}}}

        with pytest.raises(AssertionError, match='a client could send "x-sent" itself'):
            await gateway.apply(manifest(origin, limits, {"path": "/sent", "limits": ["sent"]}))

    async def test_a_cost_that_the_response_tells_is_settled_afterwards(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"told": {"rate": "10/hour", "by": "ip", "cost": {"response_header": "x-cost"}}}
        await gateway.apply(manifest(origin, limits, {"path": "/told", "limits": ["told"], "auth": "public"}))
        origin.on("/told", Answer(headers=(("x-cost", "9"),)))
        who = from_("198.51.100.102")

        assert await statuses(gateway, "/told", who) == [200]
        await remaining(gateway, "told", "198.51.100.102", 1)
        assert await statuses(gateway, "/told", who) == [200]  # one is left, so it is let through; it costs eight more
        await remaining(gateway, "told", "198.51.100.102", 0)
        assert await statuses(gateway, "/told", who) == [429]

    async def test_a_response_that_tells_no_cost_costs_one(self, gateway: Gateway, origin: Origin) -> None:
        limits = {"untold": {"rate": "2/hour", "by": "ip", "cost": {"response_header": "x-cost"}}}
        await gateway.apply(manifest(origin, limits, {"path": "/untold", "limits": ["untold"], "auth": "public"}))

        assert await statuses(gateway, "/untold", *[from_("198.51.100.103")] * 3) == [200, 200, 429]


async def test_parallel_requests_admit_exactly_the_limit(gateway: Gateway, origin: Origin) -> None:
    limits = {"exact": {"rate": "20/hour", "by": "ip"}}
    await gateway.apply(manifest(origin, limits, {"path": "/exact", "limits": ["exact"], "auth": "public"}))

    asked = [gateway.request("GET", "/exact", headers=from_("198.51.100.111")) for _ in range(60)]
    answered = [response.status for response in await asyncio.gather(*asked)]

    assert (answered.count(200), answered.count(429)) == (20, 40)
    assert len(origin.requests) == 20


async def test_a_limit_is_tightened_while_a_service_is_in_trouble(
    gateway: Gateway, origin: Origin, origins: Callable[..., Origin]
) -> None:
    broken = origins("broken")
    broken.always(Answer(status=500))
    limit = {"rate": "8/hour", "by": "ip", "tighten": {"to": "25%", "while_unhealthy": ["broken"]}}
    routes = (
        {"path": "/spared", "limits": ["spare"], "auth": "public"},
        {"path": "/broken", "service": "broken", "auth": "public"},
    )
    written = manifest(origin, {"spare": limit}, *routes)
    breaker = {"consecutive_failures": 2, "open_for": "2m"}
    written["services"]["broken"] = {
        "endpoints": [broken.address],
        "retry": {"attempts": 0},
        "circuit_breaker": breaker,
    }
    await gateway.apply(written)
    assert await statuses(gateway, "/spared", *[from_("198.51.100.131")] * 3) == [200, 200, 200]

    async def is_tightened() -> bool:
        await gateway.request("GET", "/broken")
        return bool((await ask_service(gateway, "GET", "/limits"))["troubled"] == ["broken"])

    await until("the circuit open and the limit tightened", is_tightened)

    assert await statuses(gateway, "/spared", *[from_("198.51.100.132")] * 3) == [200, 200, 429]


async def remaining(gateway: Gateway, limit: str, ip: str, count: int) -> None:
    async def is_so() -> bool:
        told = await ask_service(gateway, "GET", f"/limits/status?limit={limit}&ip={ip}")
        return bool(told["counters"][0]["remaining"] == count)

    await until(f"{count} left of {limit}", is_so)


async def service(gateway: Gateway, method: str, target: str, wish: Any = None) -> client.Response:
    admin = Address(path=f"{gateway.folder}/ratelimit-admin.sock")
    body = json.dumps(wish).encode() if wish is not None else b""
    return await client.request(admin, method, target, body=body, host="localhost")


async def ask_service(gateway: Gateway, method: str, target: str, wish: Any = None) -> dict[str, Any]:
    told: dict[str, Any] = (await service(gateway, method, target, wish)).json()
    return told


async def test_the_command_line_shows_and_clears(gateway: Gateway, origin: Origin) -> None:
    route = {"path": "/cli", "limits": ["cli"], "auth": "public"}
    await gateway.apply(manifest(origin, {"cli": {"rate": "1/hour", "by": "ip", "block": "5m"}}, route))
    who = from_("198.51.100.121")
    key = ("--key", "ip=198.51.100.121")
    await statuses(gateway, "/cli", who, who)

    assert await limits(gateway, "--limit", "cli", *key) == (0, "cli: 0 of 1 left (blocked, again in 300 s)")
    code, told = await limits(gateway, "blocked")
    assert code == 0
    assert "cli: 198.51.100.121 until " in told
    assert "limit cli: by ip: 1 per 3600 s" in (await limits(gateway))[1]
    assert await limits(gateway, "unblock", "cli", *key) == (0, "cleared: cli")
    assert (await limits(gateway, "unblock", "cli", *key))[0] == 1
    assert await statuses(gateway, "/cli", who) == [200]


async def limits(gateway: Gateway, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `causeway limits`."""
    env = {**os.environ, "CAUSEWAY_RATELIMIT_ADMIN": f"unix:{gateway.folder}/ratelimit-admin.sock"}
    argv = causeway("limits", *arguments)
    ran = await asyncio.to_thread(subprocess.run, argv, env=env, capture_output=True, text=True, timeout=30)
    return ran.returncode, ran.stdout.strip() or ran.stderr.strip()
