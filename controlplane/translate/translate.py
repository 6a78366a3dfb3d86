"""ir → every resource that is served. The story in one function."""

from __future__ import annotations

from controlplane.ir.gateway import Gateway
from controlplane.snapshot.resource import Resource
from controlplane.translate.cluster import cluster_resources
from controlplane.translate.listener import listener_resource, secret_resource
from controlplane.translate.policies.documents import policy_documents
from controlplane.translate.proxyless import proxyless_resources
from controlplane.translate.route import route_configuration


def translate(gateway: Gateway) -> tuple[Resource, ...]:
    """All resources of the gateway. The same gateway gives the same bytes, in any process."""
    return (
        *(resource for cluster in gateway.clusters for resource in cluster_resources(cluster)),
        *(resource for cluster in gateway.clusters for resource in proxyless_resources(cluster)),
        *policy_documents(gateway),
        *(secret_resource(listener.certificate) for listener in gateway.listeners if listener.certificate),
        *(route_configuration(table) for table in gateway.route_tables),
        *(listener_resource(listener, gateway) for listener in gateway.listeners),
    )
