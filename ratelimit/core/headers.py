"""What clients are told: RateLimit-Policy and RateLimit, X-RateLimit-*, Retry-After, and the body of a 429.

RateLimit-Policy and RateLimit are Lists of RFC 9651 as in draft-ietf-httpapi-ratelimit-headers-10; the problem
details are RFC 9457's, with the draft's `quota-exceeded` type and `violated-policies`. Seconds are whole and rounded
up, so that who waits as long as it was told is let through.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from ratelimit.core.budget import Code, Kind, Taken
from ratelimit.core.rule import Rule
from ratelimit.policy import HeaderStyle

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
CODE_LIMITED = "rate_limited"
CODE_BLOCKED = "blocked"


class Told(NamedTuple):
    """A rule and what its counter answered."""

    rule: Rule
    taken: Taken

    @property
    def is_refusal(self) -> bool:
        return self.taken.code is not Code.OK and not self.rule.is_shadow

    @property
    def is_blocked(self) -> bool:
        return self.taken.code in (Code.BLOCKED, Code.NOW_BLOCKED)


def seconds(us: int) -> int:
    """Whole seconds, rounded up."""
    return -(-us // 1_000_000)


def retry_after_s(told: Sequence[Told]) -> int:
    """When to come back: once the last of the refusing limits lets the same request through. At least a second."""
    return max(1, max(seconds(each.taken.wait_us) for each in told if each.is_refusal))


def fields(style: HeaderStyle, told: Sequence[Told]) -> list[tuple[str, str]]:
    """The rate limit fields of a response. Limits in shadow are not mentioned: they refuse nobody."""
    shown = [each for each in told if not each.rule.is_shadow]
    if not shown or style is HeaderStyle.NONE:
        return []
    found: list[tuple[str, str]] = []
    if style is not HeaderStyle.X:
        found.append(("ratelimit-policy", ", ".join([_policy_item(each.rule) for each in shown])))
        found.append(("ratelimit", ", ".join([_item(each) for each in shown])))
    if style is not HeaderStyle.IETF:
        closest = min(shown, key=lambda each: (each.taken.remaining, -each.taken.wait_us))
        found.append(("x-ratelimit-limit", str(_quota(closest.rule))))
        found.append(("x-ratelimit-remaining", str(closest.taken.remaining)))
        found.append(("x-ratelimit-reset", str(seconds(closest.taken.wait_us))))
    return found


def body(told: Sequence[Told], now_us: float, request_id: str = "") -> bytes:
    """The JSON body of a 429: the gateway's one error shape, with the members of problem details."""
    refusing = [each for each in told if each.is_refusal]
    worst = max(refusing, key=lambda each: each.taken.wait_us)
    blocked = [each for each in refusing if each.is_blocked]
    wait = retry_after_s(told)
    if blocked:
        until = _instant(now_us + max(each.taken.wait_us for each in blocked))
        message = f"Blocked by the limit {worst.rule.name} until {until}"
    else:
        until = None
        message = f"Rate limit {worst.rule.name} exceeded, retry after {wait} s"
    content = {
        "error": "Too Many Requests",
        "message": message,
        "status": 429,
        **({"request_id": request_id} if request_id else {}),
        "code": CODE_BLOCKED if blocked else CODE_LIMITED,
        "limit": worst.rule.name,
        "retry_after": wait,
        **({"blocked_until": until} if until else {}),
        "type": QUOTA_EXCEEDED,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "detail": message,
        "violated-policies": [each.rule.name for each in refusing],
    }
    return json.dumps(content, separators=(",", ":")).encode()


@lru_cache(maxsize=10_000)
def sf_string(text: str) -> str:
    """An RFC 9651 String. Characters it cannot hold (beyond printable ASCII) become `?`."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache(maxsize=10_000)
def _policy_item(rule: Rule) -> str:
    return f"{sf_string(rule.name)};q={_quota(rule)};w={rule.window_s}"


def _item(told: Told) -> str:
    return f"{sf_string(told.rule.name)};r={told.taken.remaining};t={seconds(told.taken.wait_us)}"


def _quota(rule: Rule) -> int:
    budget = rule.budget
    return max(budget.requests, budget.burst) if budget.kind is Kind.TOKEN_BUCKET else budget.requests


def _instant(us: float) -> str:
    return datetime.fromtimestamp(seconds(int(us)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
