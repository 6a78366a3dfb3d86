"""A service as users write it → a cluster."""

from __future__ import annotations

import ipaddress

from controlplane.ir import cluster as ir
from controlplane.ir import names
from controlplane.manifests.models import service as written
from controlplane.manifests.models.gateway import Defaults
from controlplane.origin import Origin
from controlplane.resolve.identity import ReadFile

_CONSECUTIVE_FAILURES = 5


def cluster(name: str, service: written.Service, defaults: Defaults, origin: Origin, read: ReadFile) -> ir.Cluster:
    """The cluster of a service. Raises OSError for a certificate file that cannot be read."""
    breaker = service.circuit_breaker or defaults.circuit_breaker
    retry = service.retry or defaults.retry
    endpoints = tuple(map(_endpoint, service.endpoints))
    return ir.Cluster(
        name=names.service_cluster(name),
        origin=origin,
        endpoints=endpoints,
        protocol="http2" if service.protocol == "grpc" else service.protocol,
        is_grpc=service.protocol == "grpc",
        thresholds=ir.Thresholds(
            max_connections=breaker.max_connections,
            max_pending_requests=breaker.max_pending,
            max_requests=breaker.max_concurrent,
            retry_budget_percent=round(float(retry.budget)),
            min_retry_concurrency=retry.budget_minimum,
        ),
        connections=ir.Connections(
            connect_timeout_ms=service.connect_timeout.ms,
            idle_timeout_ms=service.connections.idle_timeout.ms,
            max_requests_per_connection=service.connections.max_requests,
            tcp_keepalive_s=max(1, service.connections.keep_alive.ms // 1000)
            if service.connections.keep_alive is not None
            else None,
            max_concurrent_streams=service.connections.max_streams,
        ),
        load_balancing=ir.LoadBalancing(policy=service.load_balancing.policy),
        outliers=_outliers(breaker),
        health_check=_health_check(name, service.health_check) if service.health_check else None,
        tls=_tls(service, endpoints, read),
        dns_refresh_ms=service.dns.refresh.ms,
        dns_family=_dns_family(service.dns.family),
    )


def _endpoint(written_endpoint: written.ServiceEndpoint) -> ir.Endpoint:
    address = written_endpoint.address
    return ir.Endpoint(
        address=address.unix or address.host,
        port=None if address.unix else address.port,
        weight=written_endpoint.weight,
        priority=written_endpoint.priority,
        zone=written_endpoint.zone or "",
        is_ip=bool(address.unix) or is_ip(address.host),
    )


def is_ip(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _outliers(breaker: written.CircuitBreaker) -> ir.OutlierDetection:
    by_count = breaker.consecutive_failures
    if by_count is None and breaker.error_rate is None:
        by_count = _CONSECUTIVE_FAILURES
    return ir.OutlierDetection(
        consecutive_failures=by_count,
        failure_percent=round(float(breaker.error_rate)) if breaker.error_rate is not None else None,
        minimum_requests=breaker.min_requests,
        interval_ms=breaker.window.ms,
        ejection_ms=breaker.open_for.ms,
    )


def _health_check(service: str, check: written.HealthCheck) -> ir.HealthCheck:
    kind = "http" if check.path is not None else "grpc" if check.grpc is not None else "tcp"
    return ir.HealthCheck(
        kind=kind,  # type: ignore[arg-type]  # mypy widens the conditional; the three words are the three kinds
        path=check.path or "/",
        host=check.host or service,
        grpc_service=check.grpc or "",
        interval_ms=check.interval.ms,
        timeout_ms=check.timeout.ms,
        unhealthy_threshold=check.unhealthy_after,
        healthy_threshold=check.healthy_after,
        expected_statuses=tuple((status, status + 1) for status in sorted(set(check.statuses))),
    )


def _tls(service: written.Service, endpoints: tuple[ir.Endpoint, ...], read: ReadFile) -> ir.UpstreamTls | None:
    tls = service.tls
    if tls is None:
        if not any(endpoint.address.scheme == "https" for endpoint in service.endpoints):
            return None
        tls = written.ServiceTls()
    named = {endpoint.address for endpoint in endpoints if not endpoint.is_ip}
    server_name = tls.server_name or (named.pop() if len(named) == 1 else None)
    return ir.UpstreamTls(
        verify=tls.verify,
        sni=server_name,
        ca_pem=read(tls.ca) if tls.ca is not None else None,
        subject_names=tls.names or ((server_name,) if server_name else ()),
        certificate_pem=read(tls.certificate) if tls.certificate is not None else None,
        key_pem=read(tls.key) if tls.key is not None else None,
    )


def _dns_family(family: str) -> ir.DnsFamily:
    found: ir.DnsFamily
    match family:
        case "ipv4":
            found = "v4_only"
        case "ipv6":
            found = "v6_only"
        case "all":
            found = "all"
        case "auto":
            found = "auto"
        case _:
            found = "v4_preferred"
    return found
