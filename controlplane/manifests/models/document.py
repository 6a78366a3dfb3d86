"""One document of a manifest folder, and all of them merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.manifests.models.base import Model
from controlplane.manifests.models.gateway import Gateway
from controlplane.manifests.models.identity import ApiKey, Identity, KeyId
from controlplane.manifests.models.limits import Limit
from controlplane.manifests.models.route import Route
from controlplane.manifests.models.service import Service
from controlplane.manifests.models.text import Name
from controlplane.origin import Origin


class Document(Model):
    """Part of a gateway's manifest. All documents of a folder are merged; each section may be in any of them."""

    gateway: Gateway | None = None
    """Where the gateway listens and its defaults. At most one document of a folder has it."""
    identity: Identity | None = None
    """Who may call and how they prove it. At most one document of a folder has it."""
    api_keys: Mapping[KeyId, ApiKey] = {}
    """API keys at rest, by id. `causeway keys new` writes an entry."""
    limits: Mapping[Name, Limit] = {}
    """Rate limits, by a name of your choice."""
    services: Mapping[Name, Service] = {}
    """The services behind the gateway, by a name of your choice."""
    routes: tuple[Route, ...] = ()
    """Which requests go where. Their order does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouteGroup:
    """The routes of one document and where each is written. The same object as long as the document is."""

    routes: tuple[Route, ...]
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All documents of a folder as one value. Routes are in the order of file names and lines."""

    gateway: Gateway
    identity: Identity
    api_keys: Mapping[str, ApiKey]
    limits: Mapping[str, Limit]
    services: Mapping[str, Service]
    route_groups: tuple[RouteGroup, ...]

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every route. Its number is its place in the manifest: `("routes", number)`."""
        return tuple(route for group in self.route_groups for route in group.routes)
