"""The authorization service's document while some Envoys have new routes and the others the old ones.

A route names its policy by the policy's content, so both kinds of routes are served when the document has the policies
of both. What is said once for all, issuers and keys, is as the new manifests say it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from envoy.config.core.v3 import extension_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import ValidationError

from controlplane.snapshot.resource import Resource
from controlplane.translate.policies.documents import authorization_document
from extauthz.policy import Policy, RoutePolicy


def with_departing(before: Resource | None, after: Resource) -> Resource:
    """`after`, which knows the policies of `before` as well, as far as they still make sense."""
    if before is None or before.version == after.version:
        return after
    return with_policies(after, policies_of(before))


def with_policies(document: Resource, more: Mapping[str, RoutePolicy]) -> Resource:
    """The document, which knows these policies as well, as far as they still make sense. Its own win."""
    new = _policy(document)
    policies = {**more, **new.policies}
    if policies == new.policies:
        return document
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


def policies_of(document: Resource) -> Mapping[str, RoutePolicy]:
    """The policies that a document knows, by name. What else it says, keys by the thousand, is not looked at."""
    policies = json.loads(_text(document))["policies"]
    return {name: RoutePolicy.model_validate_json(json.dumps(one)) for name, one in policies.items()}


def _policy(document: Resource) -> Policy:
    return Policy.parse(_text(document))


def _text(document: Resource) -> str:
    config = extension_pb2.TypedExtensionConfig.FromString(document.body).typed_config
    text = StringValue()
    AnyMessage.FromString(config.SerializeToString()).Unpack(text)
    value: str = text.value
    return value
