"""ir route tables -> RouteConfiguration. Pure; memoised by value, so an edit costs the changed routes only.

Building and checking a message costs far more than joining bytes, so a route is put together from encoded fields: what
many routes share (a service's action, a filter's setting) is encoded once, and what most routes of a virtual host share
stands on the host (`host_defaults`). A RouteConfiguration is a tree whose routes are parts: each can be replaced when
Envoy rejects it, and each carries a fallback that answers 503 for the same match.

Where it is the match that Envoy rejects, such a fallback is rejected with it. The last resort stands at the same place
and answers 503 wherever the headers and parameters are present that the user's expressions are about. It takes requests
of later routes on that path too, those that have such a header. To leave the route out would spare them, but would open
what it closes: the expression of a route that asks for a token is edited, the earlier form is gone with its key, and a
wider route answers. Refused for the other reason: to drop the conditions, which would close the whole path. The path's
own expression is made by us and stays.
"""

from __future__ import annotations

from functools import lru_cache

import envoy_data_plane.envoy.config.route.v3 as route_v3

from controlplane.ir.gateway import RouteTable
from controlplane.ir.route import ErrorResponse, Route, VirtualHost
from controlplane.memo import by_identity, same
from controlplane.snapshot.resource import ROUTE, Nested, Part, Resource, field
from controlplane.translate.encode import encode
from controlplane.translate.host_defaults import (
    NO_DEFAULTS,
    HostDefaults,
    filter_fields,
    host_defaults,
    host_fields,
    no_filters,
)
from controlplane.translate.route_action import action_field
from controlplane.translate.route_headers import header_fields
from controlplane.translate.route_match import matches, own_matches, plain_matches

# Field numbers of envoy.config.route.v3 where a message is put together from encoded parts.
_ROUTE_CONFIGURATION_VIRTUAL_HOSTS = 2
_VIRTUAL_HOST_ROUTES = 3
_ROUTE_NAME = 14

_REJECTED = ErrorResponse(
    status=503,
    code="route_rejected",
    error="Service Unavailable",
    message="The configuration of this route was rejected.",
)
_MEMO = 65_536  # values; more than the routes of any gateway we know


def route_configuration(table: RouteTable) -> Resource:
    """The route table of one listener: one resource, its routes as parts."""
    head = encode(
        route_v3.RouteConfiguration(
            name=table.name,
            ignore_port_in_host_matching=True,
            most_specific_header_mutations_wins=True,
            # Envoy would refuse the whole table for one unknown cluster; the snapshot's own check names the route.
            validate_clusters=False,
            max_direct_response_body_size_bytes=1 << 20,
        )
    )
    hosts = tuple(map(_virtual_host, table.virtual_hosts))
    return Resource(
        type_url=ROUTE,
        name=table.name,
        tree=(head, *hosts),
        origins=(table.origin,) if table.origin else (),
    )


def _virtual_host(host: VirtualHost) -> Nested:
    defaults = host_defaults(host.routes)
    head = _virtual_host_head(host.name, host.domains) + host_fields(defaults)
    name = same(host.name)
    routes: list[Part] = _part.each(host.routes, name, defaults)
    return Nested(field=_ROUTE_CONFIGURATION_VIRTUAL_HOSTS, children=(head, *routes))


@by_identity(_MEMO)
def _part(route: Route, host: str, defaults: HostDefaults) -> Part:
    body, alone = _encoded(route, defaults), _encoded(route, NO_DEFAULTS)
    return Part(
        key=f"{host}|{route.key}",
        body=body,
        alone=alone if alone != body else b"",
        fallback=_fallback(route, own_matches(route), defaults),
        last_resort=_fallback(route, plain_matches(route), defaults),
        origin=route.origin,
    )


@lru_cache(_MEMO)
def _virtual_host_head(name: str, domains: tuple[str, ...]) -> bytes:
    return encode(route_v3.VirtualHost(name=name, domains=list(domains), include_request_attempt_count=False))


@lru_cache(_MEMO)
def _encoded(route: Route, defaults: HostDefaults) -> bytes:
    """The Envoy routes of one route in a virtual host with such defaults."""
    rest = b"".join(
        (
            action_field(route.action, defaults.retry),
            header_fields(route.request_headers, route.response_headers),
            filter_fields(route, defaults),
            field(_ROUTE_NAME, route.name.encode()),
        )
    )
    return b"".join(field(_VIRTUAL_HOST_ROUTES, match + rest) for match in matches(route))


def _fallback(route: Route, found: tuple[bytes, ...], defaults: HostDefaults) -> bytes:
    rest = action_field(_REJECTED, None) + no_filters(defaults) + field(_ROUTE_NAME, route.name.encode())
    return b"".join(field(_VIRTUAL_HOST_ROUTES, match + rest) for match in found)
