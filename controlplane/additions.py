"""Whether an edit only adds: what one may serve before it is known that the edit is complete.

An edit of several files is seen between two of them. A route that comes or an endpoint that moves can go live by then.
What seems to be gone may only be on its way to another file. And what is served already must not change by half: one
file may loosen the gateway's default because another makes the routes that need it strict. Pure.
"""

from __future__ import annotations

from controlplane.ir.gateway import Gateway
from controlplane.reconcile import Built
from controlplane.snapshot.resource import ENDPOINT, EXTENSION, ROUTE, Resource


def only_adds(before: Built, after: Built) -> bool:
    """Whether everything that was there is there still and means the same; endpoints may be others."""
    return _same_rules(before.gateway, after.gateway) and all(
        _holds(resource, after.snapshot.get(resource.type_url, resource.name)) for resource in before.snapshot
    )


def _same_rules(before: Gateway, after: Gateway) -> bool:
    """Then the documents of the two services differ in what is new at most."""
    return (before.identity, before.limits, before.rate_limit_headers) == (
        after.identity,
        after.limits,
        after.rate_limit_headers,
    )


def _holds(was: Resource, now: Resource | None) -> bool:
    if now is None:
        return False
    if was.version == now.version or was.type_url in (ENDPOINT, EXTENSION):
        return True
    # A route means what it says alone, whatever its host says for others.
    return was.type_url == ROUTE and all(
        (part := now.parts_by_key.get(key)) is not None and part.kept == old.kept
        for key, old in was.parts_by_key.items()
    )
