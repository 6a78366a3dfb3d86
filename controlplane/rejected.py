"""The edit that a canary has refuted: remembered over restarts, so that it is not tried again and again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import structlog

_log = structlog.get_logger("controlplane.canary")
FILE_NAME = "rolled-back.json"


class Rejected:
    """The version of the last edit that was rolled back, and what was wrong with it. Kept in `folder`, if there is one.

    It saves an experiment that is known to fail, nothing more: a file that cannot be read or written is no error.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.version = ""
        self.problems: tuple[str, ...] = ()
        self._file = folder / FILE_NAME if folder is not None else None
        if self._file is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(self._file.read_text(encoding="utf-8"))
                self.version, self.problems = str(kept["version"]), tuple(map(str, kept["problems"]))

    def remember(self, version: str, problems: tuple[str, ...]) -> None:
        self.version, self.problems = version, problems
        if self._file is None:
            return
        draft = self._file.with_name(f".{FILE_NAME}.new")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps({"version": version, "problems": problems}), encoding="utf-8")
            os.replace(draft, self._file)
        except OSError as failure:
            _log.warning("cannot remember what was rolled back", file=str(self._file), error=str(failure))

    def forget(self) -> None:
        """Something else is served: it may be tried again."""
        if self.version and self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
        self.version, self.problems = "", ()
