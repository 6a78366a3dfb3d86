"""Tells when the manifests changed: a shell around the folder, and the only one in this package that waits.

What counts is content. The operating system's events only say when to look: a save by renaming, a save in place, a
symlink that is swung to another folder (which is how Kubernetes updates a ConfigMap), a folder that is replaced as a
whole, all look the same from here. Where events are missing (network file systems, some containers) the folder is
looked at every `poll_s` anyway.

Files settle before they are believed: one written in place may be half of what it is going to be, and an edit may be
several files. Who wants to be early is told twice: at once when every changed file is in place whole (its writer has
closed it, or it was renamed there, or the symlink to it was swung), and again when nothing moves any more.

Reading takes time, and the next edit may begin in the middle of it: half of that edit would be served, without whatever
its other half is to bring. Who was told therefore asks `Change.holds` before serving what was read; where it does not
hold, the change is told again when the next edit has settled too.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from controlplane.manifests.events import FolderEvents
from controlplane.manifests.load import LARGEST_FOLDER, manifest_files, manifest_folders

QUIET_S = 0.025
LONGEST_S = 0.5  # where it never gets quiet, what is there by then is told
INSISTS_S = 2.0  # where each reading is overtaken by the next edit, what was read counts after so long all the same
YOUNG_S = 2.0  # a file changed so recently may change again within its time stamp's resolution

_MISSING = b"missing"


async def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Which files are other than before, by path; all of them at first. Sorted."""

    files: tuple[str, ...]
    is_settled: bool = True
    """False: each file is whole, but others may follow that belong to the same edit."""
    is_told: bool = False
    """Of what is settled: it was told before it had settled, and nothing has moved since."""
    holds: Callable[[], Awaitable[bool]] = field(default=_always, compare=False, repr=False)
    """Whether the files still are as they were told, so that what was read since is what was told."""


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
    told = FolderEvents()

    async def seen_now() -> dict[str, bytes]:
        digests = await asyncio.to_thread(look.at, folder, included())
        told.listen(look.folders)
        return digests

    if events:
        told.open()
    try:
        seen = await seen_now()
        settled = _Told(seen, set(seen), seen_now, told.is_calm, insists_at=time.monotonic() + INSISTS_S)
        yield Change(files=tuple(sorted(seen)), holds=settled.holds)
        while True:
            await told.moved(within_s=poll_s)
            now, early_told = await seen_now(), seen
            is_again = settled.is_overtaken
            changed = set(settled.changed) if is_again else set()
            insists_at = settled.insists_at if is_again else time.monotonic() + INSISTS_S
            deadline = time.monotonic() + LONGEST_S
            # What was told early is told again, even when the files are back where they were before it.
            while (now != seen or changed or is_again) and time.monotonic() < deadline:
                since = _changed(early_told, now)
                changed |= since
                if early and since and all(look.is_whole(path, told) for path in since if path in now):
                    early_told = now
                    whole = _Told(now, changed, seen_now, told.is_calm, insists_at=math.inf)
                    yield Change(files=tuple(sorted(changed)), is_settled=False, holds=whole.holds)
                has_moved = await told.moved(within_s=QUIET_S)
                before, now = now, await seen_now()
                if now == before and not has_moved:
                    break
            changed |= _changed(early_told, now)
            seen = now
            if changed or is_again:
                look.believe()
                is_told = now == early_told and told.is_calm()
                settled = _Told(now, changed, seen_now, told.is_calm, insists_at=insists_at)
                yield Change(files=tuple(sorted(changed)), is_told=is_told, holds=settled.holds)
    finally:
        told.close()


@dataclass(slots=True)
class _Told:
    """What somebody was told, and whether it was overtaken before it had been read."""

    digests: dict[str, bytes]
    changed: set[str]
    look: Callable[[], Awaitable[dict[str, bytes]]]
    is_calm: Callable[[], bool]
    insists_at: float
    is_overtaken: bool = False

    async def holds(self) -> bool:
        self.is_overtaken = not (
            self.is_calm() or await self.look() == self.digests or time.monotonic() > self.insists_at
        )
        return not self.is_overtaken


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}


@dataclass(slots=True)
class _Look:
    """Looks at files; reads again only those whose status is another."""

    folders: frozenset[str] = frozenset()
    """Where something has to happen for a file to be another: real paths."""
    _known: dict[str, tuple[tuple[int, ...], bytes]] = field(default_factory=dict)
    _real: dict[str, str] = field(default_factory=dict)
    _believed: dict[str, str] = field(default_factory=dict)

    def is_whole(self, path: str, told: FolderEvents) -> bool:
        """Whether a file is in place as it is going to be: it was put there so, or the symlink to it was swung."""
        real, before = self._real.get(path, ""), self._believed.get(path)
        is_linked = os.path.dirname(real) != os.path.realpath(os.path.dirname(path))
        return told.is_whole(real) or (is_linked and before is not None and real != before)

    def believe(self) -> None:
        """What was seen last is what is known from now on."""
        self._believed = self._real

    def at(self, folder: Path, included: Iterable[Path]) -> dict[str, bytes]:
        """The digest of every file, by path."""
        extra = list(included)
        try:
            files = manifest_files(folder)
        except OSError:
            files = []
        digests = {str(path): self._digest(path) for path in (*files, *extra)}
        self._known = {path: known for path, known in self._known.items() if path in digests}
        within = {parent: os.path.realpath(parent) for parent in {os.path.dirname(path) for path in digests}}
        self._real = {path: _real(path, within[os.path.dirname(path)]) for path in digests}
        self.folders = frozenset((*within.values(), *map(os.path.dirname, self._real.values())))
        self.folders |= {os.path.realpath(one) for one in manifest_folders(folder)}
        if not self._believed:
            self.believe()
        return digests

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


def _real(path: str, folder: str) -> str:
    """The real path of a file whose folder's is known."""
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(folder, os.path.basename(path))
