"""Several workers of the authorization service as endpoints of their own, one of which dies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import client
from tests.support.client import Address
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway


@pytest.fixture
async def workers() -> AsyncIterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    flags = {"extauthz": ("--workers", "2"), "serve": ("--extauthz", f"unix:{folder}/extauthz-2.sock")}
    gateway = Gateway(folder, flags=flags)
    yield gateway
    await asyncio.to_thread(gateway.stop)
    shutil.rmtree(folder, ignore_errors=True)


async def decisions(gateway: Gateway, worker: str) -> float:
    """How many requests a worker has allowed."""
    answer = await client.request(Address(path=f"{gateway.folder}/{worker}.sock"), "GET", "/metrics", host="localhost")
    for line in answer.body.decode().splitlines():
        if line.startswith("causeway_extauthz_decisions_total") and 'reason="ok"' in line:
            return float(line.rpartition(" ")[2])
    return 0.0


async def is_ready(admin: str) -> bool:
    try:
        answer = await client.request(Address(path=admin), "GET", "/health/ready", host="localhost", timeout_s=2)
    except OSError:
        return False
    return answer.status == 200


def pid_of(socket: str) -> int:
    """The worker that listens there: the one that was started with it as `--listen`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if f"unix:{socket}".encode() in words and b"--listen" in words:
            return int(path.parent.name)
    raise ProcessLookupError(socket)


async def test_both_decide_and_one_that_dies_comes_back(workers: Gateway, origin: Origin) -> None:
    await workers.apply(
        {
            "identity": {"issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}}},
            "services": {"svc": {"endpoints": [origin.address]}},
            "routes": [{"path": "/**", "service": "svc"}],
        }
    )

    second = f"{workers.folder}/extauthz-admin-2.sock"
    for admin in (f"{workers.folder}/extauthz-admin.sock", second):
        await until("the worker ready", lambda admin=admin: is_ready(admin))

    async def ask() -> int:
        return (await workers.request("GET", "/x", headers=bearer(token()))).status

    async def is_served() -> bool:
        try:
            return await ask() == 200
        except OSError:
            return False

    await until("Envoy serving", is_served)
    assert set(await asyncio.gather(*(ask() for _ in range(60)))) == {200}
    assert await decisions(workers, "extauthz-admin") > 0
    assert await decisions(workers, "extauthz-admin-2") > 0
    os.kill(pid_of(f"{workers.folder}/extauthz-2.sock"), signal.SIGKILL)
    statuses = [await ask() for _ in range(40)]
    assert set(statuses) <= {200, 503}  # nobody passes who should not; Envoy asks the other worker where it still can
    assert statuses.count(200) > 20

    async def is_back() -> bool:
        try:
            answer = await client.request(
                Address(path=str(second)), "GET", "/health/ready", host="localhost", timeout_s=2
            )
        except OSError:
            return False
        return answer.status == 200

    await until("the worker started again", is_back)
    assert {await ask() for _ in range(20)} == {200}
