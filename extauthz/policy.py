"""The document the authorization service obeys, and the names it shares with Envoy's configuration.

The control plane writes it, the service reads it; nothing else is said between the two. It holds secrets, so it is
served to services only and never printed. This module validates shape and references; what keys are worth (sizes,
algorithms, duplicates) is judged where they are loaded. It must not know manifests, gRPC, or the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from serving.secret import Secret

RESOURCE_NAME = "causeway.extauthz"
"""Name of the TypedExtensionConfig that carries the document."""

METADATA_NAMESPACE = "envoy.filters.http.ext_authz"
"""Where Envoy puts the verified identity: `user`, `tenant`, `tier`, `api_key`, `roles`, `policy`, `reason`."""

CONTEXT_POLICY_KEY = "causeway.policy"
"""The context_extensions key whose value names the policy of the route that matched."""

REQUEST_ID_HEADER = "x-request-id"

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip
Method = Literal["jwt", "api_key", "basic", "client_certificate"]
Mode = Literal["required", "optional", "public"]
IdentityField = Literal["user", "tenant", "tier", "api_key", "roles", "scopes", "issuer", "method"]

_HEADER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_VALUE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,256}")


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError(f"not a header name in lower case: {name!r}")
    return name


def _header_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("must be 1 to 256 visible ASCII characters without a comma")
    return value


def _network(text: str) -> str:
    return str(ip_network(text))


HeaderName = Annotated[str, AfterValidator(_header_name)]
Value = Annotated[str, AfterValidator(_header_value)]
"""What may become a header's value or a part of one: visible ASCII, no comma, no space."""
Network = Annotated[str, AfterValidator(_network)]
ClaimName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# Where an issuer's keys come from -------------------------------------------------------------------------------------


class SharedSecret(_Model):
    """A symmetric secret: UTF-8 text, at least as long as the hash (RFC 7518, 3.2)."""

    source: Literal["secret"] = "secret"
    secret: Secret


class PublicKey(_Model):
    """One PEM public key (or certificate-free SubjectPublicKeyInfo)."""

    source: Literal["pem"] = "pem"
    pem: str


class InlineKeys(_Model):
    """A JWK Set, as JSON text (RFC 7517). A symmetric set is secret, so the text is kept as one."""

    source: Literal["jwks"] = "jwks"
    jwks: Secret


class RemoteKeys(_Model):
    """A JWK Set fetched and refreshed off the request path."""

    source: Literal["remote"] = "remote"
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$", max_length=2000)]
    refresh_s: Annotated[int, Field(ge=1, le=86_400)] = 300
    max_stale_s: Annotated[int, Field(ge=1, le=7 * 86_400)] = 86_400
    timeout_s: Annotated[float, Field(gt=0, le=30)] = 5.0
    unknown_kid_interval_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


KeySource = Annotated[SharedSecret | PublicKey | InlineKeys | RemoteKeys, Field(discriminator="source")]


class ClaimNames(_Model):
    """Which claim holds what. A name is looked up as it stands, then as a path of dots (`realm_access.roles`)."""

    user: ClaimName = "sub"
    tenant: ClaimName = "tenant_id"
    roles: ClaimName = "roles"
    scopes: ClaimName = "scope"
    tier: ClaimName = "tier"


class Issuer(_Model):
    """Who may sign tokens, with which keys, for which audiences."""

    issuer: Name
    audiences: Annotated[tuple[Name, ...], Field(min_length=1)]
    keys: KeySource
    algorithms: tuple[Algorithm, ...] = ()
    """What the keys may be used with; empty: what each key names, else its type's usual one (RSA: RS256)."""
    types: tuple[str, ...] = ("at+jwt", "jwt")
    """Accepted `typ` headers, in lower case and without `application/`; the empty string stands for no `typ` at all."""
    kinds: tuple[str, ...] = ("access", "access_token", "at+jwt", "bearer")
    """Accepted values of `token_use`, `token_type`, `type` and `typ` among the claims, where a token has any of them:
    how issuers that sign both with one key tell an access token from a refresh or an ID token."""
    max_lifetime_s: Annotated[int, Field(ge=1)] = 86_400
    leeway_s: Annotated[int, Field(ge=0, le=60)] = 30
    claims: ClaimNames = ClaimNames()


# Credentials that are not tokens --------------------------------------------------------------------------------------


class Client(_Model):
    """Who a credential without claims stands for."""

    client: Value
    tenant: Value | None = None
    tier: Value | None = None
    roles: tuple[Value, ...] = ()
    scopes: tuple[Value, ...] = ()


