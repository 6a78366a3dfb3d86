"""Header custody through a real Envoy: whatever a stranger sends, the service sees the verified tenant or nothing.

Each attack goes to a protected route with a valid token, and to a public, an optional and a fail-open route; with the
authorization service up, stopped, and so slow that Envoy gives up on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import pytest

from extauthz.policy import RESERVED_HEADERS, RESERVED_PREFIXES
from tests.gateway.custody import Attack, all_attacks
from tests.support import client
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.seen import Seen
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway

ATTACKS = all_attacks()
ROUTES = ("api", "public", "maybe", "open")
FEWER = len(ATTACKS) - 120
CONCURRENCY = 16


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "identity": {
            "issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}},
            "headers": {"x-tenant-id": "tenant_id", "x-user-id": "sub", "x-shop-user": "sub"},
            "proof": {"secret": "the gateway's own secret of 32 bytes or more"},
            "timeout": "250ms",
        },
        "services": {"svc": {"endpoints": [origin.address]}},
        "routes": [
            {"path": "/api/**", "service": "svc"},
            {"path": "/public/**", "service": "svc", "auth": "public"},
            {"path": "/maybe/**", "service": "svc", "auth": "optional"},
            {"path": "/open/**", "service": "svc", "auth": {"on_failure": "allow"}},
            {"path": "/admin/**", "service": "svc", "auth": {"roles": ["admin"]}},
        ],
    }


@pytest.fixture
async def guarded(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


async def send(gateway: Gateway, attack: Attack, path: str, credential: tuple[tuple[str, str], ...]) -> None:
    """The attack as it is; an answer, a closed connection and a reset stream are all fine."""
    target = (attack.target or "{path}").format(path=path)
    try:
        async with asyncio.timeout(2):
            if attack.http2:
                pseudo = (
                    (":method", attack.method),
                    (":scheme", "http"),
                    (":authority", "gateway.test"),
                    (":path", target),
                )
                headers = (*pseudo, *credential, *attack.http2)
                body = b"x" if attack.trailers else b""
                await client.http2_exchange(gateway.address, headers, body, trailers=attack.trailers)
                return
            host = attack.host or "gateway.test"
            lines = [f"{attack.method} {target} HTTP/1.1".encode(), b"host: " + host.encode(), *attack.before]
            lines += [f"{name}: {value}".encode() for name, value in credential]
            lines += attack.after
            await gateway.raw(b"\r\n".join(lines) + b"\r\n\r\n", method=attack.method, timeout_s=2)
    except (OSError, TimeoutError, ValueError, AssertionError, client.StreamResetError, asyncio.IncompleteReadError):
        pass
    except Exception as error:  # what h2 thinks of an answer is not the question
        assert type(error).__module__.startswith("h2."), error  # noqa: PT017


async def run(
    gateway: Gateway, routes: tuple[str, ...], credential: tuple[tuple[str, str], ...], *, number_of: int = FEWER
) -> None:
    """The first attacks of the list on every route, each with a path of its own."""
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int, attack: Attack, route: str) -> None:
        async with limit:
            await send(gateway, attack, f"/{route}/n{number}", credential)

    await asyncio.gather(*(one(n, attack, route) for n, attack in enumerate(ATTACKS[:number_of]) for route in routes))


def is_reserved(name: str) -> bool:
    name = re.sub(r"[^a-z0-9-]", "", name.lower().replace("_", "-")) if "*" not in name else name
    return name in (*RESERVED_HEADERS, "x-shop-user") or name.startswith(RESERVED_PREFIXES)


def attack_of(seen: Seen) -> str:
    found = re.search(r"/n(\d+)", seen.path)
    return ATTACKS[int(found[1])].name if found else seen.path


def assert_custody(seen: Seen, *, tenant: list[str]) -> None:
    """Exactly these tenants, and nothing of the stranger's under any reserved name, trailers included."""
    name = attack_of(seen)
    assert seen.values("x-tenant-id") == tenant, (name, seen.headers)
    assert seen.values("x-user-id") == ["user-1"] * len(tenant), (name, seen.headers)
    for key, value in (*seen.headers, *seen.trailers):
        assert not (is_reserved(key) and "evil" in value), (name, key, value)
    proofs = seen.values("x-gateway-proof")
    assert len(proofs) <= 1, (name, proofs)


def route_of(seen: Seen) -> str:
    return seen.path.split("/")[1]


async def test_with_the_service_up(guarded: Gateway, origin: Origin) -> None:
    assert len(ATTACKS) > 200
    await run(guarded, ROUTES, bearer(token()), number_of=len(ATTACKS))
    assert {route_of(seen) for seen in origin.requests} == set(ROUTES)
    for seen in origin.requests:
        assert_custody(seen, tenant=[] if route_of(seen) == "public" else ["acme"])
    assert (
        len([seen for seen in origin.requests if route_of(seen) == "api"]) > 150
    )  # most attacks are harmless, not refused


async def test_without_a_credential(guarded: Gateway, origin: Origin) -> None:
    await run(guarded, ROUTES, ())
    assert {route_of(seen) for seen in origin.requests} == {"public", "maybe"}
    for seen in origin.requests:
        assert_custody(seen, tenant=[])


@pytest.fixture
async def down(guarded: Gateway) -> AsyncIterator[Gateway]:
    """The service is not there, and comes back afterwards."""
    guarded.services["extauthz"].stop()
    yield guarded
    await come_back(guarded)


async def come_back(gateway: Gateway) -> None:
    """Start the service again and wait until it decides, with nothing else done by anybody."""
    gateway.services["extauthz"].start()

    async def passes() -> bool:
        return (await gateway.request("GET", "/api/x", headers=bearer(token()))).status == 200

    await until("requests passing again", passes, within_s=20)


