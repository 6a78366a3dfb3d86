"""ir clusters -> Cluster. Pure; memoised by value.

Addresses that are IPs or sockets come by EDS, so that endpoints change without touching the cluster. As soon as one is
a DNS name the cluster is of Envoy's DNS type: Envoy resolves it, and every address it stands for is an endpoint.

Circuit breaking is Envoy's outlier detection with every endpoint ejectable and no panic threshold: when all are out, a
request is answered 503 at once. A passing health check does not end an ejection early: a circuit stays open for as long
as the manifest says. Our own services have no circuit: what cannot be reached is left out, unless nothing else is left.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import assert_never

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.clusters.common.dns.v3 as dns_v3
import envoy_data_plane.envoy.extensions.clusters.dns.v3 as dns_cluster_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as http_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as type_v3
from envoy_data_plane.google.protobuf import Any as AnyMessage

from controlplane.ir.cluster import (
    Cluster,
    Connections,
    HealthCheck,
    OutlierDetection,
    Thresholds,
    Unreachable,
    UpstreamTls,
)
from controlplane.snapshot.resource import CLUSTER, Resource, whole
from controlplane.translate.encode import encode, packed
from controlplane.translate.endpoint import assignment, load_assignment
from controlplane.translate.values import BUFFER_BYTES, H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, duration

_MEMO = 16_384
_PANIC_WHEN_ALL_ARE_OUT = 1.0  # percent
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
"""The system's roots on the machine Envoy runs on, where Debian and Envoy's own images keep them. Envoy takes
`system_root_certs` from gRPC clients only, and refuses to check names without roots."""


def cluster_resources(cluster: Cluster) -> tuple[Resource, ...]:
    """The cluster, and its endpoints when they come by EDS."""
    origins = (cluster.origin,) if cluster.origin else ()
    body = whole(CLUSTER, cluster.name, _encoded(_without_endpoints(cluster)), *origins)
    return (body, load_assignment(cluster)) if _is_eds(cluster) else (body,)


def _is_eds(cluster: Cluster) -> bool:
    return all(endpoint.is_ip for endpoint in cluster.endpoints)


def _without_endpoints(cluster: Cluster) -> Cluster:
    """What the cluster's bytes depend on: not its place in a file, nor the endpoints when they come by EDS."""
    return replace(cluster, origin=None, endpoints=() if _is_eds(cluster) else cluster.endpoints)


@lru_cache(_MEMO)
def _encoded(cluster: Cluster) -> bytes:
    is_eds = _is_eds(cluster)
    is_unreachable = isinstance(cluster.outliers, Unreachable)
    return encode(
        cluster_v3.Cluster(
            name=cluster.name,
            type=cluster_v3.ClusterDiscoveryType.EDS if is_eds else None,
            eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(eds_config=ADS) if is_eds else None,
            cluster_type=None if is_eds else _dns(cluster),
            load_assignment=None
            if is_eds
            else assignment(cluster.name, cluster.endpoints, cluster.failover_overprovisioning_percent),
            connect_timeout=duration(cluster.connections.connect_timeout_ms),
            per_connection_buffer_limit_bytes=BUFFER_BYTES,
            lb_policy=_LB_POLICIES[cluster.load_balancing.policy],
            common_lb_config=cluster_v3.ClusterCommonLbConfig(
                healthy_panic_threshold=type_v3.Percent(value=_PANIC_WHEN_ALL_ARE_OUT if is_unreachable else 0),
                # Envoy gathers changes of health for a second; a circuit that opens must not leak a second's requests.
                update_merge_window=timedelta(0),
            ),
            circuit_breakers=_circuit_breakers(cluster.thresholds),
            outlier_detection=_outlier_detection(cluster.outliers) if cluster.outliers else None,
            health_checks=[_health_check(cluster.health_check)] if cluster.health_check else [],
            ignore_health_on_host_removal=True,
            transport_socket=_transport_socket(cluster.tls, cluster.protocol) if cluster.tls else None,
            typed_extension_protocol_options={_HTTP_OPTIONS: _http_options(cluster)},
            upstream_connection_options=_connection_options(cluster.connections),
        )
    )


ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3)

