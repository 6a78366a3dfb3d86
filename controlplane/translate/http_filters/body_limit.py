"""Body size limits: Envoy's buffer filter, on the routes that have one, answers 413 beyond it.

It holds a body back until it is complete, so it is off where a body is a stream (no limit on the route): gRPC,
WebSocket, and routes that say `body_limit: none`.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer, BufferPerRoute
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.route import Forward, Route
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter

_LARGEST = 2**32 - 1


def _listener(gateway: Gateway) -> AnyMessage:
    return packed(Buffer(max_request_bytes=_LARGEST))


def _route(route: Route) -> AnyMessage | None:
    if route.body_limit_bytes is None or not isinstance(route.action, Forward):
        return None
    return _limit(min(route.body_limit_bytes, _LARGEST))


@lru_cache(1024)
def _limit(size_bytes: int) -> AnyMessage:
    return packed(BufferPerRoute(buffer=Buffer(max_request_bytes=size_bytes)))


BODY_LIMIT = HttpFilter(name="envoy.filters.http.buffer", listener=_listener, everywhere=False, route=_route)
