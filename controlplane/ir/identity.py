"""Identity as values: who may sign, which credentials exist, and what each route asks.

Conditions are conjunctions of alternatives: of every inner tuple one element must hold. Inherited and own conditions
are then simply put side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["required", "optional", "public"]
CredentialKind = Literal["jwt", "api_key", "basic", "client_certificate"]
Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClaimCondition:
    """The claim is one of `one_of`, or a list that holds one of them."""

    claim: str
    one_of: tuple[str | int | bool, ...]


@dataclass(frozen=True, slots=True)
class TenantInPath:
    """The path's segment number `segment`, counted from 0, names the tenant."""

    segment: int


@dataclass(frozen=True, slots=True)
class TenantInHost:
    """What stands before `suffix` (`.example.com`) in the host names the tenant."""

    suffix: str


@dataclass(frozen=True, slots=True)
class TenantFixed:
    """The route belongs to one tenant."""

    tenant: str


TenantMatch = TenantInPath | TenantInHost | TenantFixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """What a route asks of its callers. Empty `accept` or `issuers`: everything the gateway knows."""

    mode: Mode = "required"
    accept: tuple[CredentialKind, ...] = ()
    issuers: tuple[str, ...] = ()
    roles: tuple[tuple[str, ...], ...] = ()
    scopes: tuple[tuple[str, ...], ...] = ()
    claims: tuple[tuple[ClaimCondition, ...], ...] = ()
    tenants: tuple[TenantMatch, ...] = ()
    ip_allow: tuple[tuple[str, ...], ...] = ()
    ip_deny: tuple[str, ...] = ()
    failure_open: bool = False
    asks: bool = True
    """Whether Envoy asks the service at all. Not on a public route without rules on addresses and without a proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """Which claim holds what."""

    user: str = "sub"
    tenant: str = "tenant_id"
    roles: str = "roles"
    scopes: str = "scope"
    tier: str = "tier"


@dataclass(frozen=True, slots=True)
class SharedSecret:
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PublicKey:
    pem: str


@dataclass(frozen=True, slots=True)
class InlineKeys:
    """A JWK Set as JSON text."""

    jwks: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteKeys:
    """A JWK Set that is fetched."""

    url: str
    refresh_ms: int
    max_stale_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Who signs tokens, and with what. `types` is in lower case, `""` for tokens without a `typ`."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[Algorithm, ...]
    keys: SharedSecret | PublicKey | InlineKeys | RemoteKeys
    types: tuple[str, ...]
    kinds: tuple[str, ...]
    max_lifetime_ms: int
    leeway_ms: int
    claims: ClaimNames


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who a credential without claims stands for."""

    client: str
    tenant: str | None = None
    tier: str | None = None
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """`digest` is 64 hexadecimal digits; `expires_s` counts from the epoch."""

    id: str
    digest: str
    client: Client
    expires_s: int | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeys:
    header: str
    peppers: tuple[str, ...] = field(repr=False)
    keys: tuple[ApiKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicUser:
    name: str
    hash: str = field(repr=False)
    client: Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    realm: str
    users: tuple[BasicUser, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateClient:
    principal: str
    client: Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The gateway's own signature for services. `key` is a secret (HS256) or a private key, PEM."""

    header: str
    algorithm: Literal["HS256", "ES256", "EdDSA"]
    key: str = field(repr=False)
    kid: str | None
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Everything about credentials that is not a route's. `headers` are pairs of name and claim."""

    issuers: tuple[Issuer, ...] = ()
    claims: ClaimNames = ClaimNames()
    api_keys: ApiKeys | None = None
    basic: Basic | None = None
    certificates: tuple[CertificateClient, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    proof: Proof | None = None
    revocation_redis: str | None = field(default=None, repr=False)
    deny_on_revocation_error: bool = False
    timeout_ms: int = 500