_LB_POLICIES = {
    "round_robin": cluster_v3.ClusterLbPolicy.ROUND_ROBIN,
    "least_request": cluster_v3.ClusterLbPolicy.LEAST_REQUEST,
    "random": cluster_v3.ClusterLbPolicy.RANDOM,
    "hash": cluster_v3.ClusterLbPolicy.RING_HASH,
}
_DNS_FAMILIES = {
    "auto": dns_v3.DnsLookupFamily.AUTO,
    "v4_only": dns_v3.DnsLookupFamily.V4_ONLY,
    "v6_only": dns_v3.DnsLookupFamily.V6_ONLY,
    "v4_preferred": dns_v3.DnsLookupFamily.V4_PREFERRED,
    "all": dns_v3.DnsLookupFamily.ALL,
}


def _dns(cluster: Cluster) -> cluster_v3.ClusterCustomClusterType:
    """Strict DNS: every address of a name is an endpoint of its own."""
    config = dns_cluster_v3.DnsCluster(
        dns_refresh_rate=duration(cluster.dns_refresh_ms) if cluster.dns_refresh_ms is not None else None,
        respect_dns_ttl=cluster.dns_refresh_ms is None,
        dns_lookup_family=_DNS_FAMILIES[cluster.dns_family],
    )
    return cluster_v3.ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=packed(config))


def _circuit_breakers(thresholds: Thresholds) -> cluster_v3.CircuitBreakers:
    def at(priority: core.RoutingPriority) -> cluster_v3.CircuitBreakersThresholds:
        return cluster_v3.CircuitBreakersThresholds(
            priority=priority,
            max_connections=thresholds.max_connections,
            max_pending_requests=thresholds.max_pending_requests,
            max_requests=thresholds.max_requests,
            track_remaining=True,
            retry_budget=cluster_v3.CircuitBreakersThresholdsRetryBudget(
                budget_percent=type_v3.Percent(value=float(thresholds.retry_budget_percent)),
                min_retry_concurrency=thresholds.min_retry_concurrency,
            ),
        )

    return cluster_v3.CircuitBreakers(thresholds=[at(core.RoutingPriority.DEFAULT), at(core.RoutingPriority.HIGH)])


def _outlier_detection(outliers: OutlierDetection | Unreachable) -> cluster_v3.OutlierDetection:
    match outliers:
        case OutlierDetection():
            return _circuit(outliers)
        case Unreachable():
            return _unreachable(outliers)
        case _:
            assert_never(outliers)


def _unreachable(outliers: Unreachable) -> cluster_v3.OutlierDetection:
    return cluster_v3.OutlierDetection(
        interval=duration(outliers.interval_ms),
        base_ejection_time=duration(outliers.ejection_ms),
        max_ejection_time=duration(outliers.max_ejection_ms),
        max_ejection_percent=100,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=outliers.consecutive_failures,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_failure_percentage_local_origin=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_failure_percentage=0,
    )


def _circuit(outliers: OutlierDetection) -> cluster_v3.OutlierDetection:
    by_count, by_rate = outliers.consecutive_failures, outliers.failure_percent
    return cluster_v3.OutlierDetection(
        interval=duration(outliers.interval_ms),
        base_ejection_time=duration(outliers.ejection_ms),
        max_ejection_time=duration(outliers.ejection_ms),
        max_ejection_time_jitter=duration(0),
        max_ejection_percent=outliers.max_ejection_percent,
        consecutive_5xx=by_count if by_count is not None else 5,
        enforcing_consecutive_5xx=100 if by_count is not None else 0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        failure_percentage_threshold=by_rate if by_rate is not None else 100,
        enforcing_failure_percentage=100 if by_rate is not None else 0,
        failure_percentage_minimum_hosts=1,
        failure_percentage_request_volume=outliers.minimum_requests,
        successful_active_health_check_uneject_host=False,
    )


