"""Addresses in Envoy's words."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress


def address(host: str, port: int | None) -> Address:
    """An IP or DNS name with a port, or, without a port, the path of a Unix socket."""
    if port is None:
        return Address(pipe=Pipe(path=host))
    return Address(socket_address=SocketAddress(address=host, port_value=port))
