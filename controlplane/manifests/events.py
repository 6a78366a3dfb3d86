"""What the operating system tells of folders: that something moved, and which files are in place whole.

A file is whole when its writer has closed it, or when it was renamed to its place, and nothing was written to it since
(inotify(7)). Where there are no events (network file systems, some containers, no watches left) nothing is told, and
nothing is whole: the caller looks by itself after a while. It must not know what the files are for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress

from inotify_simple import INotify, flags

_IN_PLACE = flags.CLOSE_WRITE | flags.MOVED_TO
_IN_WORK = flags.CREATE | flags.MODIFY | flags.DELETE | flags.MOVED_FROM
_ITSELF = flags.DELETE_SELF | flags.MOVE_SELF
_MASK = _IN_PLACE | _IN_WORK | _ITSELF | flags.ATTRIB | flags.ONLYDIR
_MOST_WHOLE = 10_000
_GATHER_S = 0.001  # a save is several events


class FolderEvents:
    """Follows folders from an event loop. `close` ends it."""

    def __init__(self) -> None:
        self._moved = asyncio.Event()
        self._folders: dict[int, str] = {}
        self._whole: set[str] = set()
        self._inotify: INotify | None = None

    def open(self) -> None:
        """Begins; without anything to listen to yet. Where the system has no more watches to give, nothing happens."""
        with suppress(OSError):
            self._inotify = INotify(nonblocking=True)
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._read)

    def close(self) -> None:
        """Stops listening."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def listen(self, folders: Iterable[str]) -> None:
        """Follows these folders, named by their real paths, and no others. One that is new counts as a move."""
        if self._inotify is None:
            return
        wanted: dict[int, str] = {}
        for folder in folders:
            with suppress(OSError):  # it went away, or the system has no watches left
                wanted[self._inotify.add_watch(folder, _MASK)] = folder
        for gone in self._folders.keys() - wanted.keys():
            with suppress(OSError):
                self._inotify.rm_watch(gone)
        if wanted.keys() - self._folders.keys():
            self._moved.set()  # what changed before we listened is not told
        self._folders = wanted

    async def moved(self, *, within_s: float) -> bool:
        """Returns when something has moved since the last time: True; False when nothing did for so long."""
        # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._moved.wait()
                await asyncio.sleep(_GATHER_S)
        self._read()
        has_moved = self._moved.is_set()
        self._moved.clear()
        return has_moved

    def is_calm(self) -> bool:
        """Whether it is known that nothing has moved since `moved` was asked last."""
        self._read()
        return self._inotify is not None and not self._moved.is_set()

    def is_whole(self, path: str) -> bool:
        """Whether the file of that real path is in place as its writer wants it."""
        return path in self._whole

    def _read(self) -> None:
        if self._inotify is None:
            return
        for watch, mask, _, name in self._inotify.read(timeout=0):
            self._moved.set()
            if mask & flags.Q_OVERFLOW or len(self._whole) > _MOST_WHOLE:
                self._whole.clear()
            path = os.path.join(self._folders.get(watch, ""), name)
            if mask & _IN_PLACE:
                self._whole.add(path)
            elif mask & _IN_WORK:
                self._whole.discard(path)
            if mask & flags.IGNORED:
                self._folders.pop(watch, None)
