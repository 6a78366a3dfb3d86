"""ir endpoints -> ClusterLoadAssignment. Pure; memoised by value.

Locality and weight are always present: gRPC clients refuse an assignment without them.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from operator import attrgetter

from envoy_data_plane.envoy.config.core.v3 import Locality
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    ClusterLoadAssignmentPolicy,
    Endpoint,
    EndpointHealthCheckConfig,
    LbEndpoint,
    LocalityLbEndpoints,
)

from controlplane.ir.cluster import Cluster
from controlplane.ir.cluster import Endpoint as Address
from controlplane.snapshot.resource import ENDPOINT, Resource, whole
from controlplane.translate.address import address
from controlplane.translate.encode import encode

_MEMO = 16_384
_group = attrgetter("priority", "zone")


def load_assignment(cluster: Cluster) -> Resource:
    """The endpoints of a cluster that Envoy learns by EDS."""
    origins = (cluster.origin,) if cluster.origin else ()
    body = _encoded(cluster.name, cluster.endpoints, cluster.failover_overprovisioning_percent)
    return whole(ENDPOINT, cluster.name, body, *origins)


@lru_cache(_MEMO)
def _encoded(name: str, endpoints: tuple[Address, ...], overprovisioning_percent: int) -> bytes:
    return encode(assignment(name, endpoints, overprovisioning_percent))


def assignment(name: str, endpoints: tuple[Address, ...], overprovisioning_percent: int) -> ClusterLoadAssignment:
    """Endpoints grouped by priority and zone, each group weighted by the sum of its endpoints' weights."""
    groups = [(key, tuple(group)) for key, group in groupby(sorted(endpoints, key=_group), key=_group)]
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(
                locality=Locality(zone=zone or "default"),
                priority=priority,
                load_balancing_weight=sum(member.weight for member in group),
                lb_endpoints=list(map(_lb_endpoint, group)),
            )
            for (priority, zone), group in groups
        ],
        policy=ClusterLoadAssignmentPolicy(overprovisioning_factor=overprovisioning_percent),
    )


def _lb_endpoint(endpoint: Address) -> LbEndpoint:
    return LbEndpoint(
        endpoint=Endpoint(
            address=address(endpoint.address, endpoint.port),
            hostname="" if endpoint.is_ip else endpoint.address,
            health_check_config=EndpointHealthCheckConfig(),
        ),
        load_balancing_weight=endpoint.weight,
    )
