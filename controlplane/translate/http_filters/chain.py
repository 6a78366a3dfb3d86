"""The HTTP filters in their order: the order of this tuple IS the order of the chain."""

from __future__ import annotations

from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.http_filters.body_limit import BODY_LIMIT
from controlplane.translate.http_filters.response_headers import RESPONSE_HEADERS
from controlplane.translate.http_filters.router import ROUTER

HTTP_FILTERS: tuple[HttpFilter, ...] = (
    RESPONSE_HEADERS,  # responses pass the chain backwards: whatever answered, this comes last
    BODY_LIMIT,  # after authentication and limits: nobody's body is held in memory before we know who sends it
    ROUTER,  # Envoy demands it last
)
