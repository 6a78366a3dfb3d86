"""Identity as users write it → identity as values; and a route's `auth` from what it inherits and what it says.

The rule for a route is in `controlplane.manifests.models.identity`: own conditions are added to inherited ones, lists
are narrowed, and whatever would let more in needs `without` or the word `public` or `optional`. What breaks the rule
comes back as text, for the caller to put a place to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NewType, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from controlplane.ir import identity as ir
from controlplane.manifests.models import identity as written
from controlplane.manifests.models.base import did_you_mean
from extauthz.core.jwk import KeyRefused, load_key_set, pem_key, secret_key
from serving.secret import Secret

ReadFile = Callable[[str], str]
"""The text of a file named in a manifest. Raises OSError."""

Problem = NewType("Problem", str)
_T = TypeVar("_T")
_MOST_KEYS = 2
_KINDS: dict[written.Method, ir.CredentialKind] = {
    "jwt": "jwt",
    "api-key": "api_key",
    "basic": "basic",
    "client-certificate": "client_certificate",
}


def identity(model: written.Identity, api_keys: Mapping[str, written.ApiKey], read: ReadFile) -> ir.Identity:
    """The gateway's identity. Raises OSError for a file that cannot be read, ValueError for an impossible date or for a
    key that must not be used."""
    issuers = tuple(_issuer(name, one, model.claims, read) for name, one in sorted(model.issuers.items()))
    for issuer in issuers:
        _check_keys(issuer)
    return ir.Identity(
        issuers=issuers,
        claims=_claim_names(model.claims),
        api_keys=_api_keys(model.api_keys, api_keys),
        basic=_basic(model.basic),
        certificates=tuple(
            ir.CertificateClient(principal=one.principal, client=_client(one.client, one)) for one in model.certificates
        ),
        headers=tuple(sorted(model.headers.items())),
        proof=_proof(model.proof, read),
        revocation_redis=_revealed(model.revocation.redis),
        deny_on_revocation_error=model.revocation.on_store_error == "deny",
        timeout_ms=model.timeout.ms,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMeaning:
    """What of a route's match its `auth` may refer to."""

    path: str
    """The pattern, as written."""
    host: str | None = None
    """The host pattern, where the route has one."""


def authorization(
    levels: tuple[written.Auth, ...], route: RouteMeaning, identity: ir.Identity
) -> tuple[ir.Authorization, tuple[Problem, ...]]:
    """What a route asks, and what is wrong with how it says so.

    `levels` are the `auth` of the gateway's defaults, of the service and of the route, in this order, those that exist.
    With none of them the answer is "required", by every credential the gateway knows.
    """
    problems: list[Problem] = []
    result = ir.Authorization()
    for level in levels:
        result = _added(result, level, route, identity, problems)
    problems += _unknown(result, identity)
    if result.mode == "public":
        result = _public(result, identity)
    return result, tuple(problems)


def _public(result: ir.Authorization, identity: ir.Identity) -> ir.Authorization:
    """What is left of conditions where nobody is asked who they are: the rules on addresses. Without any, the service
    is asked for the proof alone, and a request goes through without one when it does not answer."""
    has_rules = bool(result.ip_allow or result.ip_deny)
    return ir.Authorization(
        mode="public",
        ip_allow=result.ip_allow,
        ip_deny=result.ip_deny,
        failure_open=result.failure_open or not has_rules,
        asks=has_rules or identity.proof is not None,
    )


def _added(
    above: ir.Authorization,
    own: written.Auth,
    route: RouteMeaning,
    identity: ir.Identity,
    problems: list[Problem],
) -> ir.Authorization:
    above = _without(above, own.without)
    accept, issuers = above.accept, above.issuers
    if own.accept is not None:
        accept = tuple(_KINDS[one] for one in own.accept)
        if extra := [one for one in own.accept if above.accept and _KINDS[one] not in above.accept]:
            problems.append(_widens("accept", extra))
    if own.issuers is not None:
        issuers = own.issuers
        if wider := [one for one in own.issuers if above.issuers and one not in above.issuers]:
            problems.append(_widens("issuers", wider))
    tenants = above.tenants
    if own.tenant is not None:
        found = _tenant(own.tenant, route)
        if isinstance(found, str):
            problems.append(Problem(found))
        else:
            tenants = _joined(above.tenants, (found,))
    ip = own.ip or written.IpRules()
    return ir.Authorization(
        mode=own.mode or above.mode,
        accept=accept,
        issuers=issuers,
        roles=_joined(above.roles, _groups(own.roles)),
        scopes=_joined(above.scopes, _groups(own.scopes)),
        claims=_joined(above.claims, _claim_groups(own.claims)),
        tenants=tenants,
        ip_allow=_joined(above.ip_allow, (ip.allow,) if ip.allow else ()),
        ip_deny=_joined(above.ip_deny, ip.deny),
        failure_open=above.failure_open if own.on_failure is None else own.on_failure == "allow",
    )


