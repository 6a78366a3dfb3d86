"""Addresses and networks, compared as integers. An IPv4 address in IPv6 (`::ffff:192.0.2.1`) is the IPv4 address."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


class Networks:
    """A set of networks."""

    __slots__ = ("_ranges",)

    def __init__(self, networks: Iterable[str]) -> None:
        found: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in map(ip_network, networks):
            found[network.version].append((int(network.network_address), int(network.broadcast_address)))
        self._ranges = {version: tuple(ranges) for version, ranges in found.items()}

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether one of the networks has the address."""
        value = int(address)
        return any(low <= value <= high for low, high in self._ranges[address.version])


@lru_cache(maxsize=4096)
def address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None where the text is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found
