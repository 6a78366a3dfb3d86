"""While some Envoys have new routes and others the old ones, the authorization service knows the policies of both."""

from __future__ import annotations

import json

from controlplane.translate.policies.departing import with_departing
from controlplane.translate.policies.documents import authorization_document
from extauthz.policy import Policy

OPEN, ADMINS = {"mode": "public"}, {"mode": "required", "roles": [["admin"]]}


def document(**policies: dict[str, object]) -> Policy:
    return Policy.parse(json.dumps({"policies": policies}))


def test_policies_of_both_are_known_and_the_new_ones_win() -> None:
    before, after = document(old=OPEN, both=OPEN), document(new=OPEN, both=ADMINS)
    shown = with_departing(authorization_document(before), authorization_document(after))
    expected = document(old=OPEN, new=OPEN, both=ADMINS)
    assert shown.version == authorization_document(expected).version


def test_where_nothing_departs_the_new_document_is_as_it_is() -> None:
    after = authorization_document(document(a=OPEN, b=OPEN))
    assert with_departing(None, after) is after
    assert with_departing(after, after) is after
    assert with_departing(authorization_document(document(a=OPEN)), after) is after


def test_a_policy_that_the_new_document_cannot_hold_is_left_out() -> None:
    """Its issuer is gone: nobody could pass it any more."""
    issuer = {"issuer": "https://idp", "audiences": ["a"], "keys": {"source": "remote", "url": "https://idp/jwks"}}
    policies = {"old": {"mode": "required", "issuers": ["idp"]}, "kept": OPEN}
    before = Policy.parse(json.dumps({"issuers": {"idp": issuer}, "policies": policies}))
    shown = with_departing(authorization_document(before), authorization_document(document(new=OPEN)))
    assert shown.version == authorization_document(document(kept=OPEN, new=OPEN)).version
