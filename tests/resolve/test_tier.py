"""A caller has one tier: the claim that limits and identity name between them, for every issuer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resolve.test_routes import SERVICES, gateway, problems

LIMIT = "limits: {l: {by: tenant, tier_from: plan, tiers: {free: 1/min}}}"
OTHER_LIMIT = "limits: {m: {by: user, tier_from: level, tiers: {free: 1/min}}}"


def identity(claims: str = "{}", of_issuer: str = "") -> str:
    secret = "secret: 01234567890123456789012345678901"
    issuer = f"{{issuer: i, audiences: [x], {secret}{', claims: ' + of_issuer if of_issuer else ''}}}"
    return f"identity: {{claims: {claims}, issuers: {{main: {issuer}}}}}"


TIERS = {
    "neither says which: the usual claim": (identity(), None, "tier"),
    "the limit says which": (identity(), LIMIT, "plan"),
    "the identity says which": (identity("{tier: plan}"), None, "plan"),
    "both say the same": (identity("{tier: plan}"), LIMIT, "plan"),
    "an issuer with claims of its own, none of them the tier": (identity(of_issuer="{tenant: org}"), LIMIT, "plan"),
    "an issuer that calls the tier something else": (identity(of_issuer="{tier: level}"), LIMIT, "level"),
}


@pytest.mark.parametrize("case", TIERS)
def test_the_claim_that_holds_the_tier(case: str, tmp_path: Path) -> None:
    who, limit, expected = TIERS[case]
    found = gateway(tmp_path, SERVICES, who, *([limit] if limit else []))
    (issuer,) = found.identity.issuers
    assert issuer.claims.tier == expected


@pytest.mark.parametrize("texts", [(identity("{tier: level}"), LIMIT), (identity(), LIMIT, OTHER_LIMIT)])
def test_two_claims_for_it_are_a_problem(texts: tuple[str, ...], tmp_path: Path) -> None:
    assert "a caller has one tier" in problems(tmp_path, SERVICES, *texts)[0]
