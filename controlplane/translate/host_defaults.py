"""What most routes of a virtual host have in common, said once on the host.

Envoy reads, checks and copies every field of every route of a table at each change of one of them. Retries and filter
settings are most of a route's bytes and alike on most routes: left to the virtual host, they cost nothing per route. A
route says only what differs, and says so when it has nothing where the host has something.

Left to the host is only what Envoy cannot refuse, since what stands there cannot be blamed on a route.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import envoy_data_plane.envoy.config.route.v3 as route_v3
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.route import Forward, RetryPolicy, Route
from controlplane.memo import by_identity, same
from controlplane.snapshot.resource import field
from controlplane.translate.encode import encode, packed
from controlplane.translate.http_filters.chain import HTTP_FILTERS
from controlplane.translate.route_action import retry_policy

_MEMO = 65_536
_V = TypeVar("_V", bound=Hashable)

# Field numbers of envoy.config.route.v3.
_HOST_FILTERS, _HOST_RETRY_POLICY, _ROUTE_FILTERS = 15, 16, 13
_KEY, _VALUE = 1, 2  # of a map's entry


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDefaults:
    """What holds on each route that does not say otherwise. Filters by name, their settings encoded `Any`s."""

    retry: RetryPolicy | None = None
    filters: tuple[tuple[str, bytes], ...] = ()


NO_DEFAULTS = HostDefaults()
"""Of a route that says everything itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    """What of a route may be left to its host: the settings of the inherited filters, in their order."""

    is_forwarding: bool
    retry: RetryPolicy | None
    filters: tuple[bytes | None, ...]


_INHERITED = tuple(one for one in HTTP_FILTERS if one.is_inherited)
_SWITCHED_OFF = encode(packed(route_v3.FilterConfig(disabled=True)))


def host_defaults(routes: Sequence[Route]) -> HostDefaults:
    """What more than half of the routes say alike; nothing for a single route."""
    traits = _traits.each(routes)
    distinct = {id(one): one for one in traits}
    counted = [(distinct[key], count) for key, count in Counter(map(id, traits)).items()]
    retry = _majority((one.retry, count) for one, count in counted if one.is_forwarding)
    settings = [
        (http_filter.name, _majority((one.filters[number], count) for one, count in counted))
        for number, http_filter in enumerate(_INHERITED)
    ]
    common = HostDefaults(retry=retry, filters=tuple((name, one) for name, one in settings if one is not None))
    defaults: HostDefaults = same(common)
    return defaults


def _majority(counted: Iterable[tuple[_V | None, int]]) -> _V | None:
    votes: Counter[_V | None] = Counter()
    for value, count in counted:
        votes[value] += count
    for value, count in votes.most_common(1):
        return value if count > 1 and 2 * count > votes.total() else None
    return None


@by_identity(_MEMO)
def _traits(route: Route) -> _Traits:
    action = route.action
    traits: _Traits = same(
        _Traits(
            is_forwarding=isinstance(action, Forward),
            retry=action.retry if isinstance(action, Forward) else None,
            filters=tuple(
                _encoded(setting) if (setting := one.route(route)) is not None else None for one in _INHERITED
            ),
        )
    )
    return traits


@lru_cache(1024)
def host_fields(defaults: HostDefaults) -> bytes:
    """The fields of a VirtualHost with these defaults."""
    filters = b"".join(field(_HOST_FILTERS, _entry(name, setting)) for name, setting in defaults.filters)
    return filters + (field(_HOST_RETRY_POLICY, retry_policy(defaults.retry)) if defaults.retry else b"")


def filter_fields(route: Route, defaults: HostDefaults) -> bytes:
    """The filter settings of a route that differ from the host's."""
    from_host = dict(defaults.filters)
    wanted = {
        http_filter.name: _encoded(setting)
        for http_filter in HTTP_FILTERS
        if (setting := http_filter.route(route)) is not None
    }
    switched_off = dict.fromkeys(from_host.keys() - wanted.keys(), _SWITCHED_OFF)
    own = {name: setting for name, setting in wanted.items() if from_host.get(name) != setting} | switched_off
    return b"".join(field(_ROUTE_FILTERS, _entry(name, own[name])) for name in sorted(own))


def no_filters(defaults: HostDefaults) -> bytes:
    """Switches every filter off that the host has switched on."""
    return b"".join(field(_ROUTE_FILTERS, _entry(name, _SWITCHED_OFF)) for name in sorted(dict(defaults.filters)))


@by_identity(4096)
def _encoded(setting: AnyMessage) -> bytes:
    return encode(setting)


def _entry(name: str, setting: bytes) -> bytes:
    return field(_KEY, name.encode()) + field(_VALUE, setting)
