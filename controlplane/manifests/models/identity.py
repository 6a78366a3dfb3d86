"""What users write about identity: who may sign tokens, which keys and users exist, what services see, what routes ask.

How a route's `auth` is found. The gateway's defaults, the service and the route may each have one; each adds to what
stands above it:

- `mode`: the nearest one written counts. `public` and `optional` are themselves the words that weaken.
- conditions (`roles`, `scopes`, `claims`, `tenant`, `ip`): all of them hold together, inherited and own.
- `accept` and `issuers`: an own list narrows the inherited one. Naming what the inherited list does not have is a
  problem, because it would let more in without saying so.
- `without` names what is not inherited. It is the only way to drop a condition or to widen a list.
- `auth: public` drops what needs an identity (it is the word for that) and keeps the rules on addresses.

`controlplane.resolve.identity` computes it. This module only says what may be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from controlplane.manifests.models.base import Model, did_you_mean, refuse
from controlplane.manifests.models.scalars import Duration, at_most, shown
from controlplane.manifests.models.text import Cidr, FilePath, HeaderName, Name
from serving.secret import Secret

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip
Method = Literal["jwt", "api-key", "basic", "client-certificate"]
Inherited = Literal["accept", "issuers", "roles", "scopes", "claims", "tenant", "ip"]
MODES = ("required", "optional", "public")
_LONGEST_URL = 2000


def _word(text: object) -> object:
    """A role, scope or other value that may become part of a header."""
    if not isinstance(text, str):
        raise refuse(f"expected text, found {shown(text)}", code="text")
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]{1,256}", text):
        raise refuse(f"{shown(text)} has a space, a comma or a character outside ASCII", code="word")
    return text


def _jwks(text: object) -> object:
    if not isinstance(text, str) or not text:
        raise refuse(f"expected a URL or a file, found {shown(text)}", code="jwks")
    if "://" in text and not re.fullmatch(r"https?://[^\s/]+\S*", text):
        raise refuse(f"keys are fetched over http or https, found {shown(text)}", code="jwks")
    if len(text) > _LONGEST_URL:
        raise refuse(f"a URL of keys has at most {_LONGEST_URL} characters, found {len(text)}", code="jwks")
    return text


def _injected(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise refuse(
            f"{shown(name)} cannot be a header of the gateway's own: letters, digits and dashes, at most 64",
            hint='write for example "x-user-id"',
            code="header",
        )
    return name


def _key_id(text: object) -> object:
    if not isinstance(text, str) or not re.fullmatch(r"[a-z0-9]{8,32}", text):
        raise refuse(
            f"{shown(text)} is not the id of an API key: 8 to 32 small letters and digits",
            hint="`causeway keys new` makes one",
            code="key-id",
        )
    return text


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Word = Annotated[str, BeforeValidator(_word), WithJsonSchema({"type": "string", "pattern": r"^[!-+\--~]{1,256}$"})]
Words = Annotated[
    tuple[Word, ...],
    Field(min_length=1),
    BeforeValidator(_one_or_many, json_schema_input_type=Word | tuple[Word, ...]),
]
Claim = Annotated[str, Field(min_length=1, max_length=200)]
OwnHeader = Annotated[HeaderName, AfterValidator(_injected)]
KeyId = Annotated[str, BeforeValidator(_key_id), WithJsonSchema({"type": "string", "pattern": r"^[a-z0-9]{8,32}$"})]
_SHORTEST_SECRET = 32  # bytes, of a proof's


class ClaimNames(Model):
    """Which claim holds what. A claim inside another is written with dots: `realm_access.roles`."""

    user: Claim = "sub"
    """The user."""
    tenant: Claim = "tenant_id"
    """The tenant."""
    roles: Claim = "roles"
    """The roles: a list, or text with spaces or commas between them."""
    scopes: Claim = "scope"
    """The scopes: text with spaces between them (RFC 8693), or a list."""
    tier: Claim = "tier"
    """The tier, for limits that depend on it."""


class Issuer(Model):
    """Who signs tokens. Exactly one of `jwks`, `public_key` and `secret` says with which keys."""

    issuer: Annotated[str, Field(min_length=1, max_length=200)]
    """The exact `iss` of its tokens."""
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(min_length=1)]
    """A token must be meant for one of these (`aud`)."""
    algorithms: tuple[Algorithm, ...] = ()
    """What its keys may be used with. Left out: what each key says; RS256 for an RSA key that says nothing; HS256 for
    a secret."""
    jwks: Annotated[str, BeforeValidator(_jwks)] | None = None
    """Where its keys are: a URL, fetched and refreshed in the background, or a file."""
    public_key: FilePath | None = None
    """A file with its public key, PEM."""
    secret: Secret | None = None
    """The secret it shares with the gateway, at least as long as the hash: 32 bytes for HS256."""
    refresh: Annotated[Duration, at_most(Duration.parse("1d"))] = Duration(300_000)
    """How often keys are fetched from a URL; at most 1d."""
    max_stale: Annotated[Duration, at_most(Duration.parse("7d"))] = Duration(86_400_000)
    """How long keys count after the last successful fetch; at most 7d."""
    max_lifetime: Duration = Duration(86_400_000)
    """The longest a token may live, from `iat` to `exp`."""
    leeway: Duration | None = None
    """How far clocks may differ, at most 60s. 30s when left out."""
    types: tuple[str, ...] = ("at+jwt", "JWT")
    """Accepted `typ` headers. `none` accepts tokens without one."""
    kinds: tuple[str, ...] = ("access", "access_token", "at+jwt", "bearer")
    """Accepted values of the claims `token_use`, `token_type`, `type` and `typ`, where a token has them: this is how a
    refresh token signed with the same key is kept out."""
    claims: ClaimNames | None = None
    """This issuer's claim names, where they differ from `identity.claims`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [n for n, v in (("jwks", self.jwks), ("public_key", self.public_key), ("secret", self.secret)) if v]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise refuse(f"an issuer has one of jwks, public_key and secret, found {found}", code="issuer")
        if self.leeway is not None and self.leeway > 60_000:
            raise refuse(f"a leeway is at most 60s, found {self.leeway}", code="issuer")
        return self


