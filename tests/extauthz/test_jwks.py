"""Published keys without a gateway: schedules, limits, the hard end of stale keys, and what is kept on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from extauthz.core.jwk import KeySet
from extauthz.jwks import FetchError, HttpFetcher, RemoteKeySource
from extauthz.policy import Issuer, RemoteKeys
from tests.extauthz.signing import jwk, key_set
from tests.support.waiting import free_port, until

KEYS = key_set(jwk("ES256")).encode()


def source_of(**settings: float) -> tuple[Issuer, RemoteKeys]:
    usual: dict[str, float] = {"refresh_s": 3600, "max_stale_s": 86_400, "unknown_kid_interval_s": 30}
    remote = RemoteKeys(url="http://issuer.test/jwks", **(usual | settings))  # type: ignore[arg-type]
    return Issuer(issuer="i", audiences=("a",), keys=remote), remote


class Away:
    """A fetch that answers what it is told."""

    def __init__(self, answer: bytes | None = KEYS) -> None:
        self.answer = answer
        self.count = 0

    async def __call__(self, source: RemoteKeys) -> bytes:
        self.count += 1
        if self.answer is None:
            raise FetchError("away")
        return self.answer


@asynccontextmanager
async def running(source: RemoteKeySource) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def made(fetch: Away, heard: list[KeySet | None], snapshot: Path | None = None, **settings: float) -> RemoteKeySource:
    issuer, remote = source_of(**settings)
    return RemoteKeySource("i", issuer, remote, lambda _, keys: heard.append(keys), fetch=fetch, snapshot=snapshot)


async def test_keys_end_at_the_hard_limit_and_come_back() -> None:
    fetch, heard = Away(), list[KeySet | None]()
    source = made(fetch, heard, refresh_s=1, max_stale_s=1)
    async with running(source):
        await until("the first keys", lambda: source.keys is not None)
        fetch.answer = None
        await until("their end", lambda: source.keys is None, within_s=5)
        assert heard[-1] is None
        fetch.answer = KEYS
        await until("their return", lambda: source.keys is not None, within_s=10)


async def test_ten_thousand_unknown_ids_are_one_fetch_more() -> None:
    fetch, heard = Away(), list[KeySet | None]()
    source = made(fetch, heard)
    async with running(source):
        await until("the first keys", lambda: source.keys is not None)
        for number in range(10_000):
            source.unknown_kid(f"kid-{number}")
            if number % 500 == 0:
                await asyncio.sleep(0)
        assert fetch.count <= 2


async def test_an_id_that_was_looked_for_is_not_looked_for_again() -> None:
    fetch, heard = Away(), list[KeySet | None]()
    source = made(fetch, heard, unknown_kid_interval_s=0.01)
    async with running(source):
        await until("the first keys", lambda: source.keys is not None)
        source.unknown_kid("gone")
        await until("a fetch for it", lambda: fetch.count == 2)
        for _ in range(20):
            source.unknown_kid("gone")
            await asyncio.sleep(0.005)
        assert fetch.count == 2
        source.unknown_kid("another")
        await until("a fetch for another", lambda: fetch.count == 3)


async def test_keys_on_disk_count_after_a_restart_for_the_same_url_only(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    first = made(Away(), [], file)
    async with running(first):
        await until("the keys on disk", file.exists)
    assert file.stat().st_mode & 0o077 == 0

    again = made(Away(None), [], file)
    again.restore()
    assert again.keys == first.keys

    old = json.loads(file.read_text())
    for change in ({"url": "http://elsewhere/jwks"}, {"fetched_at": 0}, {"jwks": "{"}, {"jwks": key_set()}):
        file.write_text(json.dumps(old | change))
        other = made(Away(None), [], file)
        other.restore()
        assert other.keys is None, change
    file.write_text("not JSON")
    made(Away(None), [], file).restore()


async def test_symmetric_keys_are_never_fetched() -> None:
    source = made(Away(key_set(jwk("HS256")).encode()), [])
    async with running(source):
        await until("a refusal", lambda: "symmetric" in source.problem)
        assert source.keys is None


# Over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def issuer() -> AsyncIterator[str]:
    port = free_port()

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def answer(request: web.Request) -> web.Response:
        bodies = {"/jwks": KEYS, "/huge": b" " * 300_000, "/error": KEYS}
        return web.Response(body=bodies[request.path], status=500 if request.path == "/error" else 200)

    app = web.Application()
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/slow", slow)
    for path in ("/jwks", "/huge", "/error"):
        app.router.add_get(path, answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


FETCHES = {
    "/jwks": "",
    "/redirect?to=/jwks": "",
    "/redirect?to=http://localhost:1/jwks": "another host",
    "/redirect?to=file:///etc/passwd": "another host",
    "/redirect?to=/redirect?to=/redirect": "",
    "/slow": "no answer",
    "/huge": "more than",
    "/error": "status 500",
    "/nowhere": "status 404",
}


@pytest.mark.parametrize("path", FETCHES)
async def test_a_fetch_has_limits(issuer: str, path: str) -> None:
    fetcher = HttpFetcher()
    source = RemoteKeys(url=issuer + path, timeout_s=0.5)
    try:
        if path in ("/jwks", "/redirect?to=/jwks"):
            assert await fetcher(source) == KEYS
        else:
            with pytest.raises(FetchError, match=FETCHES[path] or "."):
                await fetcher(source)
    finally:
        await fetcher.close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/jwks", "jwks.json", "http:// x"])
def test_only_http_is_a_url(url: str) -> None:
    with pytest.raises(ValueError):
        RemoteKeys(url=url)
