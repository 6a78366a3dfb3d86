"""A manifest → the gateway as a value, or everything that is wrong with it. Pure: files are read through `read`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.ir import cluster as cluster_ir
from controlplane.ir import gateway as ir
from controlplane.ir import identity as identity_ir
from controlplane.ir import names
from controlplane.ir.limit import Limit, RequestHeaderCost
from controlplane.manifests.models.document import Manifest
from controlplane.manifests.models.gateway import Gateway, Listener
from controlplane.manifests.models.identity import Identity as WrittenIdentity
from controlplane.manifests.models.identity import Issuer
from controlplane.origin import Origin
from controlplane.resolve import certificates, reserved, routes
from controlplane.resolve.actions import mutations
from controlplane.resolve.findings import Finding, Findings, Path
from controlplane.resolve.identity import ReadFile, identity
from controlplane.resolve.limits import limit
from controlplane.resolve.services import cluster

_POLICY_CONNECT_MS = 100  # well under the time of a whole call, so that time is left to ask elsewhere
_POLICY_CONNECTIONS = 100_000  # concurrency of our own services is theirs to bound, not a circuit's
_AWAY = cluster_ir.Unreachable(consecutive_failures=3, interval_ms=250, ejection_ms=500, max_ejection_ms=2_000)
"""A worker that ended is not asked until it might be back; trying it again costs a request no more than a retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where our own services listen: settings of the process, never of a manifest.

    Each is `host:port` or `unix:/path`; several are workers that share the load.
    """

    extauthz: tuple[cluster_ir.Endpoint, ...] = ()
    ratelimit: tuple[cluster_ir.Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The gateway, and what is wrong. With any finding the gateway must not be used."""

    gateway: ir.Gateway
    findings: tuple[Finding, ...]


def resolve(manifest: Manifest, deployment: Deployment, place: Callable[[Path], Origin], read: ReadFile) -> Resolved:
    """The whole of it. `place` gives the origin of a path of the manifest, `read` the text of a file it names."""
    findings = Findings()
    who = _identity(manifest, read, findings)
    limits = tuple(_limits(manifest, place, findings))
    on_routes = tuple(one.on_route for one in limits)
    clusters = tuple(_clusters(manifest, deployment, place, read, findings))
    hosts = routes.virtual_hosts(manifest, who, on_routes, findings)
    reserved.report(manifest, who, limits, findings)
    listeners = tuple(_listener(number, one, place, read, findings) for number, one in _listeners(manifest.gateway))
    tables = {listener.route_table: listener.port for listener in listeners}
    return Resolved(
        gateway=ir.Gateway(
            name=manifest.gateway.name,
            edge=_edge(manifest.gateway),
            listeners=listeners,
            route_tables=tuple(
                ir.RouteTable(name=table, virtual_hosts=hosts, origin=place(("gateway",))) for table in tables
            ),
            clusters=clusters,
            identity=who,
            limits=limits,
            rate_limit_headers=manifest.gateway.rate_limit_headers,
            critical=tuple(name for name, service in sorted(manifest.services.items()) if service.critical),
            response_headers=mutations(manifest.gateway.response_headers),
        ),
        findings=tuple(findings.all),
    )


def _identity(manifest: Manifest, read: ReadFile, findings: Findings) -> identity_ir.Identity:
    try:
        return identity(_with_tier(manifest, findings), manifest.api_keys, read)
    except (OSError, ValueError) as problem:
        findings.add(("identity",), str(problem), code="file")
        return identity_ir.Identity()


def _with_tier(manifest: Manifest, findings: Findings) -> WrittenIdentity:
    """The identity, its tier being the claim that the limits' `tier_from` names: a caller has one tier.

    An issuer that names its claims itself may call the tier something else; where it does not, it is this one too.
    """
    own = manifest.identity.claims
    tier = own.tier if "tier" in own.model_fields_set else None
    for name, one in sorted(manifest.limits.items()):
        if one.tier_from is None:
            continue
        if tier is not None and one.tier_from != tier:
            findings.add(
                ("limits", name, "tier_from"),
                f'a caller has one tier: "{one.tier_from}" here, "{tier}" elsewhere',
                hint=f'write "{tier}", or change `identity.claims.tier`',
            )
            continue
        tier = one.tier_from
    if tier is None:
        return manifest.identity
    issuers = {name: _issuer_with_tier(issuer, tier) for name, issuer in manifest.identity.issuers.items()}
    return manifest.identity.model_copy(
        update={"claims": own.model_copy(update={"tier": tier}), "issuers": issuers},
    )


def _issuer_with_tier(issuer: Issuer, tier: str) -> Issuer:
    if issuer.claims is None or "tier" in issuer.claims.model_fields_set:
        return issuer
    return issuer.model_copy(update={"claims": issuer.claims.model_copy(update={"tier": tier})})


