"""Where a running gateway keeps what it writes: sockets, logs and state, one folder per manifest folder.

A socket's path has at most 107 bytes, so the sockets move to a short folder of their own where the state folder's path
is long. Both are the owner's alone. A lock makes sure that one supervisor runs per folder.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from serving import lock as locking
from serving.address import SUN_PATH_BYTES, UnixAddress

_LONGEST_NAME = 24


class AlreadyRunningError(Exception):
    """Another supervisor runs the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    state: Path
    sockets: Path

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def socket(self, name: str) -> UnixAddress:
        return UnixAddress(self.sockets / f"{name}.sock")


def places(folder: Path, *, state: Path | None, environ: Mapping[str, str]) -> Places:
    """The places for `folder`'s gateway, made when missing. Raises OSError, also for a stranger's folder."""
    key = blake2b(os.fsencode(folder.resolve()), digest_size=4).hexdigest()
    if state is None:
        home = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        state = home / "causeway" / f"{folder.resolve().name}-{key}"
    state = state.absolute()
    _make_own(state)
    sockets = state / "run"
    if len(os.fsencode(sockets)) + 1 + _LONGEST_NAME > SUN_PATH_BYTES:
        sockets = Path(tempfile.gettempdir()) / f"causeway-{os.getuid()}-{key}"
    found = Places(state=state, sockets=sockets)
    for made in (sockets, found.logs):
        _make_own(made)
    return found


def lock(found: Places) -> int:
    """Holds the folder until the descriptor it returns is closed. Raises AlreadyRunningError naming the holder."""
    try:
        return locking.lock(found.state / "lock")
    except locking.LockedError as other:
        raise AlreadyRunningError(f"this folder's gateway is already running (process {other.holder})") from None


def _make_own(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of yours; choose another with --state")
