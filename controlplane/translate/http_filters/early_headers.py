"""Header changes before anything else sees the request: before routing, every filter, and every log.

Names that only the gateway may set are removed here, on every route, public ones too: no filter that is off, fails open
or answers early can let a client's value through.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig

from controlplane.ir.gateway import Gateway
from controlplane.translate.http_filters.strip import early_strip


def early_header_mutations(gateway: Gateway) -> list[TypedExtensionConfig]:
    """The early header mutation extensions of a connection manager."""
    return [early_strip(gateway)]
