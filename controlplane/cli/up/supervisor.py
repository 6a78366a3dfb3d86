"""Runs a table of child processes: starts them, restarts the ones that die, stops them all in time.

A child has a process group of its own, so that Ctrl-C on the terminal reaches the supervisor alone, which then stops in
order, and so that what a child started goes with it. On Linux children die when the supervisor does, even by SIGKILL.
It must not know what the children do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from serving.ads import Backoff
from serving.process import dying_with_parent

STEADY_S = 10.0  # a child that ran this long had started well: its next failure is a first one
TAIL_LINES = 20
LINE_BYTES = 64 << 10
LOG_BYTES = 16 << 20


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting to restart"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A program to keep running. `stop_first` is for who must stop before the others, `before_stop` its farewell."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path
    stop_first: bool = False
    before_stop: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a person wants to know. `lines` are the child's last ones."""

    child: str
    text: str
    is_bad: bool = False
    lines: tuple[str, ...] = ()


Tell = Callable[[Event], None]
Line = Callable[[str, str], None]


@dataclass(slots=True)
class Running:
    """One child's present."""

    child: Child
    state: State = State.STARTING
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    began_at: float = 0.0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None


class Supervisor:
    """`run()` keeps the children running until `stop` is set, then ends them all; it returns when none is left."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        logs: Path,
        tell: Tell,
        line: Line | None = None,
        backoff: Backoff | None = None,
        stop_within_s: float = 4.5,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.running = {child.name: Running(child) for child in children}
        self._logs = logs
        self._tell = tell
        self._line = line
        self._backoff = backoff or Backoff(first_s=0.5, most_s=30)
        self._stop_within_s = stop_within_s
        self._clock = clock
        self._share = share
        self._ending = False

    async def run(self, stop: asyncio.Event, at_once: asyncio.Event | None = None) -> None:
        """`at_once` cuts the farewell short: everything is killed."""
        keepers = [asyncio.create_task(self._keep(one)) for one in self.running.values()]
        try:
            await stop.wait()
        finally:
            self._ending = True
            ending = asyncio.create_task(self._end())
            if at_once is not None:
                hurry = asyncio.create_task(at_once.wait())
                await asyncio.wait([ending, hurry], return_when=asyncio.FIRST_COMPLETED)
                hurry.cancel()
            else:
                await asyncio.wait([ending])
            ending.cancel()
            self._signal_all(signal.SIGKILL)
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, ending, return_exceptions=True)
            await asyncio.gather(*(one.process.wait() for one in self.running.values() if one.process is not None))

    async def _keep(self, one: Running) -> None:
        failures = 0
        while not self._ending:
            one.began_at = self._clock()
            try:
                code = await self._live(one)
                reason = described(code)
            except OSError as failure:
                reason = f"cannot be started: {failure}"
            if self._ending:
                one.state = State.STOPPED
                return
            failures = 1 if self._clock() - one.began_at >= STEADY_S else failures + 1
            wait_s = self._backoff.wait_s(failures, self._share())
            one.state = State.WAITING
            one.restarts += 1
            text = f"{one.child.name} {reason}; restarting in {wait_s:.1f} s"
            self._tell(Event(child=one.child.name, text=text, is_bad=True, lines=tuple(one.tail)[-5:]))
            await asyncio.sleep(wait_s)

    async def _live(self, one: Running) -> int:
        """One life of a child, from its start to its end; its exit code."""
        one.state = State.STARTING
        one.tail.clear()
        # A pipe of our own: asyncio's is waited for with the process, as long as a grandchild keeps it open.
        output, written = os.pipe()
        reading = asyncio.create_task(self._read(one, output))
        try:
            one.process = process = await asyncio.create_subprocess_exec(
                *one.child.argv,
                env=dict(one.child.environ),
                cwd=one.child.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,
                preexec_fn=dying_with_parent(os.getpid()),
            )
        finally:
            os.close(written)
        one.state = State.RUNNING
        self._tell(Event(child=one.child.name, text=f"{one.child.name} started (process {process.pid})"))
        try:
            return await process.wait()
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # what the child had started
            await asyncio.wait([reading], timeout=1)  # its last words, also where the machine is busy
            reading.cancel()

    async def _read(self, one: Running, output: int) -> None:
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", buffering=0)
        )
        try:
            await self._copy(one, reader)
        finally:
            transport.close()

    async def _copy(self, one: Running, reader: asyncio.StreamReader) -> None:
        path = self._logs / f"{one.child.name}.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))
        with path.open("ab", buffering=0) as log:
            while True:
                try:
                    raw = await reader.readline()
                except ValueError:
                    continue  # longer than LINE_BYTES: left out
                if not raw:
                    return
                log.write(raw)
                text = raw.decode(errors="replace").rstrip()
                one.tail.append(text)
                if self._line is not None:
                    self._line(one.child.name, text)

    async def _end(self) -> None:
        ends = self._clock() + self._stop_within_s
        first = [one for one in self.running.values() if one.child.stop_first]
        rest = [one for one in self.running.values() if not one.child.stop_first]
        for group in (first, rest):
            await asyncio.gather(*(self._farewell(one) for one in group))
            for one in group:
                _signal(one, signal.SIGTERM)
            most_s = max(0.1, ends - self._clock()) * (0.5 if group is first else 1)
            waits = [asyncio.create_task(one.process.wait()) for one in group if one.process is not None]
            if waits:
                _, late = await asyncio.wait(waits, timeout=most_s)
                for wait in late:
                    wait.cancel()
        for one in self.running.values():
            if one.pid is not None:
                self._tell(
                    Event(child=one.child.name, text=f"{one.child.name} did not stop in time: killed", is_bad=True)
                )

    async def _farewell(self, one: Running) -> None:
        if one.child.before_stop is not None and one.pid is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(one.child.before_stop(), self._stop_within_s / 3)

    def _signal_all(self, number: signal.Signals) -> None:
        for one in self.running.values():
            if one.pid is not None and one.process is not None:
                _signal_group(one.process.pid, number)


def described(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _signal(one: Running, number: signal.Signals) -> None:
    """To the child alone: it tells its own children what it wants them to know."""
    if one.pid is not None and one.process is not None:
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(number)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
