"""Tells when the manifests changed: a shell around the folder, and the only one in this package that waits.

What counts is content. The operating system's events only say when to look: a save by renaming, a save in place, a
symlink that is swung to another folder (which is how Kubernetes updates a ConfigMap), a folder that is replaced as a
whole, all look the same from here. Where events are missing (network file systems, some containers) the folder is
looked at every `poll_s` anyway.

Files settle before they are believed: one written in place may be half of what it is going to be, or nothing yet, until
its writer closes it, and an edit may be several files. Who wants to be early is told twice: at once when every changed
file is in place whole (its writer has closed it, or it was renamed there, or the symlink to it was swung), and again
when nothing moves any more.

Reading takes time, and the next edit may begin in the middle of it: half of that edit would be served, without whatever
its other half is to bring. Who was told therefore asks `Change.holds` before serving what was read; where it does not
hold, the change is told again when the next edit has settled too. Who reads without having been told reads `at_rest`.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from controlplane.manifests.events import FolderEvents
from controlplane.manifests.load import is_draft, is_manifest
from controlplane.manifests.look import Look, Marks, Seen, marks

QUIET_S = 0.025
LONGEST_S = 0.5  # where it never gets quiet, what is there by then is told
INSISTS_S = 2.0  # where each reading is overtaken, or a file is never closed, what is there counts after so long

_T = TypeVar("_T")


async def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Which files are other than before, by path; all of them at first. Sorted."""

    files: tuple[str, ...]
    is_settled: bool = True
    """False: each file is whole, but others may follow that belong to the same edit."""
    is_told: bool = False
    """Of what is settled: it was told before it had settled, and is the same now."""
    holds: Callable[[], Awaitable[bool]] = field(default=_always, compare=False, repr=False)
    """Whether the files have stayed as they were told, so that what was read since is what was told."""


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
    look = Look()
    told = FolderEvents(is_manifest, is_draft)

    async def seen_now() -> Seen:
        now = await asyncio.to_thread(look.at, folder, included())
        told.listen(now.folders, now.ways)
        return now

    async def moment() -> tuple[int, Marks]:
        found = await asyncio.to_thread(marks, folder, included())
        return told.stirs(), found

    def telling(now: Seen, changed: set[str], insists_at: float) -> _Told:
        return _Told((told.stirs(), now.marks), changed, moment, insists_at)

    if events:
        told.open()
    try:
        seen = believed = await seen_now()
        settled = telling(seen, set(seen.digests), time.monotonic() + INSISTS_S)
        yield Change(files=tuple(sorted(seen.digests)), holds=settled.holds)
        while True:
            await told.moved(within_s=poll_s)
            now, early_told = await seen_now(), seen
            is_again = settled.is_overtaken
            changed = set(settled.changed) if is_again else set()
            insists_at = settled.insists_at if is_again else time.monotonic() + INSISTS_S
            began = time.monotonic()
            # What was told early is told again, even when the files are back where they were before it.
            while now.digests != seen.digests or changed or is_again:
                is_in_work = any(map(told.is_in_work, now.real.values()))
                if time.monotonic() > began + (INSISTS_S if is_in_work else LONGEST_S):
                    break
                since = _changed(early_told, now)
                changed |= since
                if early and since and all(_is_whole(path, now, believed, told) for path in since & now.digests.keys()):
                    early_told = now
                    whole = telling(now, changed, math.inf)
                    yield Change(files=tuple(sorted(changed)), is_settled=False, holds=whole.holds)
                has_moved = await told.moved(within_s=QUIET_S)
                before, now = now, await seen_now()
                if now.digests == before.digests and not has_moved and not is_in_work:
                    break
            changed |= _changed(early_told, now)
            seen = now
            if changed or is_again:
                believed = now
                settled = telling(now, changed, insists_at)
                is_told = now.digests == early_told.digests
                yield Change(files=tuple(sorted(changed)), is_told=is_told, holds=settled.holds)
    finally:
        told.close()


async def at_rest(folder: Path, included: Callable[[], Iterable[Path]], read: Callable[[], Awaitable[_T]]) -> _T:
    """What `read` returns of files that have not moved for a moment, nor while it read them.

    It is called again where they have. If they go on moving, what was read after `INSISTS_S` counts all the same.
    """

    async def marks_now() -> Marks:
        return await asyncio.to_thread(marks, folder, included())

    until = time.monotonic() + INSISTS_S
    now = await marks_now()
    while True:
        await asyncio.sleep(QUIET_S)
        before, now = now, await marks_now()
        if now == before or time.monotonic() > until:
            found = await read()
            before, now = now, await marks_now()
            if now == before or time.monotonic() > until:
                return found


@dataclass(slots=True)
class _Told:
    """What somebody was told, and whether it was overtaken before it had been read."""

    at: tuple[int, Marks]
    changed: set[str]
    moment: Callable[[], Awaitable[tuple[int, Marks]]]
    insists_at: float
    is_overtaken: bool = False

    async def holds(self) -> bool:
        self.is_overtaken = await self.moment() != self.at
        if not self.is_overtaken:
            return True
        if time.monotonic() < self.insists_at:
            return False
        self.insists_at = time.monotonic() + INSISTS_S  # what was read counts, and is read again all the same
        return True


def _changed(before: Seen, after: Seen) -> set[str]:
    was, now = before.digests, after.digests
    return {path for path in now.keys() | was.keys() if now.get(path) != was.get(path)}


def _is_whole(path: str, now: Seen, believed: Seen, told: FolderEvents) -> bool:
    """Whether a file is in place as it is going to be: it was put there so, or the symlink to it was swung."""
    real, before = now.real[path], believed.real.get(path)
    is_linked = os.path.dirname(real) != os.path.realpath(os.path.dirname(path))
    return told.is_whole(real) or (is_linked and before is not None and real != before)
