"""Which gRPC methods speak xDS, and what each implies: the variant, and the type where the service is of one type."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.snapshot import resource as types
from controlplane.xds.protocol import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    service: str
    name: str
    variant: Variant
    type_url: str | None

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


_ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def _pair(service: str, noun: str, type_url: str) -> tuple[Method, Method]:
    return (
        Method(service=service, name=f"Stream{noun}", variant=Variant.SOTW, type_url=type_url),
        Method(service=service, name=f"Delta{noun}", variant=Variant.DELTA, type_url=type_url),
    )


METHODS: tuple[Method, ...] = (
    Method(service=_ADS, name="StreamAggregatedResources", variant=Variant.SOTW, type_url=None),
    Method(service=_ADS, name="DeltaAggregatedResources", variant=Variant.DELTA, type_url=None),
    *_pair("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", types.CLUSTER),
    *_pair("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", types.ENDPOINT),
    *_pair("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", types.LISTENER),
    *_pair("envoy.service.route.v3.RouteDiscoveryService", "Routes", types.ROUTE),
    *_pair("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", types.SECRET),
    *_pair("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs", types.EXTENSION),
    Method(
        service="envoy.service.route.v3.VirtualHostDiscoveryService",
        name="DeltaVirtualHosts",
        variant=Variant.DELTA,
        type_url=types.VIRTUAL_HOST,
    ),
    Method(
        service="ratelimit.service.ratelimit.v3.RateLimitConfigDiscoveryService",
        name="StreamRlsConfigs",
        variant=Variant.SOTW,
        type_url=types.RATE_LIMIT_CONFIG,
    ),
)