def _health_check(check: HealthCheck) -> core.HealthCheck:
    built = core.HealthCheck(
        timeout=duration(check.timeout_ms),
        interval=duration(check.interval_ms),
        no_traffic_interval=duration(check.interval_ms),
        unhealthy_threshold=check.unhealthy_threshold,
        healthy_threshold=check.healthy_threshold,
        initial_jitter=duration(min(check.interval_ms, 1_000)),
        interval_jitter_percent=10,
        reuse_connection=True,
    )
    match check.kind:
        case "http":
            built.http_health_check = core.HealthCheckHttpHealthCheck(
                path=check.path,
                host=check.host,
                expected_statuses=[type_v3.Int64Range(start=start, end=end) for start, end in check.expected_statuses],
            )
        case "grpc":
            built.grpc_health_check = core.HealthCheckGrpcHealthCheck(
                service_name=check.grpc_service, authority=check.host
            )
        case "tcp":
            built.tcp_health_check = core.HealthCheckTcpHealthCheck()
        case _:
            assert_never(check.kind)
    return built


def _transport_socket(tls: UpstreamTls, protocol: str) -> core.TransportSocket:
    roots = tls_v3.CertificateValidationContext(
        trusted_ca=_inline(tls.ca_pem) if tls.ca_pem is not None else core.DataSource(filename=SYSTEM_ROOTS),
        match_typed_subject_alt_names=[
            tls_v3.SubjectAltNameMatcher(
                san_type=tls_v3.SubjectAltNameMatcherSanType.DNS, matcher=matcher.StringMatcher(exact=name)
            )
            for name in tls.subject_names
        ],
    )
    certificates = (
        [tls_v3.TlsCertificate(certificate_chain=_inline(tls.certificate_pem), private_key=_inline(tls.key_pem or ""))]
        if tls.certificate_pem is not None
        else []
    )
    alpn = {"http1": ["http/1.1"], "http2": ["h2"], "auto": ["h2", "http/1.1"]}[protocol]
    context = tls_v3.UpstreamTlsContext(
        sni=tls.sni or "",
        common_tls_context=tls_v3.CommonTlsContext(
            alpn_protocols=alpn,
            tls_certificates=certificates,
            validation_context=roots if tls.verify else None,
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _inline(text: str) -> core.DataSource:
    return core.DataSource(inline_string=text)


def _http_options(cluster: Cluster) -> AnyMessage:
    http2 = core.Http2ProtocolOptions(
        max_concurrent_streams=cluster.connections.max_concurrent_streams or 100,
        initial_stream_window_size=H2_STREAM_WINDOW,
        initial_connection_window_size=H2_CONNECTION_WINDOW,
    )
    options = http_v3.HttpProtocolOptions(
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=duration(cluster.connections.idle_timeout_ms)
            if cluster.connections.idle_timeout_ms is not None
            else None,
            max_requests_per_connection=cluster.connections.max_requests_per_connection,
        ),
    )
    if cluster.tls is not None and cluster.tls.verify and not cluster.tls.sni:
        options.upstream_http_protocol_options = core.UpstreamHttpProtocolOptions(
            auto_sni=True, auto_san_validation=not cluster.tls.subject_names
        )
    match cluster.protocol:
        case "http1":
            options.explicit_http_config = http_v3.HttpProtocolOptionsExplicitHttpConfig(
                http_protocol_options=core.Http1ProtocolOptions()
            )
        case "http2":
            options.explicit_http_config = http_v3.HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
        case "auto":
            options.auto_config = http_v3.HttpProtocolOptionsAutoHttpConfig(
                http_protocol_options=core.Http1ProtocolOptions(), http2_protocol_options=http2
            )
        case _:
            assert_never(cluster.protocol)
    return packed(options)


def _connection_options(connections: Connections) -> cluster_v3.UpstreamConnectionOptions | None:
    if connections.tcp_keepalive_s is None:
        return None
    return cluster_v3.UpstreamConnectionOptions(
        tcp_keepalive=core.TcpKeepalive(
            keepalive_time=connections.tcp_keepalive_s, keepalive_interval=connections.tcp_keepalive_s
        )
    )
