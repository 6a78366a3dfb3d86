"""JSON Web Tokens (RFC 7519) of configured issuers, with the rules of RFC 8725.

The issuer is chosen first, by the exact `iss`; then only its keys count, so that one issuer's key can never sign for
another. Nothing of the payload is believed before the signature has been checked; `iss` is read to find the keys, and
is checked by them. Times are whole seconds; the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from extauthz.core import values
from extauthz.core.identity import Identity
from extauthz.core.jwk import Key, KeySet
from extauthz.core.jws import TokenRefused, check_signature, find_key, parse
from extauthz.core.strict import Json, json_object
from extauthz.policy import Issuer as IssuerPolicy

MAX_TIME: Final = 2**48
MAX_AUDIENCES: Final = 64
KIND_CLAIMS: Final = ("token_use", "token_type", "type", "typ")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer with the keys that count for it now. `keys` is None while none have been loaded."""

    name: str
    policy: IssuerPolicy
    keys: KeySet | None
    generation: int = 0
    """Grows whenever the keys change, so that what was verified with others is verified again."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that passed, and what it passed by."""

    identity: Identity
    issuer: Issuer
    key: Key


class KeysUnavailable(Exception):  # noqa: N818
    """The issuer's keys have never been loaded, or are too old to count: nobody's fault who sends a token."""

    def __init__(self, issuer: str) -> None:
        super().__init__(issuer)
        self.issuer = issuer


class UnknownKey(TokenRefused):
    """A token whose key the issuer does not have: the keys may have been rotated."""

    def __init__(self, issuer: Issuer, kid: str | None) -> None:
        super().__init__("key_unknown", f"issuer {issuer.name}")
        self.issuer = issuer
        self.kid = kid


def verify(token: str | bytes, issuers: Mapping[str, Issuer], now: float) -> Verified:
    """The identity a token proves. `issuers` are by their `iss`. Raises TokenRefused or KeysUnavailable."""
    jws = parse(token)
    try:
        claims = json_object(jws.payload)
    except ValueError as error:
        raise TokenRefused("token_malformed", f"payload: {error}") from None
    name = claims.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise TokenRefused("issuer_unknown", "missing" if name is None else "not configured")
    if issuer.keys is None:
        raise KeysUnavailable(issuer.name)
    policy = issuer.policy
    if jws.header.typ not in policy.types:
        raise TokenRefused("token_type_mismatch", f"typ {jws.header.typ!r}")
    try:
        key = find_key(jws.header, issuer.keys)
    except TokenRefused as refused:
        if refused.reason == "key_unknown":
            raise UnknownKey(issuer, jws.header.kid) from None
        raise
    check_signature(jws, key)
    _check_kind(claims, policy)
    issued_at, not_after = _check_times(claims, policy, now)
    _check_audience(claims, policy)
    return Verified(_identity(claims, issuer, issued_at, not_after), issuer, key)


def _check_kind(claims: Mapping[str, Json], policy: IssuerPolicy) -> None:
    """Issuers that sign refresh and ID tokens with the same key mark them with a claim (RFC 8725, 3.12)."""
    for name in KIND_CLAIMS:
        kind = claims.get(name)
        if name in claims and (not isinstance(kind, str) or kind.lower() not in policy.kinds):
            raise TokenRefused("token_type_mismatch", f"claim {name}")


def _check_times(claims: Mapping[str, Json], policy: IssuerPolicy, now: float) -> tuple[int, int]:
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    if expires <= issued:
        raise TokenRefused("token_malformed", "exp is not after iat")
    if expires - issued > policy.max_lifetime_s:
        raise TokenRefused("lifetime_exceeded", f"{expires - issued} s")
    if now >= expires + policy.leeway_s:
        raise TokenRefused("token_expired")
    if now < issued - policy.leeway_s:
        raise TokenRefused("token_not_yet_valid", "iat")
    if "nbf" in claims and now < _time(claims, "nbf") - policy.leeway_s:
        raise TokenRefused("token_not_yet_valid", "nbf")
    return issued, expires + policy.leeway_s


def _time(claims: Mapping[str, Json], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value < MAX_TIME:
        raise TokenRefused("claim_missing" if value is None else "token_malformed", name)
    return value


def _check_audience(claims: Mapping[str, Json], policy: IssuerPolicy) -> None:
    audience = claims.get("aud")
    if audience is None:
        raise TokenRefused("claim_missing", "aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not 0 < len(named) <= MAX_AUDIENCES:
        raise TokenRefused("token_malformed", "aud")
    is_ours = False
    for one in named:
        if not isinstance(one, str) or not one:
            raise TokenRefused("token_malformed", "aud")
        is_ours = is_ours or one in policy.audiences
    if not is_ours:
        raise TokenRefused("audience_mismatch")


def _identity(claims: dict[str, Json], issuer: Issuer, issued_at: int, not_after: int) -> Identity:
    names = issuer.policy.claims
    subject = claims.get("sub")
    if subject is None:
        raise TokenRefused("claim_missing", "sub")
    token_id = claims.get("jti")
    if token_id is not None and (not isinstance(token_id, str) or not 0 < len(token_id) <= values.MAX_VALUE):
        raise TokenRefused("token_malformed", "jti")
    try:
        if not isinstance(subject, str):
            raise TokenRefused("token_malformed", "sub")
        values.element(subject)
        return Identity(
            method="jwt",
            user=_text(claims, names.user) or _missing(names.user),
            tenant=_text(claims, names.tenant),
            tier=_text(claims, names.tier),
            roles=values.elements(values.claim(claims, names.roles)),
            scopes=values.elements(values.claim(claims, names.scopes)),
            issuer=issuer.name,
            token_id=token_id,
            issued_at=issued_at,
            not_after=not_after,
            claims=claims,
        )
    except values.ValueRefused as error:
        raise TokenRefused("claim_invalid", str(error)) from None


def _text(claims: dict[str, Json], name: str) -> str | None:
    """A claim that is text; numbers are taken for what they print, nothing else is."""
    value = values.claim(claims, name)
    if value is None:
        return None
    if isinstance(value, str) or type(value) is int:
        return values.element(value)
    raise values.ValueRefused(f"{name} is not text")


def _missing(name: str) -> str:
    raise TokenRefused("claim_missing", name)