class ApiKey(Model):
    """An API key at rest. `causeway keys new` makes the key, shows it once, and writes this."""

    client: Word
    """Whose key it is. A client may have two live keys, so that one can replace the other."""
    hash: Annotated[str, Field(pattern=r"^hmac-sha256:[0-9a-f]{64}$")]
    """HMAC-SHA-256 of the key under the pepper."""
    tenant: Word | None = None
    """The tenant it acts for."""
    tier: Word | None = None
    """Its tier."""
    roles: tuple[Word, ...] = ()
    """Its roles."""
    scopes: tuple[Word, ...] = ()
    """Its scopes."""
    expires: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}Z)?$")] | None = None
    """When it ends, in UTC: `2027-01-31` or `2027-01-31T12:00:00Z`. In quotes."""
    disabled: bool = False
    """Refused from now on; kept, so that its id is not given out again."""


class ApiKeySettings(Model):
    """How API keys are taken. The keys themselves stand under `api_keys`, in any file."""

    header: OwnHeader = "x-api-key"
    """The header that carries the key."""
    pepper: Secret
    """A secret, kept apart from the manifests, under which keys are hashed."""
    previous_pepper: Secret | None = None
    """The pepper before this one, while it is being replaced."""


class BasicUser(Model):
    """A user of HTTP Basic authentication. `causeway keys hash-password` makes the hash."""

    hash: Annotated[str, Field(pattern=r"^scrypt\$\d{2}\$\d{1,2}\$\d{1,2}\$[\w-]{16,}\$[\w-]{32,}$")]
    """scrypt, with its parameters and salt."""
    tenant: Word | None = None
    """The user's tenant."""
    tier: Word | None = None
    """The user's tier."""
    roles: tuple[Word, ...] = ()
    """The user's roles."""
    scopes: tuple[Word, ...] = ()
    """The user's scopes."""


class Basic(Model):
    """HTTP Basic authentication."""

    realm: Annotated[str, Field(pattern=r"^[ !#-\[\]-~]{1,100}$")] = "gateway"
    """Shown by browsers."""
    users: Mapping[Annotated[str, Field(pattern=r"^[!-+\--9;-~]{1,200}$")], BasicUser]
    """Users by name, which has no space, colon or comma."""


