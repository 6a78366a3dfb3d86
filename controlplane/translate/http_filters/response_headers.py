"""Headers of every response, the gateway's own answers included: `x-response-time` and what the manifest adds.

First in the chain, so that responses pass it last and no filter behind it can answer past it.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch as MutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.text import literal

_OVERWRITE = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD


# A service behind a mesh's Envoy answers with its headers, which tell clients about the inside.
_INSIDE = Mutation(remove_on_match=MutationRemoveOnMatch(key_matcher=StringMatcher(prefix="x-envoy-")))


def _listener(gateway: Gateway) -> AnyMessage:
    wanted = gateway.response_headers
    mutations = [
        _INSIDE,
        *(Mutation(remove=name) for name in wanted.remove),
        _set("x-response-time", "%DURATION%ms", _OVERWRITE),
        *(_set(name, literal(value), _OVERWRITE) for name, value in wanted.set),
        *(_set(name, literal(value), _APPEND) for name, value in wanted.add),
    ]
    return packed(HeaderMutation(mutations=Mutations(response_mutations=mutations)))


def _set(name: str, value: str, action: HeaderValueOptionHeaderAppendAction) -> Mutation:
    return Mutation(append=HeaderValueOption(header=HeaderValue(key=name, value=value), append_action=action))


RESPONSE_HEADERS = HttpFilter(name="envoy.filters.http.header_mutation", listener=_listener)
