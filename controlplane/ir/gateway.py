"""The whole gateway as one value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from controlplane.ir.cluster import Cluster
from controlplane.ir.identity import Identity
from controlplane.ir.limit import Limit
from controlplane.ir.names import ListenerName, RouteTableName, SecretName
from controlplane.ir.route import HeaderMutations, Route, VirtualHost
from controlplane.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What holds for every request at the edge, before any route is known."""

    trusted_hops: int = 0
    max_header_kib: int = 60
    max_headers: int = 100
    headers_with_underscores: Literal["reject", "drop", "allow"] = "reject"
    escaped_slashes: Literal["reject", "redirect", "forward", "keep"] = "redirect"
    request_headers_timeout_ms: int = 10_000
    stream_idle_timeout_ms: int = 300_000
    idle_timeout_ms: int = 3_600_000
    drain_timeout_ms: int = 5_000
    max_connections: int | None = None
    keep_request_id: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A listener's certificate and key, PEM."""

    name: SecretName
    certificate_pem: str
    key_pem: str = field(repr=False)
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port and what answers on it."""

    name: ListenerName
    address: str
    port: int
    route_table: RouteTableName
    certificate: Certificate | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """The virtual hosts of a listener."""

    name: RouteTableName
    virtual_hosts: tuple[VirtualHost, ...]
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything that becomes resources. The clusters of the two policy services are among `clusters`."""

    name: str
    edge: Edge
    listeners: tuple[Listener, ...]
    route_tables: tuple[RouteTable, ...]
    clusters: tuple[Cluster, ...]
    identity: Identity
    limits: tuple[Limit, ...]
    rate_limit_headers: Literal["ietf", "x", "both", "none"] = "ietf"
    critical: tuple[str, ...] = ()  # services without which the gateway is not ready
    troubled: tuple[str, ...] = ()  # services that are unhealthy or overloaded now: limits may be tightened meanwhile
    response_headers: HeaderMutations

    @property
    def routes(self) -> Iterator[Route]:
        """Every route of every table, in match order."""
        return (route for table in self.route_tables for host in table.virtual_hosts for route in host.routes)
