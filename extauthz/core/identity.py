"""Who a request comes from, once a credential has been verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extauthz.core.strict import Json
from extauthz.policy import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A verified caller. Every text in it is safe as a header's value.

    `not_after` (seconds since the epoch, leeway included) is when the credential ends; None for one that does not.
    `revocation_keys` are what a revocation may name.
    """

    method: Method
    user: str
    tenant: str | None = None
    tier: str | None = None
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    api_key: str | None = None
    issuer: str | None = None
    token_id: str | None = None
    issued_at: int | None = None
    not_after: int | None = None
    claims: Mapping[str, Json] = field(default_factory=dict, repr=False, compare=False, hash=False)
