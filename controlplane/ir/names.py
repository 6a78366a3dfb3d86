"""Names of resources: the one place where they are made, so that a reference and its target cannot disagree."""

from __future__ import annotations

from typing import NewType

ClusterName = NewType("ClusterName", str)
RouteTableName = NewType("RouteTableName", str)
ListenerName = NewType("ListenerName", str)
SecretName = NewType("SecretName", str)

EXTAUTHZ_CLUSTER = ClusterName("causeway.extauthz")
RATELIMIT_CLUSTER = ClusterName("causeway.ratelimit")


_SERVICE = "service/"


def service_cluster(service: str) -> ClusterName:
    """The cluster of a service. The prefix keeps users' names apart from the gateway's own."""
    return ClusterName(_SERVICE + service)


def is_service(cluster: str) -> bool:
    """Whether a cluster is a user's service, not one of the gateway's own."""
    return cluster.startswith(_SERVICE)


def service_of(cluster: str) -> str:
    """The service whose cluster this is."""
    return cluster.removeprefix(_SERVICE)


def proxyless_cluster(cluster: ClusterName) -> ClusterName:
    """The form of a service's cluster that gRPC clients get where its endpoints are addresses."""
    return ClusterName(f"grpc/{service_of(cluster)}")


def proxyless_endpoint(cluster: ClusterName, host: str, port: int) -> ClusterName:
    """One endpoint of the service as a cluster of its own, which gRPC clients get where there are host names."""
    return ClusterName(f"{proxyless_cluster(cluster)}/{host}:{port}")


def proxyless_aggregate(cluster: ClusterName) -> ClusterName:
    """The cluster of several such. Forms have names of their own: a cluster that becomes an aggregate crashes gRPC."""
    return ClusterName(f"{proxyless_cluster(cluster)}/each")


def listener(address: str, port: int) -> ListenerName:
    """A listener's name: where it listens."""
    return ListenerName(f"listener/{address}:{port}")


def route_table(port: int) -> RouteTableName:
    """The route table of the listener on `port`."""
    return RouteTableName(f"routes/{port}")


def certificate(address: str, port: int) -> SecretName:
    """The certificate of the listener there: one port may be listened on with several."""
    return SecretName(f"certificate/{address}:{port}")