def _without(above: ir.Authorization, dropped: tuple[written.Inherited, ...]) -> ir.Authorization:
    for one in dropped:
        match one:
            case "accept":
                above = replace(above, accept=())
            case "issuers":
                above = replace(above, issuers=())
            case "roles":
                above = replace(above, roles=())
            case "scopes":
                above = replace(above, scopes=())
            case "claims":
                above = replace(above, claims=())
            case "tenant":
                above = replace(above, tenants=())
            case "ip":
                above = replace(above, ip_allow=(), ip_deny=())
    return above


def _widens(what: Literal["accept", "issuers"], extra: Sequence[str]) -> Problem:
    return Problem(
        f"auth.{what}: {', '.join(map(repr, extra))} is not in the inherited list; "
        f"write `without: [{what}]` if more should be let in here"
    )


def _unknown(result: ir.Authorization, identity: ir.Identity) -> list[Problem]:
    if result.mode == "public":
        return []
    known = tuple(one.name for one in identity.issuers)
    problems = [
        Problem(f"auth.issuers: unknown issuer {name!r}{_hint(name, known)}")
        for name in result.issuers
        if name not in known
    ]
    configured = kinds(identity)
    problems += [
        Problem(f"auth.accept: identity configures no {kind.replace('_', '-')} credentials")
        for kind in result.accept
        if kind not in configured
    ]
    if result.mode == "required" and not configured:
        problems.append(
            Problem("auth: nobody could pass, because identity configures no credentials; write `auth: public`?")
        )
    return problems


def kinds(identity: ir.Identity) -> tuple[ir.CredentialKind, ...]:
    """The kinds of credentials that are configured."""
    found: list[ir.CredentialKind] = []
    if identity.issuers:
        found.append("jwt")
    if identity.api_keys is not None:
        found.append("api_key")
    if identity.basic is not None:
        found.append("basic")
    if identity.certificates:
        found.append("client_certificate")
    return tuple(found)


