"""One process per folder: a file in it that is locked as long as the process lives, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockedError(Exception):
    """Another process holds it. `holder` is its id, as it said itself."""

    def __init__(self, file: Path, holder: str) -> None:
        super().__init__(f"{file} is held by process {holder}")
        self.holder = holder


def lock(file: Path) -> int:
    """Holds the file until the descriptor it returns is closed. Raises OSError, and LockedError naming the holder."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise LockedError(file, holder) from None
    except OSError:
        os.close(handle)
        raise
    return handle
