"""What a route asks, checked against a request and an identity: addresses, tenants, roles, scopes, claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from extauthz.core import values
from extauthz.core.identity import Identity
from extauthz.core.network import Networks, address
from extauthz.core.strict import Json
from extauthz.policy import ClaimCondition, Method, RoutePolicy, TenantFixed, TenantInHost, TenantInPath, TenantMatch

# Visible ASCII; no fragment, no backslash. Envoy refuses most of these itself; a service behind must not see the rest.
_PATH: Final = re.compile(r"/[\x21\x22\x24-\x5b\x5d-\x7e]*", re.ASCII)
# A segment that is a dot or two once it has been decoded and what follows a semicolon has been cut off.
_DOTS: Final = re.compile(r"/(?:\.|%2e){1,2}(?:/|;|%3b|%2f|%5c|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route's policy, prepared for being asked often."""

    name: str
    policy: RoutePolicy
    accept: frozenset[Method]
    issuers: frozenset[str] | None
    ip_allow: tuple[Networks, ...]
    ip_deny: Networks | None

    @property
    def is_public(self) -> bool:
        return self.policy.mode == "public"


def prepare(name: str, policy: RoutePolicy, known: tuple[Method, ...]) -> Route:
    """A route's policy with its networks read and its defaults filled in."""
    return Route(
        name=name,
        policy=policy,
        accept=frozenset(policy.accept or known),
        issuers=frozenset(policy.issuers) or None,
        ip_allow=tuple(map(Networks, policy.ip_allow)),
        ip_deny=Networks(policy.ip_deny) if policy.ip_deny else None,
    )


def path_refused(path: str) -> bool:
    """Whether a path could mean something else to a service than it did to Envoy's router."""
    plain, _, _ = path.partition("?")
    return not _PATH.fullmatch(plain) or (
        (";" in plain or "%" in plain or "/." in plain) and _DOTS.search(plain) is not None
    )


def ip_denied(route: Route, text: str) -> bool:
    """Whether the client's address keeps it out. An address that cannot be read is kept out by any rule."""
    if route.ip_deny is None and not route.ip_allow:
        return False
    found = address(text)
    if found is None or (route.ip_deny is not None and route.ip_deny.has(found)):
        return True
    return not all(networks.has(found) for networks in route.ip_allow)


def tenant_mismatch(route: Route, identity: Identity, path: str, host: str) -> bool:
    """Whether the request names another tenant than the identity's, or the identity has none where one is named."""
    return any(
        identity.tenant is None or named_tenant(match, path, host) != identity.tenant for match in route.policy.tenants
    )


def named_tenant(match: TenantMatch, path: str, host: str) -> str | None:
    """The tenant a request names, byte for byte: nothing is decoded, so an encoded spelling matches nobody's."""
    match match:
        case TenantFixed():
            return match.tenant
        case TenantInPath():
            segments = path.partition("?")[0].split("/")
            return segments[match.segment + 1] if match.segment + 1 < len(segments) else None
        case TenantInHost():
            name = _bare_host(host)
            return name.removesuffix(match.suffix) if name.endswith(match.suffix) else None


def _bare_host(host: str) -> str:
    bare, colon, port = host.rpartition(":")
    name = bare if colon and port.isdigit() else host
    return name.rstrip(".").lower()


def missing(route: Route, identity: Identity) -> str | None:
    """The reason why the identity may not pass, or None."""
    policy = route.policy
    if not all(any(role in identity.roles for role in group) for group in policy.roles):
        return "role_missing"
    if not all(any(scope in identity.scopes for scope in group) for group in policy.scopes):
        return "scope_missing"
    if not all(any(_holds(one, identity.claims) for one in group) for group in policy.claims):
        return "claim_mismatch"
    return None


def _holds(condition: ClaimCondition, claims: Mapping[str, Json]) -> bool:
    value = values.claim(claims, condition.claim)
    candidates = value if isinstance(value, list) else [value]
    return any(_same(candidate, wanted) for candidate in candidates for wanted in condition.one_of)


def _same(value: Json, wanted: str | int | bool) -> bool:
    """Equality without Python's True == 1."""
    return type(value) is type(wanted) and value == wanted
