"""The router: last in every chain, sends the request to its cluster."""

from __future__ import annotations

from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router

from controlplane.translate.encode import packed
from controlplane.translate.http_filters.base import HttpFilter

# Envoy's own x-envoy-* headers would tell clients about the inside.
ROUTER = HttpFilter(
    name="envoy.filters.http.router",
    listener=lambda gateway: packed(Router(suppress_envoy_headers=True)),
)
