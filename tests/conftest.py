"""Fixtures for every test: real servers, started where first asked for."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.redis import Redis

# How long an example takes says something of the machine, nothing of the code.
settings.register_profile("causeway", deadline=None)
settings.load_profile("causeway")


def pytest_configure() -> None:
    """A run that is told to end, by a time limit for one, stops what it started."""

    def end(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="module")
def run_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets (108 bytes), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cw-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def origins() -> Iterator[Callable[..., Origin]]:
    """A maker of origins that live as long as the module: `origins("a")` is the same origin each time."""
    made: dict[str, Origin] = {}

    def make(name: str = "origin", **how: object) -> Origin:
        if name not in made:
            made[name] = Origin(name, **how)  # type: ignore[arg-type]
            made[name].start()
        return made[name]

    yield make
    for origin in made.values():
        origin.stop()


@pytest.fixture
def origin(origins: Callable[..., Origin]) -> Iterator[Origin]:
    """The module's one origin, with nothing told and nothing seen."""
    one = origins("origin")
    one.accept()
    one.forget()
    yield one
    one.forget()


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """The module's gateway. Each test applies the manifests it is about.

    A module that says `SHARES_GATEWAY = True` leaves nothing behind but manifests, and gets the one that others like
    it used: starting a gateway takes seconds.
    """
    if getattr(request.module, "SHARES_GATEWAY", False):
        yield request.getfixturevalue("shared_gateways").get()
        return
    one = Gateway(request.getfixturevalue("run_folder"))
    yield one
    one.stop()


class SharedGateways:
    """One gateway for many modules, replaced when a test has broken it."""

    def __init__(self) -> None:
        self._made: list[tuple[Gateway, Path]] = []

    def get(self) -> Gateway:
        if not self._made or not self._made[-1][0].is_whole:
            self.stop()
            folder = Path(tempfile.mkdtemp(prefix="cw-"))
            self._made.append((Gateway(folder), folder))
        return self._made[-1][0]

    def stop(self) -> None:
        while self._made:
            one, folder = self._made.pop()
            one.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_gateways() -> Iterator[SharedGateways]:
    """Where modules that share a gateway get it."""
    shared = SharedGateways()
    yield shared
    shared.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the gateway's processes said stands beside a failure."""
    report = yield
    one = getattr(item, "funcargs", {}).get("gateway")
    if report.failed and isinstance(one, Gateway) and (logs := one.logs()):
        report.sections.append(("the gateway's processes", logs))
    return report


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A real Redis for the whole run. Tests that share it use keys of their own or FLUSHALL first."""
    folder = Path(tempfile.mkdtemp(prefix="cw-redis-"))
    server = Redis(folder).start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
