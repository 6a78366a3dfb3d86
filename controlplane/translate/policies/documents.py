"""The documents of our two services as resources: `TypedExtensionConfig`s for services' eyes only."""

from __future__ import annotations

from controlplane.ir.gateway import Gateway
from controlplane.snapshot.resource import EXTENSION, Audience, Resource, field, whole
from controlplane.translate.policies import extauthz, ratelimit
from extauthz.policy import RESOURCE_NAME as EXTAUTHZ
from extauthz.policy import Policy
from ratelimit.policy import RESOURCE_NAME as RATELIMIT

# Field numbers of envoy.config.core.v3.TypedExtensionConfig.
_NAME, _TYPED_CONFIG = 1, 2


def policy_documents(gateway: Gateway) -> tuple[Resource, ...]:
    """What extauthz and ratelimit obey."""
    # Equal ones are one object mostly: looking at the few that are left is cheap.
    authorizations = {id(route.authorization): route.authorization for route in gateway.routes}.values()
    identity = authorization_document(extauthz.extauthz_policy(gateway.name, gateway.identity, authorizations))
    limits = ratelimit.packed(
        ratelimit.document(
            gateway.limits, domain=gateway.name, headers=gateway.rate_limit_headers, troubled=gateway.troubled
        )
    )
    return identity, _document(RATELIMIT, limits)


def authorization_document(policy: Policy) -> Resource:
    """What extauthz obeys, as a resource."""
    return _document(EXTAUTHZ, extauthz.packed(policy))


def _document(name: str, packed: bytes) -> Resource:
    body = field(_NAME, name.encode()) + field(_TYPED_CONFIG, packed)
    return whole(EXTENSION, name, body, audience=Audience.SERVICE)
