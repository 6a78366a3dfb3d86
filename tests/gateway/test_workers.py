"""Several workers of each of our services: clients do not notice that one dies, or that one knows nothing yet."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import client
from tests.support.client import Address
from tests.support.gateway import Gateway, causeway
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.process import Process
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway

PATHS = {"extauthz": "/checked", "ratelimit": "/limited"}
"""Each asks one of the services, and is refused without an answer."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Of each service the manifests' gateway knows three workers. The third of each is nowhere."""
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    others = [flag for name in PATHS for n in (2, 3) for flag in (f"--{name}", f"unix:{folder}/{name}-{n}.sock")]
    one = Gateway(folder, flags={"extauthz": ("--workers", "2"), "serve": tuple(others)})
    yield one
    one.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def workers(gateway: Gateway, origin: Origin) -> AsyncIterator[dict[str, Process]]:
    """The gateway serves; a second worker of the rate limit service, and more that a test starts, end with the test."""
    more = {"ratelimit-2": worker(gateway, "ratelimit", 2, "--xds", f"unix:{gateway.folder}/xds.sock").start()}
    try:
        await gateway.apply(manifest(origin))
        for name in ("extauthz", "extauthz-2", "ratelimit", "ratelimit-2"):
            await until(f"{name} ready", is_ready(gateway, name))
        for path in PATHS.values():
            await until(f"{path} served", lambda path=path: is_served(gateway, path))
        yield more
    finally:
        for process in more.values():
            process.stop()


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "identity": {
            "issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}},
            "timeout": "5s",  # a machine that has much to do is no worker that is away
        },
        "services": {"svc": {"endpoints": [origin.address]}},
        "limits": {"l": {"rate": "1000000/s", "by": "ip", "on_store_error": "deny"}},
        "routes": [
            {"path": PATHS["extauthz"], "service": "svc"},
            {"path": PATHS["ratelimit"], "service": "svc", "auth": "public", "limits": ["l"]},
        ],
    }


def worker(gateway: Gateway, service: str, number: int, *arguments: str) -> Process:
    name = f"{service}-{number}"
    where = ("--listen", f"unix:{gateway.folder}/{name}.sock", "--admin", f"unix:{admin(gateway, name)}")
    return Process(name, causeway(service, *where, *arguments), folder=gateway.folder)


def admin(gateway: Gateway, name: str) -> str:
    service, _, number = name.partition("-")
    return f"{gateway.folder}/{service}-admin{'-' if number else ''}{number}.sock"


def is_ready(gateway: Gateway, name: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        where = Address(path=admin(gateway, name))
        pages = ("/health/startup", "/health/ready")
        try:
            answers = [await client.request(where, "GET", page, host="localhost", timeout_s=2) for page in pages]
        except OSError:
            return False
        return all(answer.status == 200 for answer in answers)

    return ready


async def is_served(gateway: Gateway, path: str) -> bool:
    try:
        return (await gateway.request("GET", path, headers=bearer(token()))).status == 200
    except OSError:
        return False


async def page(where: Path, path: str) -> list[str]:
    """The lines of a page of an admin interface."""
    return (await client.request(Address(path=str(where)), "GET", path, host="localhost")).body.decode().splitlines()


async def stat(gateway: Gateway, service: str, name: str) -> int:
    """A counter of Envoy's about one of our services."""
    lines = await page(gateway.folder / "envoy.sock", f"/stats?filter=^cluster.causeway.{service}.{name}$")
    return sum(int(line.rpartition(" ")[2]) for line in lines)


async def asked(gateway: Gateway, name: str) -> int:
    """How many calls Envoy has made to one worker."""
    lines = await page(gateway.folder / "envoy.sock", "/clusters")
    return sum(int(line.rpartition("::")[2]) for line in lines if f"/{name}.sock::rq_total::" in line)


def pid_of(socket: str) -> int:
    """The worker that listens there: started with it as `--listen`, and not the one that starts others."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if f"unix:{socket}".encode() in words and b"--listen" in words and b"--workers" not in words:
            return int(path.parent.name)
    raise ProcessLookupError(socket)


def load(gateway: Gateway, service: str, connections: int = 3) -> Load:
    return Load(gateway.address, [PATHS[service]], headers=bearer(token()), connections=connections)


@pytest.mark.parametrize("service", PATHS)
async def test_both_are_asked(gateway: Gateway, workers: dict[str, Process], service: str) -> None:
    names = (service, f"{service}-2")
    before = [await asked(gateway, name) for name in names]
    async with load(gateway, service) as traffic:
        await traffic.more(200)
    assert not traffic.failures, traffic.first_failures
    assert all(now > was for now, was in zip([await asked(gateway, name) for name in names], before, strict=True))


@pytest.mark.parametrize("service", PATHS)
async def test_one_that_is_killed_is_not_noticed(gateway: Gateway, workers: dict[str, Process], service: str) -> None:
    second = f"{service}-2"
    async with load(gateway, service) as traffic:
        await traffic.more(100)
        os.kill(pid_of(f"{gateway.folder}/{second}.sock"), signal.SIGKILL)
        await traffic.more(200)
        if second in workers:
            workers[second].kill()
            workers[second].start()
        await until(f"{second} ready again", is_ready(gateway, second))
        await traffic.more(100)
    assert not traffic.failures, traffic.first_failures


@pytest.mark.parametrize("service", PATHS)
async def test_one_that_is_away_is_not_asked_each_time(
    gateway: Gateway, workers: dict[str, Process], service: str
) -> None:
    """It has the fewest requests, so it would be the first choice of each."""
    before = await stat(gateway, service, "upstream_rq_retry")
    async with load(gateway, service) as traffic:
        await traffic.more(1000)
    assert not traffic.failures, traffic.first_failures
    assert await stat(gateway, service, "upstream_rq_retry") - before < 250


@pytest.mark.parametrize("service", PATHS)
async def test_one_that_knows_nothing_yet_is_passed_over(
    gateway: Gateway, workers: dict[str, Process], service: str
) -> None:
    third = f"{service}-3"
    workers[third] = worker(gateway, service, 3, "--xds", f"unix:{gateway.folder}/nowhere.sock").start()
    await until(f"{third} listening", Path(f"{gateway.folder}/{third}.sock").exists)
    async with load(gateway, service) as traffic:
        await traffic.more(200)
        await until(f"{third} asked", lambda: asked(gateway, third))
    assert not traffic.failures, traffic.first_failures


async def test_all_of_them_away_they_are_asked_all_the_same(gateway: Gateway, workers: dict[str, Process]) -> None:
    """Each has been left out by then, which must not keep Envoy from finding that it is back."""
    names = ("extauthz", "extauthz-2")
    before = await stat(gateway, "extauthz", "lb_healthy_panic")
    async with load(gateway, "extauthz", connections=1) as traffic:
        await traffic.more(50)
        for name in names:
            os.kill(pid_of(f"{gateway.folder}/{name}.sock"), signal.SIGKILL)
        await traffic.more(50)
        for name in names:
            await until(f"{name} ready again", is_ready(gateway, name))
        assert await is_served(gateway, PATHS["extauthz"])
    assert set(traffic.outcomes) == {"200", "503"}
    assert await stat(gateway, "extauthz", "lb_healthy_panic") > before
