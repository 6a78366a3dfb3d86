"""Which gRPC methods speak xDS, and what each implies: the variant, and the type where the service is of one type.

The services' descriptors are imported for server reflection: who asks what a service can do is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy.service.cluster.v3 import cds_pb2
from envoy.service.discovery.v3 import ads_pb2, discovery_pb2
from envoy.service.endpoint.v3 import eds_pb2
from envoy.service.extension.v3 import config_discovery_pb2
from envoy.service.listener.v3 import lds_pb2
from envoy.service.route.v3 import rds_pb2
from envoy.service.secret.v3 import sds_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

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


def _service(file: FileDescriptor, name: str) -> str:
    full_name: str = file.services_by_name[name].full_name
    return full_name


def _pair(service: str, noun: str, type_url: str) -> tuple[Method, Method]:
    return (
        Method(service=service, name=f"Stream{noun}", variant=Variant.SOTW, type_url=type_url),
        Method(service=service, name=f"Delta{noun}", variant=Variant.DELTA, type_url=type_url),
    )


def _rate_limit_file() -> FileDescriptor:
    """The service of envoyproxy/ratelimit, which the protocol packages have not got."""
    request, response = discovery_pb2.DiscoveryRequest.DESCRIPTOR, discovery_pb2.DiscoveryResponse.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="ratelimit/service/ratelimit/v3/rls_conf_ds.proto",
        package="ratelimit.service.ratelimit.v3",
        syntax="proto3",
        dependency=[request.file.name],
    )
    file.service.add(name="RateLimitConfigDiscoveryService").method.add(
        name="StreamRlsConfigs",
        input_type=f".{request.full_name}",
        output_type=f".{response.full_name}",
        client_streaming=True,
        server_streaming=True,
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindFileByName(file.name)


_ADS = _service(ads_pb2.DESCRIPTOR, "AggregatedDiscoveryService")

METHODS: tuple[Method, ...] = (
    Method(service=_ADS, name="StreamAggregatedResources", variant=Variant.SOTW, type_url=None),
    Method(service=_ADS, name="DeltaAggregatedResources", variant=Variant.DELTA, type_url=None),
    *_pair(_service(cds_pb2.DESCRIPTOR, "ClusterDiscoveryService"), "Clusters", types.CLUSTER),
    *_pair(_service(eds_pb2.DESCRIPTOR, "EndpointDiscoveryService"), "Endpoints", types.ENDPOINT),
    *_pair(_service(lds_pb2.DESCRIPTOR, "ListenerDiscoveryService"), "Listeners", types.LISTENER),
    *_pair(_service(rds_pb2.DESCRIPTOR, "RouteDiscoveryService"), "Routes", types.ROUTE),
    *_pair(_service(sds_pb2.DESCRIPTOR, "SecretDiscoveryService"), "Secrets", types.SECRET),
    *_pair(
        _service(config_discovery_pb2.DESCRIPTOR, "ExtensionConfigDiscoveryService"),
        "ExtensionConfigs",
        types.EXTENSION,
    ),
    Method(
        service=_service(rds_pb2.DESCRIPTOR, "VirtualHostDiscoveryService"),
        name="DeltaVirtualHosts",
        variant=Variant.DELTA,
        type_url=types.VIRTUAL_HOST,
    ),
    Method(
        service=_service(_rate_limit_file(), "RateLimitConfigDiscoveryService"),
        name="StreamRlsConfigs",
        variant=Variant.SOTW,
        type_url=types.RATE_LIMIT_CONFIG,
    ),
)
