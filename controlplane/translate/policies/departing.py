"""The authorization service's document while some Envoys have new routes and the others the old ones.

A route names its policy by the policy's content, so both kinds of routes are served when the document has the policies
of both. What is said once for all, issuers and keys, is as the new manifests say it.
"""

from __future__ import annotations

from envoy.config.core.v3 import extension_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import ValidationError

from controlplane.snapshot.resource import Resource
from controlplane.translate.policies.documents import authorization_document
from extauthz.policy import Policy


def with_departing(before: Resource | None, after: Resource) -> Resource:
    """`after`, which knows the policies of `before` as well, as far as they still make sense."""
    if before is None or before.version == after.version:
        return after
    old, new = _policy(before), _policy(after)
    policies = {**old.policies, **new.policies}
    if policies == new.policies:
        return after
    try:
        both = Policy.model_validate({**dict(new), "policies": policies})
    except ValidationError:
        policies = {
            name: one
            for name, one in policies.items()
            if name in new.policies or ({*one.issuers} <= new.issuers.keys() and {*one.accept} <= {*new.methods})
        }
        both = Policy.model_validate({**dict(new), "policies": policies})
    return authorization_document(both)


def _policy(document: Resource) -> Policy:
    config = extension_pb2.TypedExtensionConfig.FromString(document.body).typed_config
    text = StringValue()
    AnyMessage.FromString(config.SerializeToString()).Unpack(text)
    return Policy.parse(text.value)