def _limits(manifest: Manifest, place: Callable[[Path], Origin], findings: Findings) -> list[Limit]:
    built = []
    for name, written in sorted(manifest.limits.items()):
        one = limit(name, written, place(("limits", name)))
        for service in one.tighten.services if one.tighten else ():
            if service not in manifest.services:
                findings.add(
                    ("limits", name, "tighten", "while_unhealthy"),
                    f'unknown service "{service}"',
                    hint=routes.near(service, manifest.services),
                )
        if isinstance(one.cost, RequestHeaderCost) and one.cost.name not in manifest.identity.headers:
            findings.add(
                ("limits", name, "cost", "request_header"),
                f'a client could send "{one.cost.name}" itself: it is none of `identity.headers`',
                hint=f"add it there: headers: {{{one.cost.name}: <claim>}}",
            )
        built.append(one)
    return built


def _clusters(
    manifest: Manifest, deployment: Deployment, place: Callable[[Path], Origin], read: ReadFile, findings: Findings
) -> list[cluster_ir.Cluster]:
    built = [
        _policy_cluster(names.EXTAUTHZ_CLUSTER, deployment.extauthz),
        _policy_cluster(names.RATELIMIT_CLUSTER, deployment.ratelimit),
    ]
    for name, service in sorted(manifest.services.items()):
        path = ("services", name)
        try:
            built.append(one := cluster(name, service, manifest.gateway.defaults, place(path), read))
        except OSError as problem:
            findings.add((*path, "tls"), str(problem), code="file")
            continue
        if one.tls is not None and service.tls is not None:
            certificates.report(
                (*path, "tls"),
                findings,
                certificate=certificates.named(service.tls.certificate, one.tls.certificate_pem),
                key=certificates.named(service.tls.key, one.tls.key_pem),
                ca=certificates.named(service.tls.ca, one.tls.ca_pem),
            )
    return built


def _policy_cluster(name: names.ClusterName, endpoints: tuple[cluster_ir.Endpoint, ...]) -> cluster_ir.Cluster:
    """One of our own services. Without endpoints Envoy cannot ask it, and what cannot be asked fails as declared."""
    return cluster_ir.Cluster(
        name=name,
        origin=None,
        endpoints=endpoints,
        protocol="http2",
        thresholds=cluster_ir.Thresholds(
            max_connections=_POLICY_CONNECTIONS,
            max_pending_requests=_POLICY_CONNECTIONS,
            max_requests=_POLICY_CONNECTIONS,
            retry_budget_percent=20,
            min_retry_concurrency=100,
        ),
        connections=cluster_ir.Connections(connect_timeout_ms=_POLICY_CONNECT_MS, max_concurrent_streams=1000),
        load_balancing=cluster_ir.LoadBalancing(policy="least_request"),
        outliers=_AWAY,
    )


def _listeners(gateway: Gateway) -> list[tuple[int, Listener]]:
    return list(enumerate(gateway.listeners))


def _listener(
    number: int, listener: Listener, place: Callable[[Path], Origin], read: ReadFile, findings: Findings
) -> ir.Listener:
    path = ("gateway", "listeners", number)
    certificate = None
    if listener.tls is not None:
        try:
            certificate = ir.Certificate(
                name=names.certificate(listener.address, listener.port),
                certificate_pem=read(listener.tls.certificate),
                key_pem=read(listener.tls.key),
                origin=place((*path, "tls")),
            )
        except OSError as problem:
            findings.add((*path, "tls"), str(problem), code="file")
        else:
            chain = certificates.Named(listener.tls.certificate, certificate.certificate_pem)
            key = certificates.Named(listener.tls.key, certificate.key_pem)
            certificates.report((*path, "tls"), findings, certificate=chain, key=key)
            certificates.report_nameless((*path, "tls"), findings, chain)
    return ir.Listener(
        name=names.listener(listener.address, listener.port),
        address=listener.address,
        port=listener.port,
        route_table=names.route_table(listener.port),
        certificate=certificate,
        origin=place(path),
    )


def _edge(gateway: Gateway) -> ir.Edge:
    clients = gateway.clients
    return ir.Edge(
        trusted_hops=gateway.trusted_proxies,
        max_header_kib=clients.max_header_size.bytes // 1024,
        max_headers=clients.max_headers,
        headers_with_underscores=gateway.normalization.headers_with_underscores,
        escaped_slashes=gateway.normalization.escaped_slashes,
        request_headers_timeout_ms=clients.headers_timeout.ms,
        idle_timeout_ms=clients.idle_timeout.ms,
        drain_timeout_ms=gateway.drain_timeout.ms,
        max_connections=clients.max_connections,
        keep_request_id=gateway.keep_request_id,
    )
