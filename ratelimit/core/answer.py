"""From what the counters said to the RateLimitResponse, in the reference service's terms and with our headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.struct_pb2 import Struct

from ratelimit.core.budget import Code, Taken
from ratelimit.core.headers import Told, body, fields, retry_after_s, seconds
from ratelimit.core.plan import Descriptor
from ratelimit.core.rule import NOT_LIMITED, Planned, Rule
from ratelimit.policy import REQUEST_ID_KEY, HeaderStyle

OK = rls_pb2.RateLimitResponse.OK
OVER_LIMIT = rls_pb2.RateLimitResponse.OVER_LIMIT
ALLOWED = Taken(Code.OK, NOT_LIMITED, 0, 0)
"""Stands for a counter that could not be asked, where the limit lets through."""
DENIED = Taken(Code.OVER, 0, 1_000_000, 1_000_000)
"""Stands for a counter that could not be asked, where the limit refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How answers are told. The last four are the reference service's settings."""

    headers: HeaderStyle = HeaderStyle.IETF
    shadows_all: bool = False
    all_are_quotas: bool = False
    reference_headers: tuple[str, str, str] | None = None
    tells_metadata: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The response as bytes, whether it refuses (or would, were not everything in shadow), and the limits that did."""

    response: bytes
    is_refusal: bool
    is_shadowed: bool
    violated: tuple[tuple[Planned, Taken], ...]


def answer(
    planned: Sequence[Planned],
    taken: Sequence[Taken],
    style: Style,
    now_us: float,
    *,
    domain: str,
    descriptors: Sequence[Descriptor],
    hits_addend: int,
) -> Answer:
    """The answer to a request. `taken` are the answers to the planned takes, in order."""
    response = rls_pb2.RateLimitResponse()
    statuses = response.statuses
    told: list[Told] = []
    violated: list[tuple[Planned, Taken]] = []
    quotas: list[int] = []
    quotas_over: list[int] = []
    is_over = is_own_over = False
    answers = iter(taken)
    for i, each in enumerate(planned):
        rule = each.rule
        if rule is None:
            statuses.append(_NOT_MATCHED)
            continue
        if each.take is None:
            statuses.append(_UNLIMITED if rule.is_unlimited else _NOT_MATCHED)
            continue
        said = next(answers)
        refuses = said.code is not Code.OK
        if refuses:
            violated.append((each, said))
        over = refuses and not rule.is_shadow
        status = statuses.add(code=OVER_LIMIT if over else OK, limit_remaining=min(said.remaining, NOT_LIMITED))
        status.current_limit.CopyFrom(_current_limit(rule))
        status.duration_until_reset.seconds = seconds(said.wait_us if refuses or rule.is_reference else said.reset_us)
        if not rule.is_reference:
            told.append(Told(rule, said))
            is_own_over = is_own_over or over
        elif rule.is_quota or style.all_are_quotas:
            quotas.append(i)
            if over:
                quotas_over.append(i)
        else:
            is_over = is_over or over
    is_over = is_over or is_own_over
    if quotas and not is_over:
        if len(quotas_over) == len(quotas):
            is_over = True
        else:
            for i in quotas_over:
                statuses[i].code = OK
    _tell_reference_headers(response, style)
    is_refusal = is_over and not style.shadows_all
    if told:
        _tell(response, style, told)
    if is_own_over and is_refusal:
        _refuse(response, told, now_us, _request_id(descriptors))
    if style.tells_metadata:
        _tell_metadata(response, planned, domain, descriptors, hits_addend, quotas, quotas_over)
    response.overall_code = OVER_LIMIT if is_refusal else OK
    return Answer(response.SerializeToString(), is_refusal, is_over and not is_refusal, tuple(violated))


_NOT_MATCHED = rls_pb2.RateLimitResponse.DescriptorStatus(code=OK)
_UNLIMITED = rls_pb2.RateLimitResponse.DescriptorStatus(code=OK, limit_remaining=NOT_LIMITED)


@lru_cache(maxsize=10_000)
def _current_limit(rule: Rule) -> rls_pb2.RateLimitResponse.RateLimit:
    limit = rls_pb2.RateLimitResponse.RateLimit(requests_per_unit=rule.budget.requests, unit=int(rule.unit))
    if not rule.is_reference:
        limit.name = rule.name
    return limit


def _tell(response: rls_pb2.RateLimitResponse, style: Style, told: list[Told]) -> None:
    for key, value in fields(style.headers, told):
        response.response_headers_to_add.add(key=key, value=value)


def _refuse(response: rls_pb2.RateLimitResponse, told: list[Told], now_us: float, request_id: str) -> None:
    wait_s = retry_after_s(told)
    response.response_headers_to_add.add(key="retry-after", value=str(wait_s))
    response.response_headers_to_add.add(key="content-type", value="application/json")
    response.raw_body = body(told, now_us, request_id)
    refusing = [each for each in told if each.is_refusal]
    worst = max(refusing, key=lambda each: each.taken.wait_us)
    reason = "blocked" if any(each.is_blocked for each in refusing) else "rate_limited"
    response.dynamic_metadata.update({"limit": worst.rule.name, "reason": reason, "retry_after": wait_s})


def _request_id(descriptors: Sequence[Descriptor]) -> str:
    return next((value for each in descriptors for key, value in each.entries if key == REQUEST_ID_KEY), "")


def _tell_reference_headers(response: rls_pb2.RateLimitResponse, style: Style) -> None:
    """The reference service's three headers: of the descriptor closest to its limit."""
    if style.reference_headers is None:
        return
    limited = [status for status in response.statuses if status.HasField("current_limit")]
    if not limited:
        return
    closest = min(limited, key=lambda status: (status.code != OVER_LIMIT, status.limit_remaining))
    values = (closest.current_limit.requests_per_unit, closest.limit_remaining, closest.duration_until_reset.seconds)
    for name, value in zip(style.reference_headers, values, strict=True):
        response.response_headers_to_add.add(key=name, value=str(value))


def _tell_metadata(
    response: rls_pb2.RateLimitResponse,
    planned: Sequence[Planned],
    domain: str,
    descriptors: Sequence[Descriptor],
    hits_addend: int,
    quotas: Sequence[int],
    quotas_over: Sequence[int],
) -> None:
    """What the reference service tells: the request, its quotas, and the metadata of descriptors that passed."""
    metadata = response.dynamic_metadata
    for each, status in zip(planned, response.statuses, strict=True):
        if each.rule is not None and each.rule.metadata and status.code == OK:
            _merge(metadata, each.rule.metadata)
    described = [_described(descriptor) for descriptor in descriptors]
    metadata.update({"domain": domain, "descriptors": described, "quotaModeEnabled": bool(quotas)})
    if hits_addend:
        metadata.update({"hitsAddend": hits_addend})
    if quotas_over:
        metadata.update({"quotaModeViolations": list(quotas_over)})


def _merge(metadata: Struct, text: str) -> None:
    """Adds members that are not there yet: the first descriptor wins."""
    for name, value in json.loads(text).items():
        if name not in metadata.fields:
            metadata.update({name: value})


def _described(descriptor: Descriptor) -> dict[str, object]:
    described: dict[str, object] = {"entries": [f"{key}={value}" for key, value in descriptor.entries]}
    if descriptor.override is not None:
        override = descriptor.override
        described["limit"] = f"requests_per_unit:{override.requests} unit:{override.unit}"
    if descriptor.hits is not None:
        described["hitsAddend"] = descriptor.hits
    return described
