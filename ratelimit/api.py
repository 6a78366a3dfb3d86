"""The service over HTTP, for people and for the reference service's clients.

    POST /json                 a RateLimitRequest as JSON: 200 or 429 with the RateLimitResponse; 400, 503 GET
    /healthcheck          200 "OK" or 500 GET  /rlconfig             the reference configuration in effect, a line per
    rule GET  /limits               limits, store, who is refused most, the last refusals GET  /limits/status
    what is left: ?limit=<name>&<key>=<value>&... GET  /limits/blocked       who is blocked, until when POST
    /limits/explain       a RateLimitRequest as JSON: which limits it meets, and what each says POST /limits/unblock
    {"limit": <name>, "key": {<key>: <value>}} or {"id": <hex>}: forgets a counter and its block

It must not decide anything itself.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from inspect import isawaitable
from typing import TypeVar

from aiohttp import web
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import json_format

from ratelimit.core.budget import Take
from ratelimit.core.keys import ABSENT, parts
from ratelimit.core.plan import RequestError, own_key
from ratelimit.core.rule import Rule
from ratelimit.policy import TIER_KEY
from ratelimit.service import RateLimitService
from ratelimit.store.redis import StoreDownError
from serving.admin import Admin

T = TypeVar("T")


def mount(admin: Admin, service: RateLimitService, *, store_kind: str) -> None:
    """Adds the service's routes to `admin`, before it starts."""
    api = _Api(service, admin, store_kind)
    admin.post("/json", api.json)
    admin.get("/healthcheck", api.healthcheck)
    admin.get("/rlconfig", api.rlconfig)
    admin.get("/limits", api.overview)
    admin.get("/limits/status", api.status)
    admin.get("/limits/blocked", api.blocked)
    admin.post("/limits/explain", api.explain)
    admin.post("/limits/unblock", api.unblock)


