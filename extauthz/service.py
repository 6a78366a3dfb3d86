"""The service around the decision: it has the clock, the policy in effect, the keys, the revocations, logs and numbers.

`check` is the whole hot path: bytes in, bytes out. A policy takes effect by swapping one `Authorizer`; a document that
does not validate changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from extauthz.core import basic
from extauthz.core.cache import DEFAULT_BYTES
from extauthz.core.decide import Authorizer, Decision, PasswordNeeded
from extauthz.core.jwk import KeyRefused, KeySet
from extauthz.core.request import Request, read
from extauthz.core.revocations import Revocation, Revocations
from extauthz.jwks import Fetch, KeyRing, static_key_sets
from extauthz.metrics import Gauges, Metrics
from extauthz.policy import MemoryRevocations, Policy, RedisRevocations, RoutePolicy
from extauthz.revocation import Store, StoreUnavailable, store_for
from serving.http2 import UNAVAILABLE, CallError

GRPC_SERVICE: Final = "envoy.service.auth.v3.Authorization"
MAX_PASSWORDS_WAITING: Final = 32
EXPIRE_EVERY_S: Final = 60.0

_log = structlog.get_logger("extauthz")
_EMPTY: Final = Policy()


DEPARTURE_S: Final = 60.0
"""How long a policy is known after the document has it no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a worker behaves, beside the policy."""

    cache_bytes: int = DEFAULT_BYTES
    log_every_allow: int = 100
    """Every so many allowed requests one is logged; 0 logs none. Denials are all logged."""


class ExtAuthz:
    """The authorization service of one worker. `apply` puts a document into effect; `check` decides.

    Needs a running loop. Use it inside `running()`, which ends what it started.
    """

    def __init__(
        self,
        *,
        fetch: Fetch,
        folder: Path | None = None,
        options: Options = Options(),
        wall: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.metrics = Metrics(self._gauges)
        self.has_policy = False
        self.revocations = Revocations()
        self._folder = folder
        self._options = options
        self._wall, self._timer = wall, timer
        self._keys = KeyRing(self._keys_changed, fetch=fetch, folder=folder)
        self._secret = secrets.token_bytes(32)
        self._authorizer = Authorizer(_EMPTY, {}, self.revocations, secret=self._secret)
        self._departed: dict[str, tuple[RoutePolicy, float]] = {}
        self._store: Store | None = None
        self._store_settings: MemoryRevocations | RedisRevocations | None = None
        self._following: asyncio.Task[None] | None = None
        self._passwords = ThreadPoolExecutor(max_workers=1, thread_name_prefix="password")
        self._passwords_waiting = 0
        self._until_log = 1 if options.log_every_allow else 0
        self._hits, self._misses = 0, 0

    # The policy -----------------------------------------------------------------------------------------------------

    def apply(self, document: str | bytes) -> None:
        """Puts a document into effect. Raises ValueError naming every wrong field, and then changes nothing."""
        try:
            policy = Policy.parse(document)
        except ValidationError as error:
            raise ValueError("; ".join(_problem(one["loc"], one["msg"]) for one in error.errors())) from None
        static = static_key_sets(policy)
        try:
            Authorizer(policy, {}, self.revocations, secret=self._secret)
        except KeyRefused as error:
            raise ValueError(f"proof.key: {error}") from error
        self._keys.follow(policy, static)
        self._follow_revocations(policy)
        old = self._authorizer.cache
        self._hits, self._misses = self._hits + old.hits, self._misses + old.misses
        self._authorizer = Authorizer(
            policy,
            {name: self._keys.of(name) for name in policy.issuers},
            self.revocations,
            secret=self._secret,
            cache_bytes=self._options.cache_bytes,
            departed=self._departing(policy),
        )
        self.has_policy = True

    def _departing(self, policy: Policy) -> dict[str, RoutePolicy]:
        """Policies of earlier documents that routes may still name.

        A document is in effect here before Envoy has the routes that go with it, so that no route names a policy that
        is not there yet. For the same while there are routes whose policy is not there any more.
        """
        now = self._wall()
        live = {name: one for name, one in self._departed.items() if one[1] > now}
        live |= {name: (one, now + DEPARTURE_S) for name, one in self.policy.policies.items()}
        self._departed = {name: one for name, one in live.items() if name not in policy.policies}
        return {name: one for name, (one, _) in self._departed.items()}

    @property
    def policy(self) -> Policy:
        """The document in effect."""
        return self._authorizer.policy

    def _keys_changed(self, issuer: str, keys: KeySet | None) -> None:
        if issuer in self._authorizer.policy.issuers:
            self._authorizer.replace_keys(issuer, keys)

    def _follow_revocations(self, policy: Policy) -> None:
        if self._store is not None and policy.revocations == self._store_settings:
            return
        if self._following is not None:
            self._following.cancel()
        self._store_settings = policy.revocations
        self._store = store_for(policy, self._folder)
        self.revocations = Revocations()
        self._following = asyncio.create_task(self._store.follow(self.revocations), name="revocations")

    # Questions about it ---------------------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why the service is not ready, or None."""
        if not self.has_policy:
            return "no policy yet"
        return self._keys.problem()

    def revocations_problem(self) -> str | None:
        """Why new revocations might not be known here, or None."""
        return self._store.problem() if self._store is not None else None

    def status(self) -> dict[str, object]:
        """For people: what is in effect, without anything secret."""
        policy = self.policy
        return {
            "policies": sorted(policy.policies),
            "issuers": {
                name: [key.kid for key in keys.keys] if (keys := self._keys.of(name)) is not None else None
                for name in sorted(policy.issuers)
            },
            "api_keys": len(policy.api_keys.keys) if policy.api_keys is not None else 0,
            "revocations": len(self.revocations),
            "cache": {"entries": len(self._authorizer.cache), "bytes": self._authorizer.cache.size_bytes},
            "problem": self.problem(),
        }

    async def revoke(self, revocation: Revocation) -> None:
        """Makes a revocation, in force on every replica within a second. Raises StoreUnavailable."""
        if self._store is None:
            raise StoreUnavailable("no policy yet")
        await self._store.publish(revocation)

    def _gauges(self) -> Gauges:
        cache = self._authorizer.cache
        return Gauges(
            cache_entries=len(cache),
            cache_bytes=cache.size_bytes,
            cache_hits=self._hits + cache.hits,
            cache_misses=self._misses + cache.misses,
            revocations=len(self.revocations),
            jwks_age_s=tuple((one.name, one.age_s) for one in self._keys.sources if one.age_s is not None),
            jwks_fetches=tuple((one.name, one.fetches) for one in self._keys.sources),
        )

    # The hot path ---------------------------------------------------------------------------------------------------

    def check(self, message: bytes) -> bytes | Awaitable[bytes]:
        """An encoded CheckResponse for an encoded CheckRequest, at once unless a password has to be checked.

        Raises CallError while there is no policy, so that Envoy asks another worker; what else goes wrong is a 503.
        """
        if not self.has_policy:
            raise CallError(UNAVAILABLE, "no policy yet")
        began = self._timer()
        authorizer = self._authorizer
        request: Request | None = None
        try:
            request = read(message, authorizer.api_key_header)
            decision = authorizer.decide(request, self._wall())
            if isinstance(decision, PasswordNeeded):
                return self._check_password(authorizer, request, decision.password, began)
        except DecodeError:
            decision = authorizer.refuse(None, "internal_error")
        except Exception:  # the boundary: a fault of ours must deny, and must be seen
            _log.exception("decision failed")
            decision = authorizer.refuse(request, "internal_error")
        return self._answer(request, decision, began)

    def _answer(self, request: Request | None, decision: Decision, began: float) -> bytes:
        """The decision's bytes, once it has been counted and logged."""
        self.metrics.decided(decision.policy, decision.reason, self._timer() - began)
        if decision.allowed:
            self._until_log -= 1
            if self._until_log == 0:
                self._until_log = self._options.log_every_allow
                self._log_decision(request, decision)
        else:
            if decision.unknown_key is not None:
                self._keys.unknown_kid(decision.unknown_key.issuer, decision.unknown_key.kid)
            self._log_decision(request, decision)
        return decision.response

    async def _check_password(
        self, authorizer: Authorizer, request: Request, password: basic.Password, began: float
    ) -> bytes:
        try:
            decision = await self._with_password(authorizer, request, password)
        except Exception:  # the boundary, as in `check`
            _log.exception("decision failed")
            decision = authorizer.refuse(request, "internal_error")
        return self._answer(request, decision, began)

    async def _with_password(self, authorizer: Authorizer, request: Request, password: basic.Password) -> Decision:
        """Checks the password beside the loop, one at a time, with a bounded queue."""
        users = authorizer.policy.basic
        if users is None or self._passwords_waiting >= MAX_PASSWORDS_WAITING:
            return authorizer.refuse(request, "overloaded")
        self._passwords_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(self._passwords, basic.check, password, users)
        finally:
            self._passwords_waiting -= 1
        decision = authorizer.decide(request, self._wall(), password=outcome)
        return decision if isinstance(decision, Decision) else authorizer.refuse(request, "internal_error")

    def _log_decision(self, request: Request | None, decision: Decision) -> None:
        known: dict[str, str] = {}
        if request is not None:
            path = request.path.partition("?")[0]  # queries hold what nobody should log
            known = {
                "request_id": request.request_id,
                "method": request.method,
                "path": path[:256],
                "host": request.host,
            }
            known["client"] = request.address
        if decision.identity is not None:
            known |= {"user": decision.identity.user, "tenant": decision.identity.tenant or ""}
        if decision.detail:
            known["detail"] = decision.detail
        _log.info("allowed" if decision.allowed else "denied", policy=decision.policy, reason=decision.reason, **known)

    # Its life -------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps things in order beside the requests, and ends everything afterwards."""
        housekeeping = asyncio.create_task(self._housekeeping(), name="housekeeping")
        try:
            async with self._keys.running():
                yield
        finally:
            housekeeping.cancel()
            if self._following is not None:
                self._following.cancel()
            tasks = [housekeeping, *([self._following] if self._following is not None else [])]
            await asyncio.gather(*tasks, return_exceptions=True)
            self._passwords.shutdown(wait=False, cancel_futures=True)

    async def _housekeeping(self) -> None:
        """Notices a silent revocation store, and forgets revocations that have run out."""
        expire_at = self._wall() + EXPIRE_EVERY_S
        while True:
            await asyncio.sleep(0.25)
            settings = self._store_settings
            must_deny = isinstance(settings, RedisRevocations) and settings.on_store_error == "deny"
            self._authorizer.revocations_available = not must_deny or self.revocations_problem() is None
            if self._wall() >= expire_at:
                expire_at = self._wall() + EXPIRE_EVERY_S
                self.revocations.expire(self._wall())


def _problem(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, place))
    return f"{where}: {message}" if where else message
