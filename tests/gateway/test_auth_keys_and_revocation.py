"""Published keys and revocations through a real Envoy: rotation, an issuer that is away, floods, and every replica."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.extauthz.signing import integer
from tests.support.behaviour import Answer, Hang
from tests.support.client import Connection
from tests.support.gateway import Gateway, causeway
from tests.support.origin import Origin
from tests.support.redis import Redis
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway

OLD, NEW, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))


def jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, str]:
    point = key.public_key().public_numbers()
    x, y = integer(point.x, 32), integer(point.y, 32)
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}


def publish(issuer: Origin, *keys: dict[str, str]) -> None:
    issuer.on("/jwks.json", Answer(body=json.dumps({"keys": keys}).encode()))


def signed(key: ec.EllipticCurvePrivateKey, kid: str, **changes: Any) -> tuple[tuple[str, str], ...]:
    return bearer(token(key, "ES256", headers={"kid": kid}, **changes))


@pytest.fixture
def issuer(origins: Callable[..., Origin]) -> Iterator[Origin]:
    one = origins("issuer")
    one.accept()
    one.forget()
    publish(one, jwk(OLD, "old"))
    yield one
    one.accept()


def manifest(origin: Origin, issuer: Origin, **more: Any) -> dict[str, Any]:
    published = f"http://{issuer.address}/jwks.json"
    return {
        "identity": {
            "issuers": {
                "remote": {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": published, "refresh": "1s", **more},
                "static": {"issuer": "static", "audiences": [AUDIENCE], "secret": SECRET},
            },
            "headers": {"x-user-id": "sub"},
        },
        "services": {"svc": {"endpoints": [origin.address]}},
        "routes": [{"path": "/api/**", "service": "svc"}],
    }


async def status(gateway: Gateway, headers: tuple[tuple[str, str], ...]) -> int:
    return (await gateway.request("GET", "/api/x", headers=headers)).status


async def becomes(gateway: Gateway, headers: tuple[tuple[str, str], ...], expected: int, within_s: float = 10) -> None:
    async def is_so() -> bool:
        return await status(gateway, headers) == expected

    await until(f"status {expected}", is_so, within_s=within_s)


async def test_keys_rotate_and_a_removed_key_counts_no_longer(gateway: Gateway, origin: Origin, issuer: Origin) -> None:
    await gateway.apply(manifest(origin, issuer))
    old, new = signed(OLD, "old"), signed(NEW, "new")
    await becomes(gateway, old, 200)
    assert await status(gateway, new) == 401
    publish(issuer, jwk(OLD, "old"), jwk(NEW, "new"))
    await becomes(gateway, new, 200)
    assert await status(gateway, old) == 200
    publish(issuer, jwk(NEW, "new"))
    await becomes(gateway, old, 401)  # though it was verified, and remembered, a moment ago
    assert await status(gateway, new) == 200


async def test_a_bad_set_changes_nothing(gateway: Gateway, origin: Origin, issuer: Origin) -> None:
    await gateway.apply(manifest(origin, issuer))
    await becomes(gateway, signed(OLD, "old"), 200)
    fetched = len(issuer.requests)
    for body in (b"", b"{}", b"<html>", json.dumps({"keys": [jwk(NEW, "a"), jwk(OLD, "a")]}).encode(), b" " * 400_000):
        issuer.on("/jwks.json", Answer(body=body))
        fetched = len(await issuer.saw(fetched + 1))
        assert await status(gateway, signed(OLD, "old")) == 200
    issuer.on("/jwks.json", Answer(status=302, headers=(("location", f"http://{origin.address}/jwks.json"),)))
    await issuer.saw(fetched + 1)
    assert [seen for seen in origin.requests if seen.path == "/jwks.json"] == []
    assert await status(gateway, signed(OLD, "old")) == 200


async def test_an_issuer_that_is_away_takes_nothing_with_it(gateway: Gateway, origin: Origin, issuer: Origin) -> None:
    """Not even over a restart: the keys it published last are on disk."""
    await gateway.apply(manifest(origin, issuer))
    await becomes(gateway, signed(OLD, "old"), 200)
    issuer.refuse()
    assert await status(gateway, signed(OLD, "old")) == 200
    gateway.services["extauthz"].stop()
    gateway.services["extauthz"].start()
    await becomes(gateway, signed(OLD, "old"), 200)


async def test_an_issuer_that_never_answered_is_503_and_the_others_work(
    gateway: Gateway, origin: Origin, issuer: Origin
) -> None:
    issuer.on("/never", Hang())
    document = manifest(origin, issuer)
    document["identity"]["issuers"]["remote"]["jwks"] = f"http://{issuer.address}/never"
    await gateway.apply(document)
    await becomes(gateway, bearer(token(iss="static")), 200)
    assert await status(gateway, signed(OLD, "old")) == 503


async def test_a_flood_of_unknown_keys_fetches_little_and_delays_nobody(
    gateway: Gateway, origin: Origin, issuer: Origin
) -> None:
    await gateway.apply(manifest(origin, issuer, refresh="1h"))
    await becomes(gateway, signed(OLD, "old"), 200)
    before = len(issuer.requests)
    issuer.on("/jwks.json", Answer(body=b"late", after_s=2))
    slowest = 0.0

    async def flood(start: int) -> None:
        async with Connection(gateway.address) as connection:
            for number in range(start, start + 250):
                answer = await connection.request("GET", "/api/x", headers=signed(STRANGER, f"kid-{number}"))
                assert answer.status == 401

    async def honest() -> None:
        nonlocal slowest
        async with Connection(gateway.address) as connection:
            for _ in range(100):
                began = time.monotonic()
                assert (await connection.request("GET", "/api/x", headers=signed(OLD, "old"))).status == 200
                slowest = max(slowest, time.monotonic() - began)

    await asyncio.gather(*(flood(1000 * n) for n in range(4)), honest())
    assert len(issuer.requests) - before <= 2
    assert slowest < 1.0  # a fetch takes two seconds


# Revocation -----------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(causeway("revoke", *arguments), capture_output=True, timeout=30, check=False)


def revoke(gateway: Gateway, *what: str) -> subprocess.CompletedProcess[bytes]:
    return run(*what, "--admin", f"unix:{gateway.folder}/extauthz-admin.sock")


async def test_a_revoked_user_is_refused_within_a_second_and_after_a_restart(
    gateway: Gateway, origin: Origin, issuer: Origin
) -> None:
    await gateway.apply(manifest(origin, issuer))
    mine, others = bearer(token(iss="static", sub="mallory")), bearer(token(iss="static", sub="ann"))
    await becomes(gateway, mine, 200)
    assert revoke(gateway, "--sub", "mallory").returncode == 0
    await becomes(gateway, mine, 401, within_s=1)
    assert (await gateway.request("GET", "/api/x", headers=mine)).json()["code"] == "revoked"
    assert await status(gateway, others) == 200
    gateway.services["extauthz"].stop()
    gateway.services["extauthz"].start()
    await becomes(gateway, others, 200)
    assert await status(gateway, mine) == 401
    revoke(gateway, "--sub", "mallory", "--lift")
    await becomes(gateway, mine, 200, within_s=1)


KINDS = {
    "a token by its id": (("--jti", "t-7"), {"jti": "t-7"}, {"jti": "t-8"}),
    "a tenant": (("--tenant", "globex"), {"tenant_id": "globex"}, {"tenant_id": "acme"}),
    "what was issued before": (
        ("--all", "--before", str(int(time.time()) - 300)),
        {"iat": int(time.time()) - 400},
        {},
    ),
}


@pytest.mark.parametrize("case", KINDS)
async def test_revoked(gateway: Gateway, origin: Origin, issuer: Origin, case: str) -> None:
    arguments, refused, untouched = KINDS[case]
    await gateway.apply(manifest(origin, issuer))
    first, second = (bearer(token(iss="static", sub="zoe", **changes)) for changes in (refused, untouched))
    await becomes(gateway, first, 200)
    assert revoke(gateway, *arguments).returncode == 0
    await becomes(gateway, first, 401, within_s=1)
    assert await status(gateway, second) == 200


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(Path(tmp_path)).start()
    yield server
    server.stop()


async def test_redis_away_gives_what_is_declared_and_recovers(
    gateway: Gateway, origin: Origin, issuer: Origin, redis: Redis
) -> None:
    document = manifest(origin, issuer)
    document["identity"]["revocation"] = {"redis": redis.url}
    await gateway.apply(document)
    mine, others = bearer(token(iss="static", sub="eve")), bearer(token(iss="static", sub="ann"))
    await becomes(gateway, mine, 200)
    assert run("--sub", "eve", "--redis", redis.url).returncode == 0
    await becomes(gateway, mine, 401, within_s=1)

    redis.stop()
    assert await status(gateway, mine) == 401  # what is known stays known
    assert await status(gateway, others) == 200
    failed = revoke(gateway, "--sub", "x")
    assert failed.returncode == 1
    assert b"not in force" in failed.stderr  # and whoever revokes is told

    document["identity"]["revocation"]["on_store_error"] = "deny"
    await gateway.apply(document)
    await becomes(gateway, others, 503)
    redis.start()
    await becomes(gateway, others, 200)