class _Api:
    def __init__(self, service: RateLimitService, admin: Admin, store_kind: str) -> None:
        self._service = service
        self._admin = admin
        self._store_kind = store_kind

    async def json(self, request: web.Request) -> web.Response:
        try:
            answer = await self._service.answer(_request(await request.text()))
        except RequestError as problem:
            return web.json_response({"error": str(problem)}, status=400)
        except StoreDownError as problem:
            return web.json_response({"error": str(problem)}, status=503)
        text = json_format.MessageToJson(rls_pb2.RateLimitResponse.FromString(answer.response), indent=None)
        return web.Response(text=text, content_type="application/json", status=429 if answer.is_refusal else 200)

    async def healthcheck(self, request: web.Request) -> web.Response:
        failing = await self._admin.failing()
        return web.Response(text="; ".join(failing.values()) or "OK", status=500 if failing else 200)

    def rlconfig(self, request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in self._service.rules.config.describe()))

    def overview(self, request: web.Request) -> object:
        meters = self._service.meters
        policy = self._service.rules.limits.policy
        return {
            "domain": policy.domain,
            "store": {
                "kind": self._store_kind,
                "answers": not meters.is_breaker_open,
                "failures": dict(meters.store_failures),
                "replicas": self._service.replicas,
            },
            "troubled": list(policy.troubled),
            "limits": {
                name: {
                    **limit.model_dump(mode="json", exclude_defaults=True),
                    "in_effect": {tier or "default": _quota(rule) for tier, rule in self._rules(name).items()},
                }
                for name, limit in policy.limits.items()
            },
            "refused_most": [
                {"limit": limit, "key": _shown(key), "id": key.hex(), "count": count, "error": error}
                for limit, key, count, error in meters.offenders.top(20)
            ],
            "refusals": [
                {
                    "at": _instant(refusal.at_us),
                    "limit": refusal.limit,
                    "route": refusal.route,
                    "key": _shown(refusal.key),
                    "reason": refusal.code.name.lower(),
                    "retry_after_s": -(-refusal.wait_us // 1_000_000),
                    "shadow": refusal.is_shadow,
                }
                for refusal in reversed(meters.refusals)
            ],
        }

    async def status(self, request: web.Request) -> web.Response:
        values = dict(request.query)
        name = values.pop("limit", None)
        names = [name] if name else list(self._service.rules.limits.policy.limits)
        rows = []
        for each in names:
            rule, key = self._counter(each, values)
            if rule is None or key is None:
                if name:
                    return web.json_response({"error": f'no limit "{name}"'}, status=404)
                continue
            needed = [part for part in self._service.rules.limits.policy.limits[each].by if part not in values]
            if needed and not name:
                continue
            if needed:
                return web.json_response({"error": f"the limit counts by {', '.join(needed)}: add it"}, status=400)
            try:
                rows.append(await self._standing(each, rule, key))
            except StoreDownError as problem:
                return web.json_response({"error": str(problem)}, status=503)
        return web.json_response({"counters": rows})

    async def blocked(self, request: web.Request) -> web.Response:
        try:
            found = await _value(self._service.store.blocked())
        except StoreDownError as problem:
            return web.json_response({"error": str(problem)}, status=503)
        rows = [
            {
                "limit": _shown(each.key)[1] if len(_shown(each.key)) > 1 else "",
                "key": _shown(each.key),
                "until": _instant(each.until_us),
                "id": each.key.hex(),
            }
            for each in found
        ]
        return web.json_response({"blocked": rows})

    async def explain(self, request: web.Request) -> web.Response:
        try:
            planned = self._service.explain(_request(await request.text()))
        except RequestError as problem:
            return web.json_response({"error": str(problem)}, status=400)
        rows: list[dict[str, object]] = []
        for rule, take, _ in planned:
            if rule is None or take is None:
                why = "unlimited" if rule is not None else "no limit matches, or the caller is exempt"
                rows.append({"limit": rule.name if rule else None, "why": why})
                continue
            try:
                rows.append(await self._standing(rule.name, rule, take.key))
            except StoreDownError as problem:
                rows.append({"limit": rule.name, "why": str(problem)})
        return web.json_response({"descriptors": rows})

    async def unblock(self, request: web.Request) -> web.Response:
        try:
            wanted = json.loads(await request.text())
            if "id" in wanted:
                keys = [bytes.fromhex(wanted["id"])]
            else:
                _, key = self._counter(wanted["limit"], wanted.get("key", {}))
                keys = [key] if key is not None else []
        except (ValueError, KeyError, TypeError, AttributeError):
            hint = 'expected {"limit": <name>, "key": {<key>: <value>}} or {"id": <hex>}'
            return web.json_response({"error": hint}, status=400)
        try:
            cleared = [await _value(self._service.store.clear(key)) for key in keys]
        except StoreDownError as problem:
            return web.json_response({"error": str(problem)}, status=503)
        return web.json_response({"cleared": any(cleared)}, status=200 if any(cleared) else 404)

    def _rules(self, name: str) -> Mapping[str, Rule]:
        return self._service.rules.limits.rules(name)

    def _counter(self, name: str, values: Mapping[str, str]) -> tuple[Rule | None, bytes | None]:
        identity = self._service.rules.limits.identity(name, values)
        if identity is None:
            return None, None
        rules = self._rules(name)
        rule = rules.get(values.get(TIER_KEY, ""), rules[""])
        return rule, own_key(identity, rule.budget.kind) if identity else None

    async def _standing(self, name: str, rule: Rule, key: bytes) -> dict[str, object]:
        """What the counter would answer now; nothing is taken."""
        (said,) = await _value(self._service.store.take([Take(key, rule.budget, 0)]))
        return {
            "limit": name,
            "key": _shown(key),
            "id": key.hex(),
            **_quota(rule),
            "remaining": said.remaining,
            "would": said.code.name.lower(),
            "retry_after_s": -(-said.wait_us // 1_000_000) if said.code else 0,
            "reset_s": -(-said.reset_us // 1_000_000),
            "shadow": rule.is_shadow,
        }


async def _value(value: T | Awaitable[T]) -> T:
    return await value if isawaitable(value) else value


def _request(text: str) -> bytes:
    try:
        request = json_format.Parse(text, rls_pb2.RateLimitRequest())
    except json_format.ParseError as problem:
        raise RequestError(str(problem)) from None
    body: bytes = request.SerializeToString()
    return body


def _quota(rule: Rule) -> dict[str, object]:
    budget = rule.budget
    return {"requests": budget.requests, "window_s": budget.window_us / 1_000_000, "burst": budget.burst}


def _shown(key: bytes) -> list[str]:
    """The parts of a counter's key, for people: domain, limit, values."""
    marker = 1 if key.startswith(b"r") else 2
    return ["(none)" if part == ABSENT else part for part in parts(key[marker:])]


def _instant(us: float) -> str:
    """As clients are told it: in whole seconds, rounded up."""
    return datetime.fromtimestamp(-(-us // 1_000_000), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
