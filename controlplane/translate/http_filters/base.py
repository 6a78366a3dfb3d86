"""What an HTTP filter is to the translation: a name, its setting on the listener, its setting on a route.

A filter's functions return configuration and change nothing. A filter absent from the listener (None) is left out of
the chain; a route's None leaves the listener's setting as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.gateway import Gateway
from controlplane.ir.route import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFilter:
    """`name` is both the filter's name in the chain and the key of its per-route setting.

    A filter that is not `everywhere` runs only on the routes that have a setting for it. A filter that `is_inherited`
    may have a route's setting on the virtual host instead: a route's own replaces it as a whole, and Envoy cannot
    refuse it.
    """

    name: str
    listener: Callable[[Gateway], AnyMessage | None]
    everywhere: bool = True
    is_inherited: bool = False
    route: Callable[[Route], AnyMessage | None] = lambda route: None
