"""Virtual hosts on demand (VHDS): `<route configuration>/<host>` is an alias of the virtual host that serves the host.

Domains match as Envoy matches them: exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from envoy.config.route.v3 import route_components_pb2

from controlplane.snapshot.resource import VIRTUAL_HOST, Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.subscription import WILDCARD


def asked_for(subscribe: Iterable[str], held: Iterable[str]) -> set[str]:
    """What a client asks for that says "*" after a reconnect, as Envoy does, and means what it has."""
    return {name for name in (*subscribe, *held) if name != WILDCARD}


def greeting(table: str) -> str:
    """A name in the route configuration's namespace that no virtual host has."""
    return f"{table}/"


def is_greeting(name: str) -> bool:
    return name.endswith("/")


def find(snapshot: Snapshot, name: str) -> Resource | None:
    """The virtual host of that name, or the one of its route configuration that serves the host in the name."""
    hosts = snapshot.of_type(VIRTUAL_HOST)
    if name in hosts:
        return hosts[name]
    table, _, host = name.rpartition("/")
    ranked = [
        (rank, resource)
        for resource in hosts.values()
        if resource.name.rpartition("/")[0] == table
        and (rank := _rank(_domains(resource.body), host.lower())) is not None
    ]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


@lru_cache(maxsize=16_384)
def _domains(body: bytes) -> tuple[str, ...]:
    return tuple(domain.lower() for domain in route_components_pb2.VirtualHost.FromString(body).domains)


def _rank(domains: tuple[str, ...], host: str) -> tuple[int, int] | None:
    ranks = [rank for domain in domains if (rank := _match(domain, host)) is not None]
    return max(ranks, default=None)


def _match(domain: str, host: str) -> tuple[int, int] | None:
    if domain == "*":
        return (0, 0)
    if domain.startswith("*"):
        return (2, len(domain)) if host.endswith(domain[1:]) and len(host) >= len(domain) else None
    if domain.endswith("*"):
        return (1, len(domain)) if host.startswith(domain[:-1]) and len(host) >= len(domain) else None
    return (3, len(domain)) if domain == host else None
