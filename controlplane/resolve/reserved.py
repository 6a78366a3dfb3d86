"""What looks at a header that never gets there: names that only the gateway sets are taken from every request first.

They are gone before a route is looked for (`translate/http_filters/strip.py`), so a route's condition on one is never
met, and nothing can be told apart by one that is not set later on. Each would fail without a word, hence a problem.
"""

from __future__ import annotations

from collections.abc import Collection

from controlplane.ir.identity import Identity
from controlplane.ir.limit import Limit
from controlplane.manifests.models.document import Manifest, RouteGroup
from controlplane.memo import by_identity, same
from controlplane.resolve.findings import Findings
from extauthz.policy import RESERVED_HEADERS, RESERVED_PREFIXES

_CODE = "reserved-header"
_RESERVED = frozenset(RESERVED_HEADERS)


def report(manifest: Manifest, identity: Identity, limits: Collection[Limit], findings: Findings) -> None:
    """Adds a finding for each place that looks at such a header."""
    injected = _injected(identity)
    for name, service in sorted(manifest.services.items()):
        header = (service.load_balancing.by or "").removeprefix("header.")
        if header not in injected and _is_reserved(header):
            findings.add(
                ("services", name, "load_balancing", "by"),
                f'"{header}" never gets here: the gateway takes it from requests and does not set it',
                hint="use another name, or set it: `identity.headers`",
                code=_CODE,
            )
    for limit in limits:
        known = injected if limit.stage == "identity" else ()
        for header in (key.removeprefix("header.") for key in limit.by if key.startswith("header.")):
            if header not in known and (header in injected or _is_reserved(header)):
                findings.add(
                    ("limits", limit.name, "by"),
                    f'"{header}" is not there when this limit looks: the gateway takes it from requests',
                    hint="write user, tenant or api_key for who somebody is, or use another name",
                    code=_CODE,
                )
    first = 0
    names = same(injected)
    for group in manifest.route_groups:
        for index, header in _conditions(group, names):
            findings.add(
                ("routes", first + index, "headers", header),
                f'nothing matches on "{header}": the gateway takes it from requests before it looks for a route',
                hint="let `auth` decide who may (roles, claims, tenant), or match on another name",
                code=_CODE,
            )
        first += len(group.routes)


@by_identity(4096)
def _conditions(group: RouteGroup, injected: frozenset[str]) -> tuple[tuple[int, str], ...]:
    return tuple(
        (index, header)
        for index, route in enumerate(group.routes)
        for header in sorted(route.headers)
        if header in injected or _is_reserved(header)
    )


def _injected(identity: Identity) -> frozenset[str]:
    """The names that authentication sets for services."""
    proof = (identity.proof.header,) if identity.proof is not None else ()
    return frozenset((*(name for name, _ in identity.headers), *proof))


def _is_reserved(header: str) -> bool:
    return header in _RESERVED or header.startswith(RESERVED_PREFIXES)
