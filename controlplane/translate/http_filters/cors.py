"""Cross-origin requests: preflights are answered here, before limits and authentication, on the routes that allow them.

A preflight whose origin is not allowed is answered too, without the headers that would allow anything. Other OPTIONS
requests are no preflights and go the way of every request.
"""

from __future__ import annotations

import re
from functools import lru_cache

from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors, CorsPolicy
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.route import CrossOrigin, Route
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter


def _route(route: Route) -> AnyMessage | None:
    return _policy(route.cross_origin) if route.cross_origin is not None else None


@lru_cache(1024)
def _policy(allowed: CrossOrigin) -> AnyMessage:
    return packed(
        CorsPolicy(
            allow_origin_string_match=list(map(_origin, allowed.origins)),
            allow_methods=",".join(allowed.methods),
            allow_headers=",".join(allowed.headers),
            expose_headers=",".join(allowed.expose),
            allow_credentials=allowed.credentials,
            max_age=str(allowed.max_age_s),
            forward_not_matching_preflights=False,
        )
    )


def _origin(origin: str) -> StringMatcher:
    if origin == "*":
        return StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    if "*" in origin:
        return StringMatcher(safe_regex=RegexMatcher(regex=re.escape(origin).replace(r"\*", "[A-Za-z0-9.-]+")))
    return StringMatcher(exact=origin)


CORS = HttpFilter(
    name="envoy.filters.http.cors", listener=lambda gateway: packed(Cors()), everywhere=False, route=_route
)