class CertificateClient(Model):
    """A client known by its verified certificate."""

    principal: Annotated[str, Field(min_length=1, max_length=200)]
    """The certificate's URI or DNS name (SAN), else its subject."""
    client: Word
    """Who that is."""
    tenant: Word | None = None
    """Its tenant."""
    tier: Word | None = None
    """Its tier."""
    roles: tuple[Word, ...] = ()
    """Its roles."""
    scopes: tuple[Word, ...] = ()
    """Its scopes."""


class Proof(Model):
    """A header that proves to services that a request came through the gateway: a short-lived JWT."""

    header: OwnHeader = "x-gateway-proof"
    """Its name."""
    secret: Secret | None = None
    """Shared with the services; at least 32 bytes (HS256)."""
    private_key: FilePath | None = None
    """Or a file with a private key, PEM, of type P-256 (ES256) or Ed25519 (EdDSA)."""
    kid: Name | None = None
    """The key's id, for services that know several."""
    lifetime: Duration = Duration(60_000)
    """How long one counts; 5s to 5m."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.secret is None) == (self.private_key is None):
            raise refuse("a proof has one of secret and private_key", code="proof")
        if self.secret is not None and len(self.secret.reveal().encode()) < _SHORTEST_SECRET:
            raise refuse(f"the secret of a proof has at least {_SHORTEST_SECRET} bytes", code="proof")
        if not 5_000 <= self.lifetime <= 300_000:
            raise refuse(f"a proof lives 5s to 5m, found {self.lifetime}", code="proof")
        return self


def _redis(url: Secret) -> Secret:
    try:
        parts = urlsplit(url.reveal())
        is_one = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise refuse("not the URL of a Redis", hint="write redis://host:6379, rediss:// or unix:///path", code="redis")
    return url


class Revocation(Model):
    """Where revocations are kept."""

    redis: Annotated[Secret, AfterValidator(_redis)] | None = None
    """A Redis URL, to share them between replicas. Left out: in memory and in the state folder of one host."""
    on_store_error: Literal["keep", "deny"] = "keep"
    """When Redis cannot be reached: go on with the revocations known so far, or refuse with 503."""


class Identity(Model):
    """Who may call, how they prove it, and what services see of them."""

    issuers: Mapping[Name, Issuer] = {}
    """Who signs tokens, by a name of your choice."""
    claims: ClaimNames = ClaimNames()
    """Which claim holds what, for every issuer that does not say otherwise."""
    api_keys: ApiKeySettings | None = None
    """API keys."""
    basic: Basic | None = None
    """HTTP Basic authentication."""
    certificates: tuple[CertificateClient, ...] = ()
    """Clients known by their certificates."""
    headers: Mapping[OwnHeader, Claim] = {}
    """Injected headers and the claims they carry. Nobody outside can send them, on any route. A claim that `claims`
    names works for API keys and the others too; any other claim is there for tokens only."""
    proof: Proof | None = None
    """A header that proves that a request came through the gateway."""
    revocation: Revocation = Revocation()
    """Where revocations are kept."""
    timeout: Duration = Duration(500)
    """How long a request waits for the authorization service, before `on_failure` decides."""

    @model_validator(mode="after")
    def _issuers_differ(self) -> Self:
        seen: dict[str, str] = {}
        for name, one in self.issuers.items():
            if (other := seen.setdefault(one.issuer, name)) != name:
                raise refuse(
                    f'"{other}" and "{name}" are the same `issuer`, by which tokens tell whose they are',
                    hint="keep one of them",
                    code="issuer",
                )
        return self


class Requirement(Model):
    """Some of these, or all of them, or both."""

    any: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    """One of these is enough."""
    all: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    """Every one of these."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.any is None and self.all is None:
            raise refuse("expected any or all", hint="write {any: [...]} or {all: [...]}", code="requirement")
        return self


class ClaimCondition(Model):
    """A claim that must be one of some values, or a list with one of them in it."""

    claim: Claim
    """The claim; one inside another is written with dots."""
    one_of: Annotated[tuple[str | int | bool, ...], Field(min_length=1)]
    """The values."""


