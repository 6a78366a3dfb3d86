"""The cache is exact: whatever happens in whatever order, it decides as if it were not there."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.core.decide import Authorizer, Decision
from extauthz.core.jwk import KeySet, secret_key
from extauthz.core.revocations import Revocation, Revocations
from extauthz.policy import RoutePolicy, TenantInPath
from tests.extauthz.worlds import KEY, NOW, OTHER_SECRET, SECRET, document, request, token

POLICY = document(
    policies={
        "required": RoutePolicy(),
        "admin": RoutePolicy(roles=(("admin",),)),
        "tenant": RoutePolicy(tenants=(TenantInPath(segment=0),)),
        "main": RoutePolicy(issuers=("main",)),
    }
)
TOKENS = (
    token(jti="t0"),
    token(jti="t1", sub="u2", roles=["admin"], exp=NOW + 100),
    token(jti="t2", tenant_id="globex", iat=NOW + 20, exp=NOW + 300),
    token(OTHER_SECRET, iss="https://other", jti="t0"),
    token("z" * 32, jti="t0"),
)
ROTATED = "r" * 32


@dataclass(frozen=True)
class Ask:
    token: int
    policy: str
    path: str


@dataclass(frozen=True)
class AskByKey:
    policy: str


@dataclass(frozen=True)
class Pass:
    seconds: int


@dataclass(frozen=True)
class Revoke:
    kind: str
    value: str
    before: int
    lasts: int
    lifted: bool


@dataclass(frozen=True)
class Rotate:
    issuer: str
    secret: str | None


STEPS = st.lists(
    st.one_of(
        st.builds(
            Ask,
            st.integers(0, len(TOKENS) - 1),
            st.sampled_from(sorted(POLICY.policies)),
            st.sampled_from(["/acme/x", "/globex/x"]),
        ),
        st.builds(AskByKey, st.sampled_from(sorted(POLICY.policies))),
        st.builds(Pass, st.integers(0, 200)),
        st.builds(
            Revoke,
            st.sampled_from(["token", "subject", "tenant", "api_key"]),
            st.sampled_from(["t0", "t1", "u1", "u2", "robot", "acme", "globex", KEY.id]),
            st.integers(-50, 300),
            st.integers(-10, 200),
            st.booleans(),
        ),
        st.builds(Rotate, st.sampled_from(["main", "other"]), st.sampled_from([None, SECRET, OTHER_SECRET, ROTATED])),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_it_decides_as_if_it_were_not_there(steps: list[object]) -> None:
    keys: dict[str, KeySet | None] = {"main": secret_key(SECRET), "other": secret_key(OTHER_SECRET)}
    index = Revocations()
    lasting = Authorizer(POLICY, keys, index, secret=b"l" * 32)
    now = NOW
    for step in steps:
        match step:
            case Pass(seconds):
                now += seconds
            case Revoke(kind, value, before, lasts, lifted):
                made = Revocation(
                    kind=kind,
                    value=value,
                    before=NOW + before,
                    until=now + lasts,
                    lifted=lifted,  # type: ignore[arg-type]
                )
                index.add([made], now)
            case Rotate(issuer, secret):
                keys[issuer] = secret_key(secret) if secret is not None else None
                lasting.replace_keys(issuer, keys[issuer])
            case Ask(number, policy, path):
                _same(lasting, keys, index, request(TOKENS[number], policy=policy, path=path), now)
            case AskByKey(policy):
                _same(lasting, keys, index, request(api_key=(KEY.text.encode(),), policy=policy, path="/acme"), now)


def _same(lasting: Authorizer, keys: dict[str, KeySet | None], index: Revocations, asked: object, now: float) -> None:
    fresh = Authorizer(POLICY, keys, index, secret=b"f" * 32)
    expected, found = fresh.decide(asked, now), lasting.decide(asked, now)  # type: ignore[arg-type]
    assert isinstance(expected, Decision)
    assert isinstance(found, Decision)
    assert (found.allowed, found.reason, found.response) == (expected.allowed, expected.reason, expected.response)
