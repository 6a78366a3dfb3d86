"""What `causeway up` shows: one live screen on a terminal, plain lines elsewhere. It decides nothing."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from controlplane.cli.up.demo import Try
from controlplane.cli.up.status import ServiceRow, Summary
from controlplane.cli.up.supervisor import Event, Running, State
from serving.address import TcpAddress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_EVENTS = 8
_COLOURS = {State.RUNNING: "green", State.STARTING: "yellow", State.WAITING: "red", State.STOPPED: "dim"}


class Screen(Protocol):
    def tell(self, event: Event) -> None: ...
    def line(self, child: str, text: str) -> None: ...
    def ready(self, gateway: Sequence[TcpAddress], tries: Sequence[Try]) -> None: ...
    def show(self, running: Mapping[str, Running], summary: Summary | None) -> None: ...
    def close(self) -> None: ...


class PlainScreen:
    """One line per event, for pipes, logs and CI."""

    def __init__(self, write: Callable[[str], None], *, is_verbose: bool) -> None:
        self._write = write
        self._is_verbose = is_verbose
        self._summary: Summary | None = None

    def tell(self, event: Event) -> None:
        self._write(event.text)
        for text in map(spoken, event.lines):
            self._write(f"  {event.child} | {text}")

    def line(self, child: str, text: str) -> None:
        if self._is_verbose:
            self._write(f"{child} | {text}")

    def ready(self, gateway: Sequence[TcpAddress], tries: Sequence[Try]) -> None:
        for text in ready_lines(gateway, tries):
            self._write(text)

    def show(self, running: Mapping[str, Running], summary: Summary | None) -> None:
        """Says what changed since the last time."""
        if summary is None or summary == self._summary:
            return
        before, self._summary = self._summary or Summary(), summary
        if (summary.reloaded_at, summary.problems) != (before.reloaded_at, before.problems):
            if summary.problems:
                self._write("the manifests have problems, what was served before stays:")
                for problem in summary.problems:
                    self._write(f"  {problem}")
            elif summary.reloaded_at:
                self._write(f"{summary.routes} routes are served")
        known = {row.name: row for row in before.services}
        for row in summary.services:
            was = known.get(row.name)
            if was is None or (row.health, row.circuit) != (was.health, was.circuit):
                circuit = f"circuit {row.circuit.lower()}" if row.circuit else ""
                self._write(f"service {row.name}: {', '.join(filter(None, (row.health, circuit)))}")

    def close(self) -> None:
        pass


class LiveScreen:
    """A screen that is drawn again in place, and leaves its last state behind."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._clock = clock
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._ready: list[str] = ["starting ..."]
        self._live: Live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def tell(self, event: Event) -> None:
        self._events.append(event)

    def line(self, child: str, text: str) -> None:
        pass

    def ready(self, gateway: Sequence[TcpAddress], tries: Sequence[Try]) -> None:
        self._ready = ready_lines(gateway, tries)

    def show(self, running: Mapping[str, Running], summary: Summary | None) -> None:
        self._live.update(self._drawn(running, summary), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _drawn(self, running: Mapping[str, Running], summary: Summary | None) -> RenderableType:
        from rich.columns import Columns
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        processes = Table(
            "process", "state", "pid", "restarts", "for", box=None, title="processes", title_justify="left"
        )
        for name, one in running.items():
            since = f"{self._clock() - one.began_at:.0f} s" if one.pid else ""
            state = Text(one.state, style=_COLOURS[one.state])
            processes.add_row(name, state, str(one.pid or ""), str(one.restarts or ""), since)
        parts: list[RenderableType] = [Text("\n".join(self._ready)), Text("")]
        tables = [processes]
        if summary is not None and summary.services:
            services = Table("service", "health", "circuit", box=None, title="services", title_justify="left")
            for row in summary.services:
                services.add_row(row.name, row.health, _circuit(row))
            tables.append(services)
        parts.append(Columns(tables, padding=(0, 4)))
        if summary is not None:
            parts.append(Text(_summary_line(summary)))
            parts.extend(Text(f"  {problem}", style="red") for problem in summary.problems[:_EVENTS])
        parts.append(Text(""))
        for event in self._events:
            parts.append(Text(event.text, style="red" if event.is_bad else "dim"))
            parts.extend(Text(f"  {spoken(text)}", style="red") for text in event.lines[-3:])
        if any(one.pid for one in running.values()):
            parts.append(Text("Ctrl-C stops everything", style="dim"))
        return Group(*parts)


def ready_lines(gateway: Sequence[TcpAddress], tries: Sequence[Try]) -> list[str]:
    """The gateway's addresses as a person would open them, and what to try."""
    lines = [f"The gateway answers on http://{reachable(address)}" for address in gateway]
    if tries:
        lines.append("Try:")
    for one in tries:
        lines += [f"  # {one.text}", f"  {one.command}"]
    return lines


def reachable(address: TcpAddress) -> TcpAddress:
    """Where a client on this machine connects: 'every interface' is no destination."""
    return TcpAddress({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


def spoken(line: str) -> str:
    """A line of a child's log for people: of a JSON line what happened and why, anything else as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or "event" not in event:
        return line
    reason = event.get("error") or str(event.get("exception", "")).strip().rpartition("\n")[2]
    return f"{event['event']}: {reason}" if reason else str(event["event"])


def _summary_line(summary: Summary) -> str:
    parts = []
    if summary.routes is not None:
        parts.append(f"{summary.routes} routes")
    if summary.reloaded_at:
        parts.append(f"last reload {summary.reloaded_at}")
    if summary.problems:
        parts.append("the manifests have problems, what was served before stays:")
    return " · ".join(parts)


def _circuit(row: ServiceRow) -> RenderableType:
    from rich.text import Text

    colours = {"closed": "green", "open": "red", "half_open": "yellow"}
    retest = "" if row.retest_in_s is None else f", tested again in {row.retest_in_s:.0f} s"
    word = row.circuit.lower()
    return Text(word.replace("_", " ") + retest, style=colours.get(word, ""))
