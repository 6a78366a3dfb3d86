"""A child process with its log in a file: started, asked whether it lives, stopped by its own id."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_S = 10.0


class Process:
    """One child. Its output goes to `<folder>/<name>.log`, kept through restarts."""

    def __init__(self, name: str, argv: Sequence[str | Path], *, folder: Path, env: Mapping[str, str] | None = None):
        self.name = name
        self.argv = [str(part) for part in argv]
        self.log_path = folder / f"{name}.log"
        self._folder = folder
        self._env = {**os.environ, **(env or {})}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        if self.is_alive:
            raise RuntimeError(f"{self.name} already runs")
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, cwd=self._folder
            )
        return self

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return None if self._child is None else self._child.poll()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    def stop(self) -> None:
        """Ask to end, wait, then insist."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End at once, as a crash would."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait(_STOP_S)
