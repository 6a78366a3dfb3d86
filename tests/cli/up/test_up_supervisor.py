"""The supervisor over real processes: restart with the reason, stop in time, nothing left behind."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controlplane.cli.up.supervisor import Child, Event, State, Supervisor, described
from serving.ads import Backoff

QUICK = Backoff(first_s=0.02, most_s=0.05)
READY = "import signal, sys, time; print('ready', flush=True); "
FOREVER = READY + "time.sleep(60)"


def child(name: str, code: str, *, folder: Path, stop_first: bool = False) -> Child:
    return Child(
        name=name,
        argv=(sys.executable, "-c", code),
        environ=dict(os.environ),
        folder=folder,
        stop_first=stop_first,
    )


class Watch:
    """Collects events and lines, and waits for a condition on them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lines: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def tell(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def line(self, name: str, text: str) -> None:
        self.lines.append((name, text))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def supervised(
    *children: Child, logs: Path, within_s: float = 4.5
) -> AsyncIterator[tuple[Supervisor, Watch, asyncio.Event]]:
    watch, stop = Watch(), asyncio.Event()
    supervisor = Supervisor(
        children, logs=logs, tell=watch.tell, line=watch.line, backoff=QUICK, stop_within_s=within_s
    )
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield supervisor, watch, stop
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)
        assert all(one.pid is None for one in supervisor.running.values())


async def test_a_child_that_dies_is_named_with_its_reason_and_last_lines_and_comes_back(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('no such table: users', file=sys.stderr); sys.exit(3)"
    async with supervised(
        child("bad", code, folder=tmp_path), child("good", FOREVER, folder=tmp_path), logs=tmp_path
    ) as (supervisor, watch, _):
        await watch.until(lambda: supervisor.running["bad"].restarts >= 2)
        await watch.until(lambda: ("good", "ready") in watch.lines)
        died = next(event for event in watch.events if event.is_bad)
        assert died.text.startswith("bad ended with exit code 3; restarting in 0.0")
        assert set(died.lines) == {"out", "no such table: users"}
        assert supervisor.running["good"].restarts == 0
        assert supervisor.running["good"].state == State.RUNNING
    assert "no such table: users" in (tmp_path / "bad.log").read_text()


async def test_a_program_that_is_missing_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    missing = Child(name="gone", argv=("/no/such/program",), environ={}, folder=tmp_path)
    async with supervised(missing, child("good", FOREVER, folder=tmp_path), logs=tmp_path) as (supervisor, watch, _):
        await watch.until(lambda: any("cannot be started" in event.text for event in watch.events))
        await watch.until(lambda: ("good", "ready") in watch.lines)
        assert supervisor.running["good"].pid is not None


async def test_a_child_killed_by_a_signal_is_restarted_with_another_process(tmp_path: Path) -> None:
    async with supervised(child("one", FOREVER, folder=tmp_path), logs=tmp_path) as (supervisor, watch, _):
        await watch.until(lambda: ("one", "ready") in watch.lines)
        before = supervisor.running["one"].pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await watch.until(lambda: watch.lines.count(("one", "ready")) == 2)
        assert supervisor.running["one"].pid not in (None, before)
        assert any("one was killed by SIGKILL" in event.text for event in watch.events)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(FOREVER, id="a child that ends at SIGTERM"),
        pytest.param(
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER,
            id="a child that ignores SIGTERM",
        ),
    ],
)
async def test_stopping_ends_every_child_in_time(tmp_path: Path, code: str) -> None:
    loop = asyncio.get_running_loop()
    async with supervised(
        child("first", FOREVER, folder=tmp_path, stop_first=True),
        child("one", code, folder=tmp_path),
        logs=tmp_path,
        within_s=0.5,
    ) as (_, watch, stop):
        await watch.until(lambda: len(watch.lines) == 2)
        began = loop.time()
        stop.set()
    assert loop.time() - began < 2


async def test_a_child_stops_first_after_its_farewell(tmp_path: Path) -> None:
    said: list[str] = []
    farewell = asyncio.Event()

    async def goodbye() -> None:
        said.append("goodbye")
        farewell.set()

    note = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('term', flush=True), sys.exit(0))); "
        + FOREVER
    )
    first = child("first", note, folder=tmp_path)
    first = Child(
        name="first", argv=first.argv, environ=first.environ, folder=tmp_path, stop_first=True, before_stop=goodbye
    )
    async with supervised(child("last", note, folder=tmp_path), first, logs=tmp_path) as (_, watch, stop):
        await watch.until(lambda: len(watch.lines) == 2)
        stop.set()
        await farewell.wait()
    assert [name for name, text in watch.lines if text == "term"] == ["first", "last"]
    assert said == ["goodbye"]


async def test_what_a_dead_child_had_started_goes_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(p.pid, flush=True)"
    )
    async with supervised(child("one", code, folder=tmp_path), logs=tmp_path) as (supervisor, watch, _):
        await watch.until(lambda: len(watch.lines) >= 1)
        grandchild = os.pidfd_open(int(watch.lines[0][1]))
        await watch.until(lambda: supervisor.running["one"].restarts >= 1)
        assert select.select([grandchild], [], [], 5)[0]


async def test_a_line_longer_than_any_buffer_ends_nothing(tmp_path: Path) -> None:
    code = "print('x' * 300_000, flush=True); " + FOREVER
    async with supervised(child("one", code, folder=tmp_path), logs=tmp_path) as (supervisor, watch, _):
        await watch.until(lambda: ("one", "ready") in watch.lines)
        assert supervisor.running["one"].restarts == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (7, "ended with exit code 7"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by signal 99"),
    ],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert described(code) == words


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_killing_the_supervisor_leaves_no_child(tmp_path: Path) -> None:
    code = f"""
        import asyncio, os, sys
        from pathlib import Path
        from controlplane.cli.up.supervisor import Child, Supervisor
        folder = Path({str(tmp_path)!r})
        argv = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
        one = Child(name="one", argv=argv, environ=dict(os.environ), folder=folder)
        supervisor = Supervisor([one], logs=folder, tell=lambda e: None, line=lambda n, t: print(t, flush=True))
        asyncio.run(supervisor.run(asyncio.Event()))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        left = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert select.select([left], [], [], 5)[0], "the child is still running"