class ApiKey(Client):
    """An API key at rest: never the key, only its HMAC-SHA-256 under a pepper that lives elsewhere."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    expires_at: int | None = None
    """Seconds since the epoch."""
    disabled: bool = False


class ApiKeys(_Model):
    """Keys by their public id, which is the part after the prefix: `cw_<id>_<secret>`."""

    header: HeaderName = "x-api-key"
    peppers: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=2)]
    """The pepper in use, then the one before it while it is being replaced."""
    keys: Mapping[Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{8,32}$")], ApiKey] = {}

    @model_validator(mode="after")
    def _two_live_keys(self) -> Self:
        live: dict[str, int] = {}
        for key in self.keys.values():
            if not key.disabled:
                live[key.client] = live.get(key.client, 0) + 1
        for client, count in live.items():
            if count > 2:
                raise ValueError(f"client {client!r} has {count} live keys; two are enough to replace one")
        return self


class BasicUser(Client):
    """A user of HTTP Basic (RFC 7617). `hash` is `scrypt$<log2 n>$<r>$<p>$<salt>$<key>`, both in base64url."""

    hash: Annotated[str, StringConstraints(pattern=r"^scrypt\$\d{2}\$\d{1,2}\$\d{1,2}\$[\w-]{16,}\$[\w-]{32,}$")]


class Basic(_Model):
    realm: Annotated[str, StringConstraints(pattern=r'^[^"\\\x00-\x1f\x7f-\uffff]{1,100}$')] = "gateway"
    users: Mapping[Annotated[str, StringConstraints(pattern=r"^[^:\x00-\x1f]{1,200}$")], BasicUser] = {}


class CertificateClient(Client):
    """A client known by the principal Envoy verified: a URI or DNS SAN, else the subject."""

    principal: Name


# What a route asks for ------------------------------------------------------------------------------------------------


class ClaimCondition(_Model):
    """Holds when the claim is one of `one_of`, or is a list with one of them."""

    claim: ClaimName
    one_of: Annotated[tuple[str | int | bool, ...], Field(min_length=1)]


class TenantInPath(_Model):
    """The path names a tenant in its segment number `segment`, counted from 0."""

    source: Literal["path"] = "path"
    segment: Annotated[int, Field(ge=0, le=512)]


class TenantInHost(_Model):
    """The host names a tenant: what stands before `suffix` (`.tickets.example.com`)."""

    source: Literal["host"] = "host"
    suffix: Annotated[str, StringConstraints(pattern=r"^\.[a-z0-9._-]+$")]


class TenantFixed(_Model):
    """The route belongs to one tenant, whatever the request says (a white-label domain)."""

    source: Literal["fixed"] = "fixed"
    tenant: Value


TenantMatch = Annotated[TenantInPath | TenantInHost | TenantFixed, Field(discriminator="source")]


class RoutePolicy(_Model):
    """What must hold for a request on the routes that name this policy.

    Conditions are conjunctions of alternatives: of every inner tuple one element must hold. So a route's conditions
    are added to those it inherits by putting the tuples side by side, and nothing inherited is lost on the way.
    """

    mode: Mode = "required"
    accept: tuple[Method, ...] = ()
    """Credentials taken; empty: all that the document knows."""
    issuers: tuple[Name, ...] = ()
    """Issuers whose tokens are taken, by name in the document; empty: all."""
    roles: tuple[tuple[Value, ...], ...] = ()
    scopes: tuple[tuple[Value, ...], ...] = ()
    claims: tuple[tuple[ClaimCondition, ...], ...] = ()
    """Hold for tokens only; another credential has no claims and fails a condition on one."""
    tenants: tuple[TenantMatch, ...] = ()
    """Each must name the tenant of the verified identity."""
    ip_allow: tuple[tuple[Network, ...], ...] = ()
    ip_deny: tuple[Network, ...] = ()

    @property
    def has_ip_rules(self) -> bool:
        return bool(self.ip_allow or self.ip_deny)


# What services see ----------------------------------------------------------------------------------------------------


class FromField(_Model):
    field: IdentityField


class FromClaim(_Model):
    claim: ClaimName


class Proof(_Model):
    """A header that proves to services that a request came through the gateway: a short-lived JWT of the gateway's.

    It names the identity and the policy (`sub`, `tenant`, `policy`), `iss` is the gateway's name, `aud` is `services`.
    """

    header: HeaderName = "x-gateway-proof"
    algorithm: Literal["HS256", "ES256", "EdDSA"] = "HS256"
    key: Secret
    """The shared secret of at least 32 bytes, or a private key in PEM."""
    kid: Name | None = None
    lifetime_s: Annotated[int, Field(ge=5, le=300)] = 60


# Revocation -----------------------------------------------------------------------------------------------------------


class MemoryRevocations(_Model):
    """Revocations shared by the workers of one host, through the state directory where there is one."""

    store: Literal["memory"] = "memory"


class RedisRevocations(_Model):
    """Revocations shared by every replica."""

    store: Literal["redis"] = "redis"
    url: Secret
    prefix: Annotated[str, StringConstraints(pattern=r"^[\w:.{}-]{1,100}$")] = "causeway:revocations"
    on_store_error: Literal["keep", "deny"] = "keep"
    """When the store cannot be reached: go on with what is known, or refuse with 503."""


Revocations = Annotated[MemoryRevocations | RedisRevocations, Field(discriminator="store")]


class Policy(_Model):
    """The whole document."""

    gateway: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,100}$")] = "causeway"
    issuers: Mapping[Name, Issuer] = {}
    api_keys: ApiKeys | None = None
    basic: Basic | None = None
    certificates: tuple[CertificateClient, ...] = ()
    policies: Mapping[Name, RoutePolicy] = {}
    headers: Mapping[HeaderName, FromField | FromClaim] = {}
    """Injected headers. Never accepted from a client; see `reserved_headers`."""
    proof: Proof | None = None
    revocations: Revocations = MemoryRevocations()

    @model_validator(mode="after")
    def _references(self) -> Self:
        known = self.methods
        seen: dict[str, str] = {}
        for name, issuer in self.issuers.items():
            if issuer.issuer in seen:
                raise ValueError(f"issuers.{name}.issuer: {issuer.issuer!r} is also that of {seen[issuer.issuer]!r}")
            seen[issuer.issuer] = name
        for name, policy in self.policies.items():
            for issuer_name in policy.issuers:
                if issuer_name not in self.issuers:
                    raise ValueError(f"policies.{name}.issuers: unknown issuer {issuer_name!r}")
            for method in policy.accept:
                if method not in known:
                    raise ValueError(f"policies.{name}.accept: the document has no {method!r} credentials")
        if self.proof is not None and self.proof.header in self.headers:
            raise ValueError(f"proof.header: {self.proof.header!r} is also an injected header")
        return self

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of credentials the document knows."""
        found: list[Method] = []
        if self.issuers:
            found.append("jwt")
        if self.api_keys is not None:
            found.append("api_key")
        if self.basic is not None:
            found.append("basic")
        if self.certificates:
            found.append("client_certificate")
        return tuple(found)

    @classmethod
    def parse(cls, document: bytes | str) -> Self:
        """The document, or `pydantic.ValidationError`, whose errors name fields and never show values."""
        return cls.model_validate_json(document)

    def dump(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces. Equal documents have equal bytes. Holds the secrets in clear."""
        tree = self.model_dump(mode="json", context={"reveal": True})
        return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


RESERVED_HEADERS: tuple[str, ...] = (
    "remote-user",
    "x-admin-token",
    "x-authenticated-user",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-email",
    "x-forwarded-access-token",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-gateway-proof",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-remote-user",
    "x-rewrite-url",
    "x-role",
    "x-roles",
    "x-scope",
    "x-scopes",
    "x-tenant",
    "x-tenant-id",
    "x-user",
    "x-user-email",
    "x-user-id",
    "x-user-name",
    "x-user-role",
    "x-user-roles",
    "x-user-scopes",
    "x-user-tenant",
)
"""Names services commonly believe. No client may send them, on any route, whether or not we inject them."""

RESERVED_PREFIXES: tuple[str, ...] = (
    "x-internal-",
    "x-gateway-",
    "x-causeway-",
    "x-authz-",
    "x-auth-request-",
    "x-jwt-claim-",
    "x-claim-",
    "x-envoy-auth-",
)


def reserved_headers(policy: Policy) -> tuple[str, ...]:
    """Every exact name that must be removed from what clients send, in order, without duplicates."""
    names = set(RESERVED_HEADERS) | set(policy.headers)
    if policy.proof is not None:
        names.add(policy.proof.header)
    return tuple(sorted(names))


def injected_headers(policy: Policy) -> tuple[str, ...]:
    """Every name the service may set or remove on a request, beside `authorization`."""
    names = set(policy.headers)
    if policy.proof is not None:
        names.add(policy.proof.header)
    if policy.api_keys is not None:
        names.add(policy.api_keys.header)
    return tuple(sorted(names))


def allowed_headers(policy: Policy) -> tuple[str, ...]:
    """The request headers the service reads; Envoy sends it no others (a third of the bytes, half of the parsing)."""
    names = {REQUEST_ID_HEADER}
    if policy.issuers or policy.basic is not None:
        names.add("authorization")
    if policy.api_keys is not None:
        names.add(policy.api_keys.header)
    return tuple(sorted(names))
