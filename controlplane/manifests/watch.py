"""Tells when the manifests changed: a shell around the folder, and the only one in this package that waits.

What counts is content. The operating system's events only say when to look: a save by renaming, a save in place, a
symlink that is swung to another folder (which is how Kubernetes updates a ConfigMap), a folder that is replaced as a
whole, all look the same from here. Where events are missing (network file systems, some containers) the folder is
looked at every `poll_s` anyway.

Files settle before they are believed: one written in place may be half of what it is going to be, and an edit may be
several files. Who wants to be early is told twice: at once when every changed file was put in place whole (by renaming,
or by swinging a symlink), and again when nothing moves any more.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from watchfiles import awatch

from controlplane.manifests.load import LARGEST_FOLDER, manifest_files

QUIET_S = 0.025
MOST_CHECKS = 20
YOUNG_S = 2.0  # a file changed so recently may change again within its time stamp's resolution

_MISSING = b"missing"
_DEVICE, _INODE, _, _MODIFIED, _CHANGED = range(5)  # in a file's status


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Which files are other than before, by path; all of them at first. Sorted."""

    files: tuple[str, ...]
    is_settled: bool = True
    """False: each file is whole, but others may follow that belong to the same edit."""


async def watch(
    folder: Path,
    included: Callable[[], Iterable[Path]] = tuple,
    *,
    poll_s: float = 2.0,
    events: bool = True,
    early: bool = False,
) -> AsyncIterator[Change]:
    """Yields at once, and again whenever the content of a manifest or of an included file is another.

    `included` is asked anew each time, since what is included is known only after loading. What changes while the
    caller is busy with one change is told by the next. Ends only by being closed or cancelled.
    """
    look = _Look()
    seen = await asyncio.to_thread(look.at, folder, included())
    yield Change(files=tuple(sorted(seen)))
    wakes = _Wakes(folder, poll_s, events=events)
    try:
        while True:
            await wakes.next(included())
            now = await asyncio.to_thread(look.at, folder, included())
            if early and now != seen and look.is_whole(path for path in now if now[path] != seen.get(path)):
                yield Change(files=_changed(seen, now), is_settled=False)
            now = await _settled(look, folder, included, seen, now)
            if now != seen:
                changed, seen = _changed(seen, now), now
                yield Change(files=changed)
    finally:
        await wakes.close()


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> tuple[str, ...]:
    return tuple(sorted(path for path in after.keys() | before.keys() if after.get(path) != before.get(path)))


async def _settled(
    look: _Look,
    folder: Path,
    included: Callable[[], Iterable[Path]],
    seen: dict[str, bytes],
    now: dict[str, bytes],
) -> dict[str, bytes]:
    """What is there once nothing moves any more: a save may be several writes, a copy several files."""
    for _ in range(MOST_CHECKS):
        if now == seen:
            return now
        await asyncio.sleep(QUIET_S)
        again = await asyncio.to_thread(look.at, folder, included())
        if again == now:
            return now
        now = again
    return now


@dataclass(slots=True)
class _Look:
    """Looks at files; reads again only those whose status is another."""

    _known: dict[str, tuple[tuple[int, ...], bytes]] = field(default_factory=dict)
    _identities: dict[str, tuple[int, int]] = field(default_factory=dict)
    _replaced: set[str] = field(default_factory=set)

    def is_whole(self, paths: Iterable[str]) -> bool:
        """Whether each of these was put in place as it is now: another file took its name, or its link was swung."""
        return all(path in self._replaced for path in paths)

    def at(self, folder: Path, included: Iterable[Path]) -> dict[str, bytes]:
        """The digest of every file, by path."""
        try:
            files = manifest_files(folder)
        except OSError:
            files = []
        digests = {str(path): self._digest(path) for path in (*files, *included)}
        self._known = {path: known for path, known in self._known.items() if path in digests}
        identities = {path: (known[0][_DEVICE], known[0][_INODE]) for path, known in self._known.items()}
        self._replaced = {
            path
            for path, one in identities.items()
            if (self._identities[path] != one if path in self._identities else self._came_whole(path))
        }
        self._identities = identities
        return digests

    def _came_whole(self, path: str) -> bool:
        """Whether a file that is new here was written elsewhere: it was renamed after its last write (rename(2))."""
        status = self._known[path][0]
        return status[_CHANGED] > status[_MODIFIED]

    def _digest(self, path: Path) -> bytes:
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return _MISSING
            status = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            known = self._known.get(str(path))
            if known is not None and known[0] == status and time.time() - found.st_mtime > YOUNG_S:
                return known[1]
            with path.open("rb") as stream:
                digest = blake2b(stream.read(LARGEST_FOLDER), digest_size=16).digest()
        except OSError:
            return _MISSING
        self._known[str(path)] = (status, digest)
        return digest


class _Wakes:
    """Waits for the operating system to say that something moved, at most so long."""

    def __init__(self, folder: Path, poll_s: float, *, events: bool) -> None:
        self._folder = folder if folder.is_dir() else folder.parent
        self._poll_s = poll_s
        self._events = events
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watched: tuple[object, ...] = ()

    async def next(self, included: Iterable[Path]) -> None:
        """Returns when something may have changed."""
        if self._events:
            await self._listen(included)
        # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._moved.wait()
        self._moved.clear()

    async def close(self) -> None:
        """Stops listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _listen(self, included: Iterable[Path]) -> None:
        """Listens to the folders as they are now: one that was replaced is another, with the same name."""
        folders = sorted({self._folder, *(path.parent for path in included)})
        watched = tuple((folder, identity) for folder in folders if (identity := _identity(folder)) is not None)
        if watched == self._watched and self._task is not None and not self._task.done():
            return
        await self.close()
        is_new, self._watched = watched != self._watched, watched
        if watched:
            self._task = self._start([folder for folder, _ in watched])
            await asyncio.sleep(0)  # it listens once it runs
        if is_new:
            self._moved.set()  # what changed before we listened would not be told

    def _start(self, folders: list[Path]) -> asyncio.Task[None]:
        return asyncio.create_task(self._follow(folders))

    async def _follow(self, folders: list[Path]) -> None:
        # The folder may go away, or the system may have no watches left; then polling is what remains.
        with suppress(OSError, RuntimeError):
            async for _ in awatch(*folders, watch_filter=None, debounce=20, step=1, recursive=True):
                self._moved.set()


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