class ClaimRequirement(Model):
    """Some of these conditions, or all of them, or both."""

    any: Annotated[tuple[ClaimCondition, ...], Field(min_length=1)] | None = None
    """One of these is enough."""
    all: Annotated[tuple[ClaimCondition, ...], Field(min_length=1)] | None = None
    """Every one of these."""


class IpRules(Model):
    """Client addresses that may or may not call."""

    allow: Annotated[tuple[Cidr, ...], Field(min_length=1)] | None = None
    """Only these."""
    deny: tuple[Cidr, ...] = ()
    """None of these, even where `allow` has them."""


def _any_of(value: object) -> object:
    """`admin` and `[admin, auditor]` are short for `{any: [...]}`."""
    if isinstance(value, str):
        return {"any": [value]}
    return {"any": value} if isinstance(value, (list, tuple)) else value


def _all_of(value: object) -> object:
    """A plain list of conditions is short for `{all: [...]}`."""
    return {"all": value} if isinstance(value, (list, tuple)) else value


def _tenant(value: object) -> object:
    if isinstance(value, str) and (re.fullmatch(r":[A-Za-z_]\w*", value) or value == "host"):
        return value
    if isinstance(value, str) and (found := re.fullmatch(r"is ([\x21-\x2b\x2d-\x7e]{1,256})", value)):
        return f"is {found[1]}"
    raise refuse(
        f"expected where the tenant is named, found {shown(value)}",
        hint="write :parameter of the path, host, or is <tenant>",
        code="tenant",
    )


class Auth(Model):
    """What a route asks of its callers, added to what it inherits."""

    mode: Literal["required", "optional", "public"] | None = None
    """`required`: nobody without a valid credential. `optional`: a credential is checked where there is one.
    `public`: no credential is looked at."""
    accept: (
        Annotated[
            tuple[Method, ...],
            Field(min_length=1),
            BeforeValidator(_one_or_many, json_schema_input_type=Method | tuple[Method, ...]),
        ]
        | None
    ) = None
    """Kinds of credentials; any of them will do. All that `identity` configures when left out."""
    issuers: (
        Annotated[
            tuple[Name, ...],
            Field(min_length=1),
            BeforeValidator(_one_or_many, json_schema_input_type=Name | tuple[Name, ...]),
        ]
        | None
    ) = None
    """Issuers whose tokens are taken. All when left out."""
    roles: (
        Annotated[Requirement, BeforeValidator(_any_of, json_schema_input_type=Word | tuple[Word, ...] | Requirement)]
        | None
    ) = None
    """Roles: one of a list, or `{all: [...]}`."""
    scopes: (
        Annotated[Requirement, BeforeValidator(_any_of, json_schema_input_type=Word | tuple[Word, ...] | Requirement)]
        | None
    ) = None
    """Scopes: one of a list, or `{all: [...]}`."""
    claims: (
        Annotated[
            ClaimRequirement,
            BeforeValidator(_all_of, json_schema_input_type=tuple[ClaimCondition, ...] | ClaimRequirement),
        ]
        | None
    ) = None
    """Conditions on claims: all of a list, or `{any: [...]}`."""
    tenant: Annotated[str, BeforeValidator(_tenant)] | None = None
    """Where the request names a tenant, which must be the caller's: `:parameter` of the path, `host` (the part of the
    host that `*` stands for), or `is acme`."""
    ip: IpRules | None = None
    """Client addresses."""
    without: tuple[Inherited, ...] = ()
    """What is not inherited here."""
    on_failure: Literal["deny", "allow"] | None = None
    """When the authorization service does not answer: refuse with 503 (the default), or let the request through without
    an identity."""


def _auth(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in MODES:
        raise refuse(
            f"{shown(value)} is not a mode of authentication",
            hint=did_you_mean(value, MODES) or "write public, optional, required, or a mapping",
            code="auth",
        )
    return {"mode": value}


AuthField = Annotated[
    Auth, BeforeValidator(_auth, json_schema_input_type=Literal["required", "optional", "public"] | Auth)
]
"""What stands behind `auth:`: one word, or a mapping."""
