"""Requests and answers of the rate limit protocol, written short."""

from __future__ import annotations

from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2

from ratelimit.messages import Request
from ratelimit.policy import LIMIT_KEY

OK = rls_pb2.RateLimitResponse.OK
OVER = rls_pb2.RateLimitResponse.OVER_LIMIT

Entry = tuple[str, str]


def descriptor(*entries: Entry, hits: int | None = None, override: tuple[int, int] | None = None, back: bool = False):  # type: ignore[no-untyped-def]
    """One descriptor, for `ask`."""
    return (entries, hits, override, back)


def limited(name: str, *entries: Entry, hits: int | None = None, back: bool = False):  # type: ignore[no-untyped-def]
    """The descriptor of one of our own limits."""
    return descriptor((LIMIT_KEY, name), *entries, hits=hits, back=back)


def request(domain: str, *descriptors: Any, hits: int = 0) -> bytes:
    """A serialised RateLimitRequest."""
    message: Any = Request()
    message.domain = domain
    message.hits_addend = hits
    for entries, own_hits, override, back in descriptors:
        added = message.descriptors.add()
        for key, value in entries:
            added.entries.add(key=key, value=value)
        if own_hits is not None:
            added.hits_addend.value = own_hits
        if override is not None:
            added.limit.requests_per_unit, added.limit.unit = override
        added.is_negative_hits = back
    body: bytes = message.SerializeToString()
    return body


def response(body: bytes) -> Any:
    """The parsed RateLimitResponse."""
    return rls_pb2.RateLimitResponse.FromString(body)


def headers(answer: Any) -> dict[str, str]:
    """The response headers an answer adds."""
    return {header.key: header.value for header in answer.response_headers_to_add}
