"""Body size limits, on the routes that have one: 413 beyond it. Three filters, because none alone is exact and cheap.

A length that the client announces is compared before anything of the body is read. The only filter of Envoy's that
answers by a header's value with a status of our choice is the fault filter.

What is not announced must be counted. Envoy's buffer filter does, holding the body back until it is complete: late in
the chain, so that nobody's body is held before we know who sends it. But what a filter before it held back while it
waited comes in one piece, which is not counted. That is as much as a stream's window, so limits within one are held
before any filter that waits.

All are off where a body is a stream (no limit on the route): gRPC, WebSocket, and routes that say `body_limit: none`.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer, BufferPerRoute
from envoy_data_plane.envoy.extensions.filters.http.fault.v3 import FaultAbort, HttpFault
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType, Int64Range
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.route import Forward, Route
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.values import H2_STREAM_WINDOW

_LARGEST = 2**32 - 1
_ENDLESS = 2**63 - 1


def _listener(gateway: Gateway) -> AnyMessage:
    return packed(Buffer(max_request_bytes=_LARGEST))


def _size(route: Route) -> int | None:
    if route.body_limit_bytes is None or not isinstance(route.action, Forward):
        return None
    return min(route.body_limit_bytes, _LARGEST)


def _announced(route: Route) -> AnyMessage | None:
    size = _size(route)
    return _refused_beyond(size) if size is not None else None


def _small(route: Route) -> AnyMessage | None:
    size = _size(route)
    return _held(size) if size is not None and size <= H2_STREAM_WINDOW else None


def _large(route: Route) -> AnyMessage | None:
    size = _size(route)
    return _held(size) if size is not None and size > H2_STREAM_WINDOW else None


@lru_cache(1024)
def _refused_beyond(size_bytes: int) -> AnyMessage:
    beyond = HeaderMatcher(name="content-length", range_match=Int64Range(start=size_bytes + 1, end=_ENDLESS))
    always = FractionalPercent(numerator=100, denominator=FractionalPercentDenominatorType.HUNDRED)
    return packed(HttpFault(abort=FaultAbort(http_status=413, percentage=always), headers=[beyond]))


@lru_cache(1024)
def _held(size_bytes: int) -> AnyMessage:
    return packed(BufferPerRoute(buffer=Buffer(max_request_bytes=size_bytes)))


ANNOUNCED_LENGTH = HttpFilter(
    name="causeway.body_limit.announced",
    listener=lambda gateway: packed(HttpFault()),
    everywhere=False,
    is_inherited=True,
    route=_announced,
)
SMALL_BODY_LIMIT = HttpFilter(
    name="causeway.body_limit.small", listener=_listener, everywhere=False, is_inherited=True, route=_small
)
BODY_LIMIT = HttpFilter(
    name="envoy.filters.http.buffer", listener=_listener, everywhere=False, is_inherited=True, route=_large
)
