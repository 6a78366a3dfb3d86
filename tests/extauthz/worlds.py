"""A policy document, an authorizer for it, and requests: right by default, wrong where a test says so."""

from __future__ import annotations

import json
from typing import Any

import jwt
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from extauthz.core.api_keys import NewKey, new_key
from extauthz.core.basic import hash_password
from extauthz.core.decide import Authorizer, Decision
from extauthz.core.request import Request
from extauthz.core.revocations import Revocations
from extauthz.jwks import static_key_sets
from extauthz.policy import (
    ApiKey,
    ApiKeys,
    Basic,
    BasicUser,
    FromClaim,
    FromField,
    Issuer,
    Policy,
    RoutePolicy,
    SharedSecret,
)
from serving.secret import Secret

NOW = 1_800_000_000
SECRET = "s" * 32
OTHER_SECRET = "o" * 32
PEPPER = "pepper"
KEY: NewKey = new_key(b"0123456789", b"k" * 32, PEPPER)
ENDED_KEY: NewKey = new_key(b"9876543210", b"e" * 32, PEPPER)


def document(**changes: Any) -> Policy:
    usual: dict[str, Any] = {
        "issuers": {
            "main": Issuer(issuer="https://main", audiences=("api",), keys=SharedSecret(secret=Secret(SECRET))),
            "other": Issuer(issuer="https://other", audiences=("api",), keys=SharedSecret(secret=Secret(OTHER_SECRET))),
        },
        "api_keys": ApiKeys(
            peppers=(Secret(PEPPER),),
            keys={
                KEY.id: ApiKey(client="robot", tenant="acme", tier="pro", roles=("reader",), digest=KEY.digest),
                ENDED_KEY.id: ApiKey(client="robot", digest=ENDED_KEY.digest, expires_at=NOW - 1),
            },
        ),
        "basic": Basic(users={"ann": BasicUser(client="ann", hash=hash_password("pw", b"s" * 16, log2_n=10))}),
        "policies": {"required": RoutePolicy(), "optional": RoutePolicy(mode="optional")},
        "headers": {
            "x-user-id": FromField(field="user"),
            "x-tenant-id": FromField(field="tenant"),
            "x-user-roles": FromField(field="roles"),
            "x-email": FromClaim(claim="email"),
        },
    }
    return Policy(**(usual | changes))


def with_policy(**policy: Any) -> Policy:
    """The document with one policy, `p`."""
    return document(policies={"p": RoutePolicy(**policy)})


def authorizer(policy: Policy | None = None, revocations: Revocations | None = None, **how: Any) -> Authorizer:
    policy = policy or document()
    found = revocations if revocations is not None else Revocations()
    return Authorizer(policy, static_key_sets(policy), found, secret=b"x" * 32, **how)


def token(secret: str = SECRET, **changes: Any) -> str:
    claims = {
        "iss": "https://main",
        "aud": "api",
        "sub": "u1",
        "tenant_id": "acme",
        "roles": ["a", "b"],
        "iat": NOW - 10,
        "exp": NOW + 600,
    }
    headers = changes.pop("headers", None)
    claims |= changes
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, headers=headers)


def request(bearer: str | None = None, policy: str = "required", **changes: Any) -> Request:
    usual: dict[str, Any] = {
        "policy": policy,
        "method": "GET",
        "path": "/a",
        "host": "gateway.test",
        "address": "192.0.2.1",
        "request_id": "r1",
    }
    if bearer is not None:
        usual["authorization"] = (b"Bearer " + bearer.encode(),)
    return Request(**(usual | changes))


def decide(policy: Policy, asked: Request, now: float = NOW) -> Decision:
    decision = authorizer(policy).decide(asked, now)
    assert isinstance(decision, Decision)
    check(decision)
    return decision


def check(decision: Decision) -> None:
    """A decision and its bytes say the same."""
    assert is_allow(decision.response) == decision.allowed
    assert decision.allowed == (decision.reason == "ok")


def is_allow(response: bytes) -> bool:
    """What Envoy makes of a response: only the status counts."""
    parsed = CheckResponse.FromString(response)
    return parsed.status.code == 0 and not parsed.HasField("error_response")


def answer(decision: Decision) -> dict[str, Any]:
    """What Envoy reads in the response."""
    parsed = CheckResponse.FromString(decision.response)
    found: dict[str, Any] = {"metadata": {k: v.string_value for k, v in parsed.dynamic_metadata.fields.items()}}
    if decision.allowed:
        found["headers"] = {h.header.key: h.header.value for h in parsed.ok_response.headers}
        found["actions"] = {h.append_action for h in parsed.ok_response.headers}
        found["remove"] = list(parsed.ok_response.headers_to_remove)
    else:
        denied = parsed.error_response if parsed.HasField("error_response") else parsed.denied_response
        found |= {"status": denied.status.code, "body": json.loads(denied.body)}
        found["challenges"] = [h.header.value for h in denied.headers if h.header.key == "www-authenticate"]
    return found
