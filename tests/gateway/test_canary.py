"""Edits go to one of three Envoys first: what does well there goes on, what does not touches only that one.

The Envoys share one port: the kernel spreads connections over them. What each of them did, its own counters say.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.cli.bootstrap import ENVOY_ARGUMENTS
from tests.support.behaviour import Answer
from tests.support.client import Address, request
from tests.support.envoy import Envoy
from tests.support.gateway import causeway
from tests.support.origin import Origin
from tests.support.process import Process
from tests.support.tokens import AUDIENCE, ISSUER, SECRET
from tests.support.waiting import free_port, until
from tests.support.wire import ClosedError

pytestmark = pytest.mark.gateway
NAMES = ("envoy-1", "envoy-2", "envoy-3")


class Trio:
    """A control plane and three Envoys."""

    def __init__(self, folder: Path, *flags: str):
        self.folder = folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.port = free_port()
        sockets = ",".join(f"unix:{folder}/{name}.sock" for name in NAMES)
        where = ("--xds", f"unix:{folder}/xds.sock", "--admin", f"unix:{folder}/admin.sock")
        argv = causeway("serve", self.manifests, *where, "--state", folder / "state", "--envoy-admin", sockets, *flags)
        self.control_plane = Process("serve", argv, folder=folder)
        self.services = [self._extauthz()] if "--extauthz" in flags else []
        self.envoys = {name: self._envoy(name) for name in NAMES}
        self._ended: set[str] = set()

    def _extauthz(self) -> Process:
        where = ("--listen", f"unix:{self.folder}/extauthz.sock", "--xds", f"unix:{self.folder}/xds.sock")
        own = ("--admin", f"unix:{self.folder}/extauthz-admin.sock", "--state", self.folder / "extauthz-state")
        return Process("extauthz", causeway("extauthz", *where, *own), folder=self.folder)

    def _envoy(self, name: str) -> Envoy:
        where = ("--xds", f"unix:{self.folder}/xds.sock", "--admin", f"unix:{self.folder}/{name}.sock")
        file = self.folder / f"{name}.json"
        argv = causeway("bootstrap", *where, "--node-id", name, "--format", "json", "--output", file)
        subprocess.run(argv, check=True, timeout=60)
        return Envoy(file, *ENVOY_ARGUMENTS, folder=self.folder, name=name)

    def write(
        self, services: dict[str, Origin], *, also: tuple[int, ...] = (), auth: object = "public", **routes: str
    ) -> None:
        """The manifest: a service per origin, a route per path; `also` are further listeners."""
        manifest = {
            "identity": {"issuers": {"main": {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}}},
            "gateway": {"listeners": [{"port": port, "address": "127.0.0.1"} for port in (self.port, *also)]},
            "services": {
                name: {"endpoints": [origin.address], "retry": {"attempts": 0}} for name, origin in services.items()
            },
            "routes": [{"path": f"/{name}", "service": to, "auth": auth} for name, to in routes.items()],
        }
        draft = self.manifests / ".draft"
        draft.write_text(yaml.safe_dump(manifest, sort_keys=False))
        draft.replace(self.manifests / "gateway.yaml")

    async def start(self) -> None:
        for process in (self.control_plane, *self.services):
            process.start()
        for envoy in self.envoys.values():
            await asyncio.to_thread(envoy.start)
        await self.synced()

    def stop(self) -> None:
        for envoy in self.envoys.values():
            envoy.stop()
        for process in (*self.services, self.control_plane):
            process.stop()

    async def status(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any] | None:
            assert self.control_plane.is_alive, self.control_plane.tail()
            try:
                answer = await request(Address(path=f"{self.folder}/admin.sock"), "GET", "/status", host="localhost")
            except (OSError, ClosedError):
                return None
            found: dict[str, Any] = answer.json()
            return found

        found = await until("the control plane answering", ask, within_s=60)
        assert found is not None
        return found

    async def synced(self) -> None:
        async def are_all() -> bool:
            clients = (await self.status())["clients"]
            return len(clients) == len(NAMES) + len(self.services) and all(
                one["verdict"] == "synced" for one in clients
            )

        await until("all synced", are_all, within_s=60)

    async def canary(self, *states: str) -> dict[str, Any]:
        """The canary, when it has one of these states. One whose end was seen is not seen again."""

        async def found() -> dict[str, Any] | None:
            course = (await self.status())["canary"]
            is_it = course is not None and course["state"] in states and course["revision"] not in self._ended
            return course if is_it else None

        course = await until(f"a canary {' or '.join(states)}", found, within_s=30)
        assert course is not None
        if course["is_over"]:
            self._ended.add(course["revision"])
        return course

    async def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = causeway(verb, "--admin", f"unix:{self.folder}/admin.sock", *arguments)
        return await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=90)

    async def answers(self, path: str, count: int = 30) -> set[int]:
        """The statuses of so many requests, each on a connection of its own."""
        found = [await request(Address(port=self.port), "GET", path) for _ in range(count)]
        return {one.status for one in found}

    async def failures(self) -> dict[str, int]:
        """How many requests each Envoy answered with 5xx."""
        counted = {name: await envoy.stats(r"^http\..*downstream_rq_5xx$") for name, envoy in self.envoys.items()}
        return {
            name: sum(count for stat, count in found.items() if not stat.startswith("http.admin"))
            for name, found in counted.items()
        }

    @asynccontextmanager
    async def busy(self, path: str) -> AsyncIterator[None]:
        """Requests, one connection each, as long as the block lasts."""

        async def ask() -> None:
            while True:
                await request(Address(port=self.port), "GET", path)
                await asyncio.sleep(0.01)

        workers = [asyncio.create_task(ask()) for _ in range(3)]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def test_edits_are_tried_on_one_envoy_first(run_folder: Path, origins: Callable[..., Origin]) -> None:
    """One story: four processes are slow to start."""
    good, failing = origins("good"), origins("failing")
    failing.always(Answer(status=503))
    services = {"good": good}
    trio = Trio(run_folder, "--canary", "1", "--canary-watch", "2s")
    trio.write(services, a="good")
    try:
        await trio.start()
        assert await trio.answers("/a") == {200}

        # An edit that does well: first one Envoy has it, then all.
        async with trio.busy("/a"):
            trio.write(services, a="good", b="good")
            course = await trio.canary("watching")
            assert len(course["cohort"]) == 1
            clients = {one["id"]: one["verdict"] for one in (await trio.status())["clients"]}
            assert {name for name, verdict in clients.items() if verdict == "canary"} == set(course["cohort"])
            assert await trio.answers("/b") == {200, 404}, "some have it, the others do not"
            shown = (await trio.run("status")).stdout
            assert f"canary of revision {course['revision']}: watching" in shown
            assert course["cohort"][0] in shown
            served = await trio.canary("served")
        assert served["requests"]["canary"]["completed"] > 0
        await trio.synced()
        assert await trio.answers("/b") == {200}
        assert sum((await trio.failures()).values()) == 0

        # An edit that every Envoy accepts and whose requests fail: one Envoy answers 503 for a moment, no other does.
        both = {**services, "bad": failing}
        async with trio.busy("/a"):
            trio.write(both, a="bad", b="good")
            undone = await trio.canary("rolled back")
        assert "of the canary's" in undone["reason"]
        assert "service bad 503" in undone["reason"]
        assert any(place.startswith("gateway.yaml:") for place in undone["changed"])
        await trio.synced()
        assert await trio.answers("/a") == {200}
        failures = await trio.failures()
        assert {name for name, count in failures.items() if count} == set(undone["cohort"])
        told = await trio.run("status")
        assert told.returncode == 1
        assert "rolled back: " in told.stdout
        assert "changed were gateway.yaml:" in told.stdout

        # It is not tried again, not by an edit that changes nothing, and not by a restart; `apply` insists.
        (trio.manifests / "gateway.yaml").open("a").write("# nothing\n")
        before = (await trio.status())["reload"]["at"]
        await until("it was read again", lambda: _is_newer(trio, before))
        assert (await trio.status())["reload"]["outcome"] == "rolled back"
        trio.control_plane.kill()
        trio.control_plane.start()
        await trio.synced()
        status = await trio.status()
        assert status["reload"]["outcome"] == "rolled back"
        assert status["source"] == "last known good"
        assert status["canary"] is None
        assert await trio.answers("/a") == {200}
        async with trio.busy("/a"):
            insisted = await trio.run("apply", "--wait", "--json")
        assert insisted.returncode == 1
        assert json.loads(insisted.stdout)["outcome"] == "rolled back"

        # One that the Envoy refuses: nobody else hears of it.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            trio.write(services, also=(taken.getsockname()[1],), a="good", b="good", c="good")
            refused = await trio.canary("rolled back")
        assert "in use" in refused["reason"]
        assert "gateway.yaml:" in refused["reason"]
        rejected = {name: await envoy.stats("lds.update_rejected$") for name, envoy in trio.envoys.items()}
        assert {name for name, one in rejected.items() if sum(one.values())} == set(refused["cohort"])
        assert await trio.answers("/c") == {404}

        # A person decides, either way.
        trio.write(services, a="good", b="good", d="good")
        await trio.canary("watching")
        promoted = await trio.run("apply", "--promote", "--wait")
        assert promoted.returncode == 0, promoted.stderr
        assert "promoted by hand" in promoted.stdout
        assert await trio.answers("/d") == {200}
        trio.write(services, a="good", b="good", d="good", e="good")
        await trio.canary("watching")
        aborted = await trio.run("apply", "--abort", "--wait")
        assert aborted.returncode == 0, aborted.stderr
        assert await trio.answers("/e") == {404}
        assert (await trio.run("apply", "--promote")).returncode == 1, "nothing is on trial"

        # A newer edit takes the place of the one on trial; to all at once it goes when that is asked for.
        trio.write(services, a="good", f="good")
        first = await trio.canary("watching")
        trio.write(services, a="good", g="good")
        await until("the newer on trial", lambda: _is_other(trio, first["revision"]))
        at_once = await trio.run("apply", "--canary", "no", "--wait")
        assert at_once.returncode == 0, at_once.stderr
        assert await trio.answers("/g") == {200}
        assert await trio.answers("/f") == {404}

        # Killed in the middle, and started again with files that cannot be used: what was good is served.
        trio.write(services, a="good", g="good", h="good")
        await trio.canary("watching")
        trio.control_plane.kill()
        (trio.manifests / "gateway.yaml").write_text("routes: [")
        trio.control_plane.start()
        await trio.synced()
        assert (await trio.status())["source"] == "last known good"
        assert await trio.answers("/h") == {404}
        assert await trio.answers("/g") == {200}

        # Killed and started again with the edit still there: it is tried from the beginning, and served.
        trio.control_plane.kill()
        trio.write(services, a="good", g="good", h="good")
        trio.control_plane.start()
        await trio.canary("served")
        await trio.synced()
        assert await trio.answers("/h") == {200}
    finally:
        trio.stop()


async def test_other_authentication_is_tried_on_one_envoy_and_the_others_ask_as_before(
    run_folder: Path, origins: Callable[..., Origin]
) -> None:
    """The service knows what the routes of both ask for, in either direction. An Envoy that hangs is no proof."""
    folder, services = run_folder / "auth", {"good": origins("good")}
    folder.mkdir()
    flags = ("--canary", "1", "--canary-watch", "10m", "--extauthz", f"unix:{folder}/extauthz.sock")
    trio = Trio(folder, *flags)
    trio.write(services, a="good")
    try:
        await trio.start()
        assert await trio.answers("/a") == {200}
        for auth, before, after in (({"roles": ["admin"]}, 200, 401), ("public", 401, 200)):
            trio.write(services, auth=auth, a="good")
            course = await trio.canary("watching")
            assert await trio.answers("/a", 60) == {before, after}
            stats = {name: await envoy.stats("ext_authz.error$") for name, envoy in trio.envoys.items()}
            assert not any(sum(one.values()) for one in stats.values()), "nobody names a policy that is not there"
            assert (await trio.run("apply", "--promote", "--wait")).returncode == 0
            assert await trio.answers("/a") == {after}
            assert (await trio.status())["revision"] == course["revision"]

        # One that is stopped while it has the change keeps its connection, and answers nobody.
        trio.write(services, auth="public", a="good", b="good")
        (stopped,) = (await trio.canary("watching"))["cohort"]
        os.kill(trio.envoys[stopped].process.pid, signal.SIGSTOP)
        try:
            assert "has stopped answering" in (await trio.canary("rolled back"))["reason"]
        finally:
            os.kill(trio.envoys[stopped].process.pid, signal.SIGCONT)
    finally:
        trio.stop()


async def _has_read(trio: Trio) -> bool:
    return (await trio.status())["reload"] is not None


async def _is_newer(trio: Trio, before: str) -> bool:
    return bool((await trio.status())["reload"]["at"] > before)


async def _is_other(trio: Trio, revision: str) -> bool:
    return bool((await trio.status())["canary"]["revision"] != revision)


async def test_a_canary_of_one_who_serves_edits_to_all_is_refused_with_what_to_do(
    run_folder: Path, origins: Callable[..., Origin]
) -> None:
    folder = run_folder / "other"
    folder.mkdir()
    trio = Trio(folder)
    trio.write({"good": origins("good")}, a="good")
    trio.control_plane.start()
    try:
        await until("the manifests read", lambda: _has_read(trio))
        refused = await trio.run("apply", "--canary", "1")
        assert refused.returncode == 1
        assert "causeway serve --canary 10%" in refused.stderr
    finally:
        trio.stop()


async def test_who_waits_for_a_canary_without_envoys_is_told_so_in_time(
    run_folder: Path, origins: Callable[..., Origin]
) -> None:
    folder, services = run_folder / "alone", {"good": origins("good")}
    folder.mkdir()
    trio = Trio(folder, "--canary", "1")
    trio.write(services, a="good")
    trio.control_plane.start()
    try:
        await until("the manifests read", lambda: _has_read(trio))
        trio.write(services, a="good", b="good")
        await trio.canary("waiting for an Envoy")
        for asked in ((), ("--canary", "1")):
            waited = await trio.run("apply", "--wait", "--timeout", "1", *asked)
            assert waited.returncode == 3
            assert waited.stderr == "on trial: no Envoy is connected to try it on\n"
        assert (await trio.status())["canary"]["state"] == "waiting for an Envoy"
    finally:
        trio.stop()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        pytest.param(("--canary", "some"), "expected a number of Envoys or a share such as 10%", id="a size"),
        pytest.param(("--canary", "1", "--canary-watch", "long"), "expected a duration such as 10s", id="a duration"),
    ],
)
async def test_a_wrong_setting_ends_the_start(run_folder: Path, flags: tuple[str, ...], problem: str) -> None:
    argv = causeway("serve", run_folder, *flags)
    ended = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert problem in ended.stderr
