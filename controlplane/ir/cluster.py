"""Clusters: a service's endpoints and how Envoy treats them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controlplane.ir.names import ClusterName
from controlplane.origin import Origin

DnsFamily = Literal["auto", "v4_only", "v6_only", "v4_preferred", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address. `address` is an IP, a DNS name, or the path of a Unix socket when `port` is None."""

    address: str
    port: int | None
    weight: int = 1
    priority: int = 0
    zone: str = ""
    is_ip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When Envoy takes an endpoint out of rotation and for how long (`ejection_ms`, the same each time)."""

    consecutive_failures: int | None
    failure_percent: int | None
    minimum_requests: int
    interval_ms: int
    ejection_ms: int
    max_ejection_percent: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """When Envoy takes an endpoint out that it cannot reach or that does not answer; what it answers is no matter.

    The first time it is out for `ejection_ms`, each time longer, never longer than `max_ejection_ms`. When no endpoint
    is left, all are tried.
    """

    consecutive_failures: int
    interval_ms: int
    ejection_ms: int
    max_ejection_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Concurrency limits of a cluster, per Envoy."""

    max_connections: int
    max_pending_requests: int
    max_requests: int
    retry_budget_percent: int
    min_retry_concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """An active check of every endpoint."""

    kind: Literal["http", "grpc", "tcp"]
    path: str = "/"
    host: str = ""
    grpc_service: str = ""
    interval_ms: int
    timeout_ms: int
    unhealthy_threshold: int
    healthy_threshold: int
    expected_statuses: tuple[tuple[int, int], ...] = ()  # half-open ranges [from, to)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """TLS to a service. Without `ca_pem` the system's roots verify it; `verify` off is written down by the user."""

    verify: bool
    sni: str | None = None
    ca_pem: str | None = None
    subject_names: tuple[str, ...] = ()
    certificate_pem: str | None = None
    key_pem: str | None = None

    def __repr__(self) -> str:
        return f"UpstreamTls(verify={self.verify}, sni={self.sni!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancing:
    """How Envoy chooses an endpoint. `hash` takes its keys from the route."""

    policy: Literal["round_robin", "least_request", "random", "hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """The connection pool. None leaves a bound off."""

    connect_timeout_ms: int
    idle_timeout_ms: int | None = None
    max_requests_per_connection: int | None = None
    tcp_keepalive_s: int | None = None
    max_concurrent_streams: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A service as Envoy sees it."""

    name: ClusterName
    origin: Origin | None
    endpoints: tuple[Endpoint, ...]
    protocol: Literal["http1", "http2", "auto"]
    is_grpc: bool = False
    thresholds: Thresholds
    connections: Connections
    load_balancing: LoadBalancing = LoadBalancing(policy="least_request")
    outliers: OutlierDetection | Unreachable | None = None
    health_check: HealthCheck | None = None
    tls: UpstreamTls | None = None
    dns_refresh_ms: int | None = None
    dns_family: DnsFamily = "v4_preferred"
    failover_overprovisioning_percent: int = 140
