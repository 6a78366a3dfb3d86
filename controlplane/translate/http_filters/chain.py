"""The HTTP filters in their order: the order of this tuple IS the order of the chain."""

from __future__ import annotations

from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.http_filters.body_limit import ANNOUNCED_LENGTH, BODY_LIMIT, SMALL_BODY_LIMIT
from controlplane.translate.http_filters.cors import CORS
from controlplane.translate.http_filters.ext_authz import EXT_AUTHZ, EXT_AUTHZ_OPEN
from controlplane.translate.http_filters.ratelimit import (
    IDENTITY_LIMITS,
    IDENTITY_LIMITS_CLOSED,
    IP_LIMITS,
    IP_LIMITS_CLOSED,
)
from controlplane.translate.http_filters.response_headers import RESPONSE_HEADERS
from controlplane.translate.http_filters.router import ROUTER
from controlplane.translate.http_filters.strip import STRIP_TRAILERS

HTTP_FILTERS: tuple[HttpFilter, ...] = (
    RESPONSE_HEADERS,  # responses pass the chain backwards: whatever answered, this comes last
    STRIP_TRAILERS,  # header custody, where the early removal cannot reach: trailers come after the body
    CORS,  # before limits and authentication: preflights carry no credentials, and refusals must be readable by pages
    SMALL_BODY_LIMIT,  # before any filter that waits: what arrives meanwhile would pass uncounted
    IP_LIMITS,  # before authentication: a flood from one address must not reach the verifier
    IP_LIMITS_CLOSED,  # the same, for limits that refuse when they cannot be counted
    EXT_AUTHZ,  # who is it, and may they: before anything that costs more than knowing
    EXT_AUTHZ_OPEN,  # the same, on routes that declare to be open when the service does not answer
    IDENTITY_LIMITS,  # after authentication: they count by the verified identity
    IDENTITY_LIMITS_CLOSED,  # the same, for limits that refuse when they cannot be counted
    ANNOUNCED_LENGTH,  # after authentication and limits, like the other answers about a body
    BODY_LIMIT,  # after authentication and limits: nobody's body is held in memory before we know who sends it
    ROUTER,  # Envoy demands it last
)
