"""ir header mutations -> the fields of a Route that change headers, encoded. Pure."""

from __future__ import annotations

from functools import lru_cache

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3

from controlplane.ir.route import HeaderMutations
from controlplane.translate.encode import encode
from controlplane.translate.text import literal

_MEMO = 65_536


@lru_cache(_MEMO)
def header_fields(request: HeaderMutations, response: HeaderMutations) -> bytes:
    """What a route does to the headers of its requests and responses."""
    return encode(
        route_v3.Route(
            request_headers_to_add=to_add(request),
            request_headers_to_remove=list(request.remove),
            response_headers_to_add=to_add(response),
            response_headers_to_remove=list(response.remove),
        )
    )


def to_add(mutations: HeaderMutations) -> list[core.HeaderValueOption]:
    """What is set and what is added."""
    actions = core.HeaderValueOptionHeaderAppendAction
    return [
        core.HeaderValueOption(header=core.HeaderValue(key=name, value=literal(value)), append_action=action)
        for pairs, action in (
            (mutations.set, actions.OVERWRITE_IF_EXISTS_OR_ADD),
            (mutations.add, actions.APPEND_IF_EXISTS_OR_ADD),
        )
        for name, value in pairs
    ]
