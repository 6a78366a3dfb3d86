"""The decision: a request in, an encoded CheckResponse out.

`Authorizer` holds one policy document, the keys that count now, and the cache; it reads no clock and waits for
nothing. What cannot be decided at once (a password takes tens of milliseconds) comes back as `PasswordNeeded`, and the
shell asks again with the outcome. Every path that does not end in a verified identity, or in a route that asks for
none, ends in a denial with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from extauthz.core import api_keys, basic, conditions, jwt, responses, values
from extauthz.core.cache import DEFAULT_BYTES, Cache, Entry
from extauthz.core.conditions import Route
from extauthz.core.identity import Identity
from extauthz.core.jwk import KeySet
from extauthz.core.jws import TokenRefused
from extauthz.core.proof import Prover
from extauthz.core.reasons import ALLOWED, REFUSALS, Refusal
from extauthz.core.request import Request
from extauthz.core.revocations import Revocations
from extauthz.policy import FromClaim, FromField, Method, Policy, RoutePolicy

_BEARER: Final = b"bearer"
_BASIC: Final = b"basic"
_QUERY_TOKEN: Final = "access_token"  # noqa: S105 - a parameter's name
_FOREVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """The issuer, by its name, and the key id that a token named."""

    issuer: str
    kid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to tell Envoy, and what to log and count about it."""

    response: bytes
    allowed: bool
    policy: str
    reason: str
    detail: str = ""
    """More about a denial, for the log only."""
    identity: Identity | None = None
    """Who it is, where that was verified: for the log, of a denial too."""
    unknown_key: UnknownKey | None = None
    """A key that an issuer does not have: a reason to fetch its keys again, off this path."""


@dataclass(frozen=True, slots=True)
class PasswordNeeded:
    """A password has to be checked before this request can be decided."""

    password: basic.Password


@dataclass(frozen=True, slots=True)
class _Credential:
    kind: Method
    value: bytes


