"""Header custody: names that only the gateway may set never come from a client.

They are removed before routing and before every filter, on every route, so that no filter that is off, fails open or
answers early can let a client's value through; and from trailers, where some services look too. Exact names come from
the identity's injected headers and a list of names that services commonly believe; prefixes cover families of them.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation as HeaderMutationFilter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.identity import Identity
from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter
from controlplane.translate.policies.extauthz import extauthz_policy
from extauthz.policy import RESERVED_PREFIXES, reserved_headers


def early_strip(gateway: Gateway) -> TypedExtensionConfig:
    """The early header mutation that removes them."""
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=_early(gateway.name, gateway.identity)
    )


@lru_cache(16)
def _removals(gateway: str, identity: Identity) -> tuple[HeaderMutation, ...]:
    names = reserved_headers(extauthz_policy(gateway, identity, ()))
    exact = (HeaderMutation(remove=name) for name in names)
    families = (
        HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
        for prefix in RESERVED_PREFIXES
    )
    return (*exact, *families)


@lru_cache(16)
def _early(gateway: str, identity: Identity) -> AnyMessage:
    return packed(EarlyHeaderMutation(mutations=list(_removals(gateway, identity))))


@lru_cache(16)
def _trailers(gateway: str, identity: Identity) -> AnyMessage:
    mutations = Mutations(request_trailers_mutations=list(_removals(gateway, identity)))
    return packed(HeaderMutationFilter(mutations=mutations))


def _trailer_filter(gateway: Gateway) -> AnyMessage:
    return _trailers(gateway.name, gateway.identity)


STRIP_TRAILERS = HttpFilter(name="causeway.strip_trailers", listener=_trailer_filter)