def _hint(name: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(name, known)
    return f" ({hint})" if hint else ""


def _tenant(text: str, route: RouteMeaning) -> ir.TenantMatch | str:
    if text.startswith("is "):
        return ir.TenantFixed(text.removeprefix("is "))
    if text == "host":
        if route.host is None or not route.host.startswith("*."):
            return "auth.tenant: `host` needs a route with a host such as *.example.com"
        return ir.TenantInHost(route.host[1:])
    segments = route.path.strip("/").split("/")
    for number, segment in enumerate(segments):
        if segment in (text, "{" + text[1:] + "}"):
            return ir.TenantInPath(number)
    named = [":" + one.strip(":{}") for one in segments if re.match(r"[:{]", one)]
    return f"auth.tenant: the path {route.path!r} has no parameter {text!r}{_hint(text, tuple(named))}"


def _joined(above: tuple[_T, ...], own: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys((*above, *own)))


def _groups(requirement: written.Requirement | None) -> tuple[tuple[str, ...], ...]:
    if requirement is None:
        return ()
    some = (requirement.any,) if requirement.any else ()
    return (*some, *((one,) for one in requirement.all or ()))


def _claim_groups(requirement: written.ClaimRequirement | None) -> tuple[tuple[ir.ClaimCondition, ...], ...]:
    if requirement is None:
        return ()

    def condition(one: written.ClaimCondition) -> ir.ClaimCondition:
        return ir.ClaimCondition(one.claim, one.one_of)

    some = (tuple(map(condition, requirement.any)),) if requirement.any else ()
    return (*some, *((condition(one),) for one in requirement.all or ()))


def _claim_names(names: written.ClaimNames) -> ir.ClaimNames:
    return ir.ClaimNames(user=names.user, tenant=names.tenant, roles=names.roles, scopes=names.scopes, tier=names.tier)


def _issuer(name: str, issuer: written.Issuer, claims: written.ClaimNames, read: ReadFile) -> ir.Issuer:
    return ir.Issuer(
        name=name,
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        algorithms=issuer.algorithms,
        keys=_keys(issuer, read),
        types=tuple("" if one == "none" else one.lower().removeprefix("application/") for one in issuer.types),
        kinds=issuer.kinds,
        max_lifetime_ms=issuer.max_lifetime.ms,
        leeway_ms=30_000 if issuer.leeway is None else issuer.leeway.ms,
        claims=_claim_names(issuer.claims or claims),
    )


def _keys(issuer: written.Issuer, read: ReadFile) -> ir.SharedSecret | ir.PublicKey | ir.InlineKeys | ir.RemoteKeys:
    if issuer.secret is not None:
        return ir.SharedSecret(issuer.secret.reveal())
    if issuer.public_key is not None:
        return ir.PublicKey(read(issuer.public_key))
    where = issuer.jwks or ""
    if "://" in where:
        return ir.RemoteKeys(url=where, refresh_ms=issuer.refresh.ms, max_stale_ms=issuer.max_stale.ms)
    return ir.InlineKeys(read(where))


def _check_keys(issuer: ir.Issuer) -> None:
    """Judges keys as the service will, so that a bad one is a problem of the edit and not a rejected document."""
    try:
        match issuer.keys:
            case ir.SharedSecret(secret):
                secret_key(secret, algorithms=issuer.algorithms)
            case ir.PublicKey(pem):
                pem_key(pem, algorithms=issuer.algorithms)
            case ir.InlineKeys(jwks):
                load_key_set(jwks, algorithms=issuer.algorithms)
            case ir.RemoteKeys():
                pass
    except KeyRefused as refused:
        raise ValueError(f'issuer "{issuer.name}": {refused}') from refused


def _client(client: str, one: written.ApiKey | written.BasicUser | written.CertificateClient) -> ir.Client:
    return ir.Client(client=client, tenant=one.tenant, tier=one.tier, roles=one.roles, scopes=one.scopes)


def _api_keys(settings: written.ApiKeySettings | None, keys: Mapping[str, written.ApiKey]) -> ir.ApiKeys | None:
    if settings is None:
        return None
    standing = Counter(key.client for key in keys.values() if not key.disabled)
    for client, count in standing.items():
        if count > _MOST_KEYS:
            raise ValueError(f'client "{client}" has {count} API keys; two are enough to replace one: disable the old')
    peppers = (settings.pepper.reveal(), *((settings.previous_pepper.reveal(),) if settings.previous_pepper else ()))
    return ir.ApiKeys(
        header=settings.header,
        peppers=peppers,
        keys=tuple(
            ir.ApiKey(
                id=key_id,
                digest=key.hash.removeprefix("hmac-sha256:"),
                client=_client(key.client, key),
                expires_s=_epoch(key.expires) if key.expires else None,
                disabled=key.disabled,
            )
            for key_id, key in sorted(keys.items())
        ),
    )


def _epoch(text: str) -> int:
    return int(datetime.fromisoformat(text if "T" in text else f"{text}T00:00:00Z").timestamp())


def _basic(basic: written.Basic | None) -> ir.Basic | None:
    if basic is None:
        return None
    return ir.Basic(
        realm=basic.realm,
        users=tuple(
            ir.BasicUser(name=name, hash=user.hash, client=_client(name, user))
            for name, user in sorted(basic.users.items())
        ),
    )


def _proof(proof: written.Proof | None, read: ReadFile) -> ir.Proof | None:
    if proof is None:
        return None
    key = proof.secret.reveal() if proof.secret is not None else read(proof.private_key or "")
    algorithm: Literal["HS256", "ES256", "EdDSA"] = "HS256"
    if proof.secret is None:
        algorithm = _algorithm_of(key)
    return ir.Proof(header=proof.header, algorithm=algorithm, key=key, kid=proof.kid, lifetime_ms=proof.lifetime.ms)


def _algorithm_of(pem: str) -> Literal["ES256", "EdDSA"]:
    """Raises ValueError for a key that signs no proof."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the private key of the proof cannot be read: write PEM, not encrypted") from None
    match key:
        case ed25519.Ed25519PrivateKey():
            return "EdDSA"
        case ec.EllipticCurvePrivateKey() if key.curve.name == "secp256r1":
            return "ES256"
        case _:
            raise ValueError("the private key of the proof is neither of P-256 nor of Ed25519")


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()