class _Denied(Exception):  # noqa: N818
    def __init__(self, reason: str, detail: str = "", *, unknown_key: UnknownKey | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.unknown_key = unknown_key
        self.identity: Identity | None = None


Note = Callable[[str], None]
"""Hears each step of a decision in words (`causeway authz test`)."""


def _unheard(step: str) -> None:
    """The usual listener."""


_NONE: Final[Mapping[str, RoutePolicy]] = MappingProxyType({})


class Authorizer:
    """Decides under one policy document. Raises KeyRefused when the document's proof key does not fit.

    `keys` are the issuers' keys by the issuers' names, as far as they are known; `replace_keys` changes them. `secret`
    is random and of this process. `departed` are policies that the document no longer has and that routes still name
    which Envoy is about to replace.
    """

    def __init__(
        self,
        policy: Policy,
        keys: Mapping[str, KeySet | None],
        revocations: Revocations,
        *,
        secret: bytes,
        cache_bytes: int = DEFAULT_BYTES,
        departed: Mapping[str, RoutePolicy] = _NONE,
    ) -> None:
        self.policy = policy
        self.revocations = revocations
        self.revocations_available = True
        self.cache: Cache[Decision] = Cache(secret, limit_bytes=cache_bytes)
        self.api_key_header = policy.api_keys.header if policy.api_keys is not None else ""
        policies = {**departed, **policy.policies}
        self._routes = {name: conditions.prepare(name, one, policy.methods) for name, one in policies.items()}
        self._issuers = {one.issuer: jwt.Issuer(name, one, keys.get(name)) for name, one in policy.issuers.items()}
        self._prover = Prover(policy.proof, policy.gateway) if policy.proof is not None else None
        self._anonymous: Entry[Decision] = Entry(Identity(method="jwt", user=""), None, 0, 0)
        self._certificates = {one.principal: one for one in policy.certificates}

    def replace_keys(self, issuer: str, keys: KeySet | None) -> None:
        """An issuer's keys from now on; None when they are too old to count. Nothing verified before survives it."""
        one = self.policy.issuers[issuer]
        self._issuers[one.issuer] = jwt.Issuer(issuer, one, keys)

    def decide(
        self, request: Request, now: float, *, password: bool | None = None, note: Note = _unheard
    ) -> Decision | PasswordNeeded:
        """The decision at `now` (seconds since the epoch). `password` is the outcome of a `PasswordNeeded`."""
        route = self._routes.get(request.policy)
        if route is None:
            return self._refusal(None, request, _Denied("policy_unknown", request.policy))
        try:
            if route.policy.mode == "public":
                note("the route is public: no credential is looked at")
            return self._decide(route, request, now, password, note)
        except _Denied as denied:
            note(f"refused: {denied.reason}" + (f" ({denied.detail})" if denied.detail else ""))
            return self._refusal(route, request, denied)

    def refuse(self, request: Request | None, reason: str) -> Decision:
        """A denial for a reason of the shell's: `overloaded`, `internal_error`."""
        asked = request or Request(policy="", method="", path="", host="", address="")
        return self._refusal(self._routes.get(asked.policy), asked, _Denied(reason))

    # The steps ------------------------------------------------------------------------------------------------------

    def _decide(
        self, route: Route, request: Request, now: float, password: bool | None, note: Note
    ) -> Decision | PasswordNeeded:
        if request.method == "CONNECT" or conditions.path_refused(request.path):
            raise _Denied("request_refused", "path or method")
        if conditions.ip_denied(route, request.address):
            raise _Denied("ip_denied", request.address)
        if route.is_public:
            return self._pass(route, self._anonymous, None, now, request)
        credential = self._credential(route, request, note)
        if credential is None:
            if route.policy.mode == "optional":
                note("no credential, and none is required")
                return self._pass(route, self._anonymous, None, now, request)
            raise _Denied("credentials_missing")
        if not self.revocations_available:
            raise _Denied("revocations_unavailable")
        entry = self._entry(credential, now, password, note)
        if isinstance(entry, PasswordNeeded):
            return entry
        try:
            return self._permitted(route, entry, request, now, note)
        except _Denied as denied:
            denied.identity = entry.identity
            raise

    def _permitted(self, route: Route, entry: Entry[Decision], request: Request, now: float, note: Note) -> Decision:
        """What a verified identity may do here."""
        identity = entry.identity
        if route.policy.tenants:
            if conditions.tenant_mismatch(route, identity, request.path, request.host):
                raise _Denied("tenant_mismatch")
            note(f"the request names the caller's own tenant {identity.tenant!r}")
        return self._pass(route, entry, identity, now, request)

    def _credential(self, route: Route, request: Request, note: Note) -> _Credential | None:
        """The one credential of the request. Two of them mean two callers, and nobody can say which was meant."""
        found: list[_Credential] = []
        for value in request.authorization:
            scheme, _, rest = value.partition(b" ")
            kind = scheme.lower()
            if kind == _BEARER and self._issuers:
                found.append(_Credential("jwt", rest))
            elif kind == _BASIC and self.policy.basic is not None:
                found.append(_Credential("basic", rest))
            else:
                raise _Denied("credentials_malformed", "Authorization has a scheme that is not configured")
        found += [_Credential("api_key", value) for value in request.api_key]
        if len(found) > 1:
            raise _Denied("credentials_ambiguous")
        if not found and request.principal and "client_certificate" in route.accept:
            found.append(_Credential("client_certificate", request.principal.encode()))
        if not found:
            return None
        if found[0].kind not in route.accept:
            raise _Denied("credentials_not_accepted", found[0].kind)
        note(f"one credential, of the kind {found[0].kind}, which the policy accepts")
        return found[0]

    def _entry(
        self, credential: _Credential, now: float, password: bool | None, note: Note
    ) -> Entry[Decision] | PasswordNeeded:
        """The verified credential: from the cache while it holds, else verified now."""
        digest = self.cache.digest(credential.kind.encode()[:16], credential.value)
        entry = self.cache.get(digest)
        if entry is not None and self._holds(entry, now):
            self.cache.hits += 1
        else:
            self.cache.drop(digest)
            self.cache.misses += 1
            verified = self._verified(credential, now, password)
            if isinstance(verified, PasswordNeeded):
                return verified
            identity, issuer = verified
            entry = self.cache.put(digest, len(credential.value), identity, issuer, -1)
            note(f"the credential is valid: user {identity.user!r}, tenant {identity.tenant!r}")
        if entry.epoch != self.revocations.epoch:
            if self.revocations.revoked(entry.identity, now):
                self.cache.drop(digest)
                raise _Denied("revoked")
            entry.epoch = self.revocations.epoch
        return entry

    def _holds(self, entry: Entry[Decision], now: float) -> bool:
        identity, issuer = entry.identity, entry.issuer
        return (identity.not_after is None or now < identity.not_after) and (
            issuer is None or self._issuers.get(issuer.policy.issuer) is issuer
        )

    def _verified(
        self, credential: _Credential, now: float, password: bool | None
    ) -> tuple[Identity, jwt.Issuer | None] | PasswordNeeded:
        match credential.kind:
            case "jwt":
                try:
                    verified = jwt.verify(credential.value, self._issuers, now)
                except jwt.UnknownKey as refused:
                    unknown = UnknownKey(refused.issuer.name, refused.kid)
                    raise _Denied(refused.reason, refused.detail, unknown_key=unknown) from None
                except TokenRefused as refused:
                    raise _Denied(refused.reason, refused.detail) from None
                except jwt.KeysUnavailable as missing:
                    raise _Denied("keys_unavailable", missing.issuer) from None
                return verified.identity, verified.issuer
            case "api_key":
                return self._api_key(credential.value, now), None
            case "basic":
                return self._basic(credential.value, password)
            case "client_certificate":
                client = self._certificates.get(credential.value.decode())
                if client is None:
                    raise _Denied("certificate_unknown")
                return api_keys.client_identity(client, "client_certificate"), None

    def _api_key(self, value: bytes, now: float) -> Identity:
        if self.policy.api_keys is None:
            raise _Denied("credentials_not_accepted", "api_key")
        try:
            return api_keys.verify(value.decode("latin-1"), self.policy.api_keys, now)
        except api_keys.ApiKeyRefused as refused:
            raise _Denied(refused.reason) from None

    def _basic(self, value: bytes, outcome: bool | None) -> tuple[Identity, None] | PasswordNeeded:
        password = basic.read(value.decode("latin-1"))
        if password is None or self.policy.basic is None:
            raise _Denied("credentials_malformed", "Basic")
        if outcome is None:
            return PasswordNeeded(password)
        user = self.policy.basic.users.get(password.user)
        if not outcome or user is None:
            raise _Denied("password_invalid")
        return api_keys.client_identity(user, "basic"), None

    # The answers ----------------------------------------------------------------------------------------------------

    def _pass(
        self, route: Route, entry: Entry[Decision], identity: Identity | None, now: float, request: Request
    ) -> Decision:
        """Allowed, if roles, scopes and claims are as the route asks. Remembered with the entry: none of it changes.

        A token in the query is no credential here, but services log queries, so it goes no further.
        """
        has_query_token = not route.is_public and _QUERY_TOKEN in request.path
        known = entry.decisions.get(route.name)
        if known is not None and now < known[0] and not has_query_token:
            return known[1]
        if identity is not None:
            if route.issuers is not None and identity.issuer is not None and identity.issuer not in route.issuers:
                raise _Denied("issuer_not_accepted")
            reason = conditions.missing(route, identity)
            if reason is not None:
                raise _Denied(reason)
        headers, absent = self._headers(identity)
        until = _FOREVER
        if self._prover is not None:
            headers.append((self._prover.header, self._prover.sign(identity, route.name, now)))
            until = now + self._prover.lifetime_s / 2
        metadata = _metadata(identity) | {"policy": route.name, "reason": ALLOWED}
        decision = Decision(
            response=responses.allowed(
                headers, absent, metadata, remove_parameters=(_QUERY_TOKEN,) if has_query_token else ()
            ),
            allowed=True,
            policy=route.name,
            reason=ALLOWED,
            identity=identity,
        )
        if not has_query_token:
            entry.remember(route.name, until, decision)
        return decision

    def _headers(self, identity: Identity | None) -> tuple[list[tuple[str, str]], list[str]]:
        """The injected headers, and the names to remove: those without a value, and credentials of the gateway's own,
        which are nobody's business behind it. A bearer token goes on, for services that look at it themselves."""
        headers: list[tuple[str, str]] = []
        absent: list[str] = [self.api_key_header] if self.api_key_header else []
        if identity is not None and identity.method == "basic":
            absent.append("authorization")
        for name, source in self.policy.headers.items():
            try:
                value = _header(identity, source)
            except values.ValueRefused as error:
                raise _Denied("claim_invalid", f"{name}: {error}") from None
            if value:
                headers.append((name, value))
            else:
                absent.append(name)
        return headers, absent

    def _refusal(self, route: Route | None, request: Request, denied: _Denied) -> Decision:
        refusal = REFUSALS[denied.reason]
        metadata = {"policy": route.name if route is not None else "", "reason": denied.reason}
        challenges = _challenges(self.policy, route, refusal) if refusal.status in (401, 403) else ()
        return Decision(
            response=responses.denied(refusal, metadata, request_id=request.request_id, challenges=challenges),
            allowed=False,
            policy=metadata["policy"],
            reason=denied.reason,
            detail=denied.detail,
            identity=denied.identity,
            unknown_key=denied.unknown_key,
        )


def _header(identity: Identity | None, source: FromField | FromClaim) -> str:
    """A header's value, "" where there is none. Raises ValueRefused."""
    if identity is None:
        return ""
    match source:
        case FromClaim(claim=name):
            value = values.claim(identity.claims, name)
            return "" if value is None else values.header_value(value)
        case FromField(field="roles"):
            return values.joined(identity.roles)
        case FromField(field="scopes"):
            return values.joined(identity.scopes)
        case FromField(field=name):
            fields = {
                "user": identity.user,
                "tenant": identity.tenant,
                "tier": identity.tier,
                "api_key": identity.api_key,
                "issuer": identity.issuer,
                "method": identity.method,
            }
            return fields[name] or ""


def _metadata(identity: Identity | None) -> dict[str, str]:
    if identity is None:
        return {}
    found = {
        "user": identity.user,
        "tenant": identity.tenant or "",
        "tier": identity.tier or "",
        "api_key": identity.api_key or "",
        "roles": ",".join(identity.roles),
    }
    return {name: text for name, text in found.items() if text}


def _challenges(policy: Policy, route: Route | None, refusal: Refusal) -> tuple[str, ...]:
    """WWW-Authenticate (RFC 9110, 11.6.1; RFC 6750, 3): what would be accepted, and what was wrong with a token."""
    accept = route.accept if route is not None else frozenset(policy.methods)
    realm = policy.gateway
    if refusal.status == 403:
        if refusal.bearer_error != "insufficient_scope" or route is None:
            return ()
        scopes = " ".join(dict.fromkeys(scope for group in route.policy.scopes for scope in group))
        return (f'Bearer realm="{realm}", error="insufficient_scope", scope="{_quoted(scopes)}"',)
    found: list[str] = []
    if "jwt" in accept:
        error = (
            f', error="{refusal.bearer_error}", error_description="{refusal.message}"' if refusal.bearer_error else ""
        )
        found.append(f'Bearer realm="{realm}"{error}')
    if "basic" in accept and policy.basic is not None:
        found.append(f'Basic realm="{policy.basic.realm}", charset="UTF-8"')
    if "api_key" in accept and policy.api_keys is not None:
        found.append(f'ApiKey realm="{realm}", header="{policy.api_keys.header}"')
    return tuple(found) or (f'Bearer realm="{realm}"',)


def _quoted(text: str) -> str:
    return text.replace("\\", "").replace('"', "")
