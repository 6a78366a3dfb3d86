"""serving.admin over real HTTP: probes, metrics, JSON routes, and what a foreign web page cannot do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from serving.address import UnixAddress, parse_address
from serving.admin import Admin


@asynccontextmanager
async def running(admin: Admin) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    bound = await admin.start(parse_address("127.0.0.1:0"))
    try:
        async with aiohttp.ClientSession() as session:
            yield session, f"http://{bound}"
    finally:
        await admin.stop()


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


async def test_ready_fails_with_the_reason_while_a_check_fails_and_live_does_not() -> None:
    reasons: dict[str, str | None] = {"policy": "not received yet", "store": None}

    async def store() -> str | None:
        return reasons["store"]

    admin = Admin("testing", checks={"policy": lambda: reasons["policy"], "store": store})
    async with running(admin) as (session, base):
        for path in ("/health", "/health/ready"):
            async with session.get(base + path) as response:
                assert response.status == 503
                shown = await response.json()
                assert (shown["status"], shown["process"]) == ("unavailable", "testing")
                assert shown["checks"] == {"policy": "not received yet", "store": "ok"}
        assert await status(session, base + "/health/live") == 200
        reasons["policy"] = None
        assert await status(session, base + "/health/ready") == 200
        reasons["store"] = "connection refused"
        assert await status(session, base + "/health/ready") == 503


async def test_a_check_that_raises_or_hangs_is_a_failing_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.admin.CHECK_TIMEOUT_S", 0.02)

    def broken() -> str | None:
        raise RuntimeError("no")

    async def hanging() -> str | None:
        await asyncio.Event().wait()
        return None

    admin = Admin("testing", checks={"broken": broken, "hanging": hanging})
    assert await admin.failing() == {"broken": "RuntimeError: no", "hanging": "no answer within 0.02 s"}


async def test_startup_answers_once_started_was_called() -> None:
    admin = Admin("testing")
    async with running(admin) as (session, base):
        assert await status(session, base + "/health/startup") == 503
        admin.started()
        assert await status(session, base + "/health/startup") == 200


async def test_metrics_are_in_the_text_format() -> None:
    registry = CollectorRegistry()
    Counter("testing_things", "Things.", registry=registry).inc(3)
    async with running(Admin("testing", registry=registry)) as (session, base), session.get(base + "/metrics") as got:
        assert "testing_things_total 3.0" in await got.text()
        assert got.headers["Content-Type"].startswith("text/plain")


async def test_json_routes_answer_values_and_whole_responses() -> None:
    admin = Admin("testing")

    async def echo(request: web.Request) -> object:
        return {"got": await request.json()}

    admin.get("/status", lambda request: {"routes": 3})
    admin.post("/echo", echo)
    admin.get("/teapot", lambda request: web.Response(status=418))
    async with running(admin) as (session, base):
        async with session.get(base + "/status") as response:
            assert await response.json() == {"routes": 3}
        async with session.post(base + "/echo", json=[1]) as response:
            assert await response.json() == {"got": [1]}
        assert await status(session, base + "/teapot") == 418


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        pytest.param("GET", {}, 200, id="a plain request"),
        pytest.param("GET", {"Host": "localhost"}, 200, id="localhost without a port"),
        pytest.param("GET", {"Host": "evil.example"}, 403, id="a name that was rebound to loopback"),
        pytest.param("GET", {"Host": "evil.example:80"}, 403, id="the same with a port"),
        pytest.param("POST", {}, 200, id="a post from a tool"),
        pytest.param("POST", {"Origin": "http://evil.example"}, 403, id="a post from another site's page"),
        pytest.param("POST", {"Origin": "null"}, 403, id="a post from a sandboxed page"),
        pytest.param(
            "POST", {"Host": "localhost:9", "Origin": "http://localhost:9"}, 200, id="a post from our own page"
        ),
    ],
)
async def test_a_web_page_of_another_site_reads_and_changes_nothing(
    method: str, headers: dict[str, str], expected: int
) -> None:
    admin = Admin("testing")
    admin.get("/x", lambda request: 1)
    admin.post("/x", lambda request: 1)
    async with running(admin) as (session, base), session.request(method, base + "/x", headers=headers) as response:
        assert response.status == expected


async def test_it_listens_on_a_unix_socket_of_its_owner_alone(tmp_path: Path) -> None:
    admin, path = Admin("testing"), tmp_path / "a.sock"
    await admin.start(UnixAddress(path))
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert await status(session, "http://admin/health/live") == 200
    finally:
        await admin.stop()