async def test_with_the_service_down(down: Gateway, origin: Origin) -> None:
    await run(down, ROUTES, bearer(token()))
    assert {route_of(seen) for seen in origin.requests} == {"public", "open"}
    for seen in origin.requests:
        assert_custody(seen, tenant=[])
        assert seen.values("x-envoy-auth-failure-mode-allowed") == []


@pytest.fixture
async def slow(guarded: Gateway) -> AsyncIterator[Gateway]:
    """The service is there, accepts connections, and answers nothing."""
    process = guarded.services["extauthz"].pid
    os.kill(process, signal.SIGSTOP)
    yield guarded
    os.kill(process, signal.SIGCONT)


async def test_with_the_service_slow(slow: Gateway, origin: Origin) -> None:
    await run(slow, ("api", "open"), bearer(token()))
    assert {route_of(seen) for seen in origin.requests} == {"open"}
    for seen in origin.requests:
        assert_custody(seen, tenant=[])


async def test_it_recovers_by_itself(guarded: Gateway, origin: Origin) -> None:
    """Down: 503 in the one shape. Up again: the same request passes, with nothing done by anybody."""
    guarded.services["extauthz"].stop()
    refused = await guarded.request("GET", "/api/x", headers=bearer(token()))
    assert (refused.status, refused.json()["code"]) == (503, "authorization_unavailable")
    await come_back(guarded)


# Row 15 and 33: credentials taken away or doubled.

CREDENTIALS = {
    "Connection takes the credential away": ((b"authorization: Bearer %t", b"connection: authorization"), {401}),
    "two tokens": ((b"authorization: Bearer %t", b"authorization: Bearer %t"), {401}),
    "two tokens in one header": ((b"authorization: Bearer %t, Bearer %t",), {401}),
    "a token in a cookie": ((b"cookie: authorization=Bearer %t; access_token=%t",), {401}),
    "a token in another header": ((b"x-authorization: Bearer %t", b"proxy-authorization: Bearer %t"), {401}),
    "a token with a byte more": ((b"authorization: Bearer %t\xff",), {400, 401}),
    "a token with padding": ((b"authorization: Bearer %t=",), {401}),
}


@pytest.mark.parametrize("case", CREDENTIALS)
async def test_a_credential_is_one_and_whole(guarded: Gateway, origin: Origin, case: str) -> None:
    lines, statuses = CREDENTIALS[case]
    honest = token().encode()
    head = b"\r\n".join(
        (b"GET /api/x HTTP/1.1", b"host: gateway.test", *(line.replace(b"%t", honest) for line in lines))
    )
    assert (await guarded.raw(head + b"\r\n\r\n")).status in statuses
    assert origin.requests == []


# Rows 16 to 21: one path, one meaning.

PATHS = (
    "//admin/x",
    "/public//admin/x",
    "/public/../admin/x",
    "/public/./../admin/x",
    "/public/..//admin/x",
    "/public/%2e%2e/admin/x",
    "/public/%2e./admin/x",
    "/public/.%2E/admin/x",
    "/public/..%2fadmin/x",
    "/public/%2e%2e%2fadmin/x",
    "/public/..%5cadmin/x",
    "/public/..\\admin/x",
    "/public\\..\\admin\\x",
    "/public/..;/admin/x",
    "/public/..;a=b/admin/x",
    "/public;/../admin/x",
    "/public/%2e%2e;/admin/x",
    "/public/.;/..;/admin/x",
    "/public/..%3b/admin/x",
    "/public/%252e%252e/admin/x",
    "/public/%252e%252e%252fadmin/x",
    "/public/..%00/admin/x",
    "/public/..%0d%0a/admin/x",
    "/public/..%c0%af../admin/x",
    "/public/%c0%ae%c0%ae/admin/x",
    "/public/..\u00e9/admin/x",
    "/public/x#/../../admin/x",
    "/public/x?/../../admin/x",
    "/admin/x?x=.css",
    "/admin/x;.css",
    "/admin/x#public",
    "/ADMIN/x",
    "/Admin/x",
    "/admin%2fx",
    "/%61dmin/x",
    "/admin./x",
    "/admin /x",
    "/admin%20/x",
    "/./admin/x",
    "/public/../../admin/x",
    "/public/....//admin/x",
    "/public/x/../../admin/x",
    "/public/x/..;/..;/admin/x",
    "/admin;/x",
    "/;/admin/x",
    "/public/;/../admin/x",
    "/public/%2f../admin/x",
    "/public/..%2f..%2fadmin/x",
)


def meanings(path: str) -> set[str]:
    """What services of different minds make of a path: decoded or not, parameters cut off or not, dots resolved."""
    plain = path.partition("?")[0].partition("#")[0]
    found = set()
    once = urllib.parse.unquote(plain, errors="replace")
    for text in (plain, once):
        for cut in (True, False):
            segments: list[str] = []
            for segment in text.replace("\\", "/").split("/"):
                name = segment.partition(";")[0] if cut else segment
                if name == "..":
                    del segments[-1:]
                elif name not in ("", "."):
                    segments.append(name)
            found.add("/" + "/".join(segments).lower())
    return found


@pytest.mark.parametrize("path", PATHS)
async def test_no_spelling_of_a_path_leads_around_its_policy(guarded: Gateway, origin: Origin, path: str) -> None:
    message = f"GET {path} HTTP/1.1\r\nhost: gateway.test\r\n\r\n".encode()
    with contextlib.suppress(client.ClosedError):
        await guarded.raw(message)
    for seen in origin.requests:
        assert not any(meaning.startswith("/admin") for meaning in meanings(seen.path)), seen.path
