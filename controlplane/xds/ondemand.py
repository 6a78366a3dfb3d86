"""Virtual hosts on demand (VHDS): `<route configuration>/<host>` is an alias of the virtual host that serves the host.

Domains match as Envoy matches them: exact, then the longest `*.suffix`, then the longest `prefix.*`, then `*`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from weakref import WeakKeyDictionary

from envoy.config.route.v3 import route_components_pb2

from controlplane.snapshot.resource import VIRTUAL_HOST, Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.channel import ABSENT, Form
from controlplane.xds.subscription import WILDCARD


def asked_for(subscribe: Iterable[str], held: Iterable[str]) -> set[str]:
    """What a client asks for that says "*" after a reconnect, as Envoy does, and means what it has."""
    return {name for name in (*subscribe, *held) if name != WILDCARD}


def greeting(table: str) -> str:
    """A name in the route configuration's namespace that no virtual host has."""
    return f"{table}/"


def due_after(tables: Mapping[str, Form], asked: Iterable[str]) -> set[str]:
    """What route configurations that were sent need of virtual hosts.

    One that changed may have forgotten those it was given on demand. One that has none is not used before it has heard
    of any: it is told that one which never was is gone.
    """
    known = {name: name.rpartition("/")[0] for name in asked}
    silent = {greeting(table) for table in tables.keys() - known.values() if tables[table] is not ABSENT}
    return silent | {name for name, table in known.items() if table in tables}


def is_greeting(name: str) -> bool:
    return name.endswith("/")


def unavailable(resource: Resource) -> bytes:
    """The virtual host with the same domains that answers 503: left out, its hosts would go to a more general one."""
    refused = route_components_pb2.VirtualHost.FromString(resource.body)
    host = route_components_pb2.VirtualHost(name=refused.name, domains=refused.domains)
    route = host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 503
    body: bytes = host.SerializeToString(deterministic=True)
    return body


def find(snapshot: Snapshot, name: str) -> Resource | None:
    """The virtual host of that name, or the one of its route configuration that serves the host in the name."""
    hosts = snapshot.of_type(VIRTUAL_HOST)
    if name in hosts:
        return hosts[name]
    table, _, host = name.rpartition("/")
    serving = _tables(snapshot).get(table)
    if serving is None or not host:
        return None
    return next((serving[domain] for domain in _candidates(host.lower()) if domain in serving), None)


_Serving = dict[str, Resource]
"""Which virtual host of a route configuration serves a domain, as the domain is written."""


def _candidates(host: str) -> Iterator[str]:
    """Domains that mean the host, best first."""
    yield host
    yield from (f"*{host[start:]}" for start in range(1, len(host)))
    yield from (f"{host[:end]}*" for end in range(len(host) - 1, 0, -1))
    yield "*"


_KNOWN: WeakKeyDictionary[Snapshot, dict[str, _Serving]] = WeakKeyDictionary()


def _tables(snapshot: Snapshot) -> dict[str, _Serving]:
    """Read once for each snapshot: a change asks about every name of every client."""
    if snapshot not in _KNOWN:
        tables: dict[str, _Serving] = {}
        for name, resource in snapshot.of_type(VIRTUAL_HOST).items():
            serving = tables.setdefault(name.rpartition("/")[0], {})
            for domain in _domains(resource.body):
                serving.setdefault(domain, resource)
        _KNOWN[snapshot] = tables
    return _KNOWN[snapshot]


@lru_cache(maxsize=16_384)
def _domains(body: bytes) -> tuple[str, ...]:
    return tuple(domain.lower() for domain in route_components_pb2.VirtualHost.FromString(body).domains)
