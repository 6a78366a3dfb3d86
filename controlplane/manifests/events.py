"""What the operating system tells of folders: that something moved, and which files are in place whole.

A file is whole when its writer has closed it, or when it was renamed to its place, and nothing was written to it since
(inotify(7)). Where there are no events (network file systems, some containers, no watches left) nothing is told, and
nothing is whole: the caller looks by itself after a while. It must not know what the files are for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from inotify_simple import INotify, flags

_IN_PLACE = flags.CLOSE_WRITE | flags.MOVED_TO
_COMES = flags.CREATE | flags.MOVED_TO
_COMES_OR_GOES = _COMES | flags.DELETE | flags.MOVED_FROM
_NOT_WHOLE = flags.CREATE | flags.MODIFY | flags.DELETE | flags.MOVED_FROM
_ITSELF = flags.DELETE_SELF | flags.MOVE_SELF
_MASK = _IN_PLACE | _NOT_WHOLE | _ITSELF | flags.ATTRIB | flags.ONLYDIR
_WAY_MASK = _COMES_OR_GOES | _ITSELF | flags.ONLYDIR
_MOST_FILES = 10_000
_GATHER_S = 0.001  # a save is several events


class FolderEvents:
    """Follows folders from an event loop. `close` ends it.

    `is_read` says of a name whether a file of that name is read, wherever it comes; `is_draft`, whether it may become
    one or was one. What becomes of other files beside them, a log or a lock for example, is nothing that moves.
    """

    def __init__(self, is_read: Callable[[str], bool], is_draft: Callable[[str], bool]) -> None:
        self._is_read = is_read
        self._is_draft = is_draft
        self._moved = asyncio.Event()
        self._stirs = 0
        self._watches: dict[int, str] = {}
        self._folders: frozenset[str] = frozenset()
        self._ways: frozenset[str] = frozenset()
        self._whole: set[str] = set()
        self._in_work: set[str] = set()
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

    def listen(self, folders: Iterable[str], ways: Iterable[str]) -> None:
        """Follows these folders, named by their real paths, and the entries that lead there: no others.

        What is new of them counts as a move.
        """
        if self._inotify is None:
            return
        before = (self._watches.keys(), self._folders, self._ways)
        self._folders, self._ways = frozenset(folders), frozenset(ways)
        wanted: dict[int, str] = {}
        for folder in {os.path.dirname(way) for way in self._ways} - self._folders:
            self._watch(folder, _WAY_MASK, wanted)
        for folder in self._folders:
            self._watch(folder, _MASK, wanted)
        for gone in self._watches.keys() - wanted.keys():
            with suppress(OSError):
                self._inotify.rm_watch(gone)
        if wanted.keys() - before[0] or self._folders - before[1] or self._ways - before[2]:
            self._moved.set()  # what changed before we listened is not told
        self._watches = wanted

    def _watch(self, folder: str, mask: int, wanted: dict[int, str]) -> None:
        if self._inotify is not None:
            with suppress(OSError):  # it went away, or the system has no watches left
                wanted[self._inotify.add_watch(folder, mask)] = folder

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

    def stirs(self) -> int:
        """How often something moved until now that is read, was read, or leads to it."""
        self._read()
        return self._stirs

    def is_whole(self, path: str) -> bool:
        """Whether the file of that real path is in place as its writer wants it."""
        return path in self._whole

    def is_in_work(self, path: str) -> bool:
        """Whether the file of that real path was written to by somebody who has not closed it yet."""
        return path in self._in_work

    def _read(self) -> None:
        if self._inotify is None:
            return
        for watch, mask, _, name in self._inotify.read(timeout=0):
            if mask & flags.Q_OVERFLOW or len(self._whole) > _MOST_FILES or len(self._in_work) > _MOST_FILES:
                self._whole.clear()
                self._in_work.clear()
            folder = self._watches.get(watch, "")
            path = os.path.join(folder, name)
            if self._concerns(folder, name, mask):
                self._stirs += 1
                self._moved.set()
            elif mask & flags.IGNORED or (folder in self._folders and self._is_draft(name)):
                self._moved.set()
            if folder in self._folders:
                if mask & flags.MODIFY:
                    self._in_work.add(path)
                elif mask & (_IN_PLACE | _COMES_OR_GOES):
                    self._in_work.discard(path)
                if mask & _IN_PLACE:
                    self._whole.add(path)
                elif mask & _NOT_WHOLE:
                    self._whole.discard(path)
            if mask & flags.IGNORED:
                self._watches.pop(watch, None)

    def _concerns(self, folder: str, name: str, mask: int) -> bool:
        """Whether what is read may be another now."""
        if not name:
            return not mask & flags.IGNORED  # the folder itself, or events were lost
        path = os.path.join(folder, name)
        if path in self._ways:
            return True
        if folder not in self._folders:
            return False
        # A symlink may be one to a folder with more; one that goes was on the way.
        return self._is_read(name) or bool(mask & flags.ISDIR) or (bool(mask & _COMES) and os.path.islink(path))
