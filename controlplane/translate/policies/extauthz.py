"""ir → the authorization service's document.

Routes that ask the same of their callers share a policy: `policies(...)` names each distinct `Authorization` after its
content, so that an edit elsewhere renames nothing and two equal routes cost one entry. The name goes to the service in
the route's context_extensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue

from controlplane.ir import identity as ir
from extauthz import policy as document
from serving.secret import Secret


@cache
def policy_name(authorization: ir.Authorization) -> str:
    """The name of the policy of routes with this authorization: its mode, and a hash where there is more to it.

    What only Envoy acts on (`failure_open`) is not part of the policy and not part of the name.
    """
    policy = route_policy(authorization)
    if policy == document.RoutePolicy(mode=authorization.mode):
        return authorization.mode
    digest = blake2b(policy.model_dump_json().encode(), digest_size=5).hexdigest()
    return f"{authorization.mode}-{digest}"


@cache
def route_policy(authorization: ir.Authorization) -> document.RoutePolicy:
    """The document's form of one route's authorization."""
    return document.RoutePolicy(
        mode=authorization.mode,
        accept=authorization.accept,
        issuers=authorization.issuers,
        roles=authorization.roles,
        scopes=authorization.scopes,
        claims=tuple(
            tuple(document.ClaimCondition(claim=one.claim, one_of=one.one_of) for one in group)
            for group in authorization.claims
        ),
        tenants=tuple(map(_tenant, authorization.tenants)),
        ip_allow=authorization.ip_allow,
        ip_deny=authorization.ip_deny,
    )


def extauthz_policy(gateway: str, identity: ir.Identity, authorizations: Iterable[ir.Authorization]) -> document.Policy:
    """The whole document: the identity, and one policy for each distinct authorization."""
    return document.Policy(
        gateway=gateway,
        issuers={one.name: _issuer(one) for one in identity.issuers},
        api_keys=_api_keys(identity.api_keys),
        basic=_basic(identity.basic),
        certificates=tuple(
            document.CertificateClient(principal=one.principal, **_client(one.client).model_dump())
            for one in identity.certificates
        ),
        policies={policy_name(one): route_policy(one) for one in set(authorizations)},
        headers={name: _header_source(claim, identity.claims) for name, claim in identity.headers},
        proof=_proof(identity.proof),
        revocations=_revocations(identity),
    )


def packed(policy: document.Policy) -> bytes:
    """The document as the bytes of the `google.protobuf.Any` that a TypedExtensionConfig holds."""
    any_message = AnyMessage()
    any_message.Pack(StringValue(value=policy.dump().decode()))
    packed: bytes = any_message.SerializeToString(deterministic=True)
    return packed


def _header_source(claim: str, names: ir.ClaimNames) -> document.FromField | document.FromClaim:
    """A claim that holds a part of the identity stands for that part, so that it works for every credential."""
    fields: dict[str, document.IdentityField] = {
        names.user: "user",
        names.tenant: "tenant",
        names.roles: "roles",
        names.scopes: "scopes",
        names.tier: "tier",
    }
    known = fields.get(claim)
    return document.FromField(field=known) if known is not None else document.FromClaim(claim=claim)


def _tenant(match: ir.TenantMatch) -> document.TenantMatch:
    match match:
        case ir.TenantInPath(segment):
            return document.TenantInPath(segment=segment)
        case ir.TenantInHost(suffix):
            return document.TenantInHost(suffix=suffix)
        case ir.TenantFixed(tenant):
            return document.TenantFixed(tenant=tenant)


def _issuer(issuer: ir.Issuer) -> document.Issuer:
    return document.Issuer(
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        keys=_keys(issuer.keys),
        algorithms=issuer.algorithms,
        types=issuer.types,
        kinds=issuer.kinds,
        max_lifetime_s=max(1, issuer.max_lifetime_ms // 1000),
        leeway_s=issuer.leeway_ms // 1000,
        claims=document.ClaimNames(
            user=issuer.claims.user,
            tenant=issuer.claims.tenant,
            roles=issuer.claims.roles,
            scopes=issuer.claims.scopes,
            tier=issuer.claims.tier,
        ),
    )


def _keys(keys: ir.SharedSecret | ir.PublicKey | ir.InlineKeys | ir.RemoteKeys) -> document.KeySource:
    match keys:
        case ir.SharedSecret(secret):
            return document.SharedSecret(secret=Secret(secret))
        case ir.PublicKey(pem):
            return document.PublicKey(pem=pem)
        case ir.InlineKeys(jwks):
            return document.InlineKeys(jwks=Secret(jwks))
        case ir.RemoteKeys():
            return document.RemoteKeys(
                url=keys.url,
                refresh_s=max(1, keys.refresh_ms // 1000),
                max_stale_s=max(1, keys.max_stale_ms // 1000),
            )


def _client(client: ir.Client) -> document.Client:
    return document.Client(
        client=client.client, tenant=client.tenant, tier=client.tier, roles=client.roles, scopes=client.scopes
    )


def _api_keys(keys: ir.ApiKeys | None) -> document.ApiKeys | None:
    if keys is None:
        return None
    return document.ApiKeys(
        header=keys.header,
        peppers=tuple(map(Secret, keys.peppers)),
        keys={
            key.id: document.ApiKey(
                digest=key.digest,
                expires_at=key.expires_s,
                disabled=key.disabled,
                **_client(key.client).model_dump(),
            )
            for key in keys.keys
        },
    )


def _basic(basic: ir.Basic | None) -> document.Basic | None:
    if basic is None:
        return None
    return document.Basic(
        realm=basic.realm,
        users={
            user.name: document.BasicUser(hash=user.hash, **_client(user.client).model_dump()) for user in basic.users
        },
    )


def _proof(proof: ir.Proof | None) -> document.Proof | None:
    if proof is None:
        return None
    return document.Proof(
        header=proof.header,
        algorithm=proof.algorithm,
        key=Secret(proof.key),
        kid=proof.kid,
        lifetime_s=proof.lifetime_ms // 1000,
    )


def _revocations(identity: ir.Identity) -> document.Revocations:
    if identity.revocation_redis is None:
        return document.MemoryRevocations()
    return document.RedisRevocations(
        url=Secret(identity.revocation_redis), on_store_error="deny" if identity.deny_on_revocation_error else "keep"
    )
