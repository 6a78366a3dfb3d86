"""Keeps what is served on disk, and brings it back at the start.

Writing happens beside serving: changes that come while a file is being written are written together, newest last.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from controlplane.origin import Origin
from controlplane.snapshot import store
from controlplane.xds import metrics
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.quarantine import Held

DELAY_S = 0.3
"""Clients first: what they wait for is not held up by the disk. Whoever dies in between reads the manifests again."""
RETRY_S = 5.0
"""What could not be written is tried again so often."""

_log = structlog.get_logger("controlplane.keeping")


class Keeper:
    """Brings back what the folder keeps, and writes the plane's state there whenever it changed, until cancelled."""

    def __init__(self, plane: ControlPlane, folder: Path, *, made_of: str = "", retry_s: float = RETRY_S) -> None:
        """`made_of` is what the plane's state is made of: what was made of something else is not brought back."""
        self.problem: str | None = None
        """Why a restart would not serve what is served now, or why this one could not serve what was served before."""
        self.written = 0
        self._plane = plane
        self._folder = folder
        self._made_of = made_of
        self._retry_s = retry_s
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        plane.on_change = self._changed.set

    def restore(self) -> bool:
        """Serves what the folder keeps. False when there is nothing usable: a file that is damaged or of something else
        is told and ignored."""
        try:
            kept, held = self._read()
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as problem:
            self._tell(f"the last known good in {self._folder} cannot be used: {problem}")
            return False
        self._plane.restore(kept.snapshot, kept.revision, held, kept.variants)
        if kept.made_of == self._made_of:
            self._changed.clear()  # it is on disk as it is
        _log.info("last known good in service", revision=kept.revision, resources=len(kept.snapshot))
        return True

    def _read(self) -> tuple[store.Kept, list[Held]]:
        kept = store.read(self._folder)
        if kept.made_of and self._made_of and kept.made_of != self._made_of:
            raise ValueError(f"it is of {kept.made_of}, not of {self._made_of}")
        return kept, read_notes(kept.notes)

    def as_json(self) -> dict[str, object]:
        return {"folder": str(self._folder), "problem": self.problem}

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):  # what could not be written may be by now: there is room again
                async with asyncio.timeout(self._retry_s if self.problem else None):
                    await self._changed.wait()
                await asyncio.sleep(DELAY_S)
            if self._changed.is_set() or self.problem:
                await self.keep()

    async def kept(self) -> str | None:
        """Returns when what is served is on disk, without the delay; or why it cannot be."""
        async with self._writing:
            is_due = self._changed.is_set() or self.problem is not None
        if is_due:
            await self.keep()
        return self.problem

    async def keep(self) -> None:
        """Writes once, now."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        self._changed.clear()
        snapshot = self._plane.snapshot
        if snapshot is None:
            return
        kept = store.Kept(
            snapshot=snapshot,
            revision=self._plane.revision,
            variants=self._plane.variants(),
            notes=write_notes(self._plane.quarantine.all()),
            made_of=self._made_of,
        )
        try:
            await asyncio.to_thread(store.write, self._folder, kept)
        except OSError as failure:
            self._tell(f"the last known good cannot be kept in {self._folder}: {failure}")
        else:
            self._tell(None)
            self.written += 1

    def _tell(self, problem: str | None) -> None:
        before, self.problem = self.problem, problem
        metrics.UNKEPT.set(1 if problem else 0)
        if problem and problem != before:
            _log.error(problem)
        elif before and not problem:
            _log.info("the last known good is kept again", folder=str(self._folder))


def write_notes(held: Iterable[Held]) -> str:
    return json.dumps(
        [
            {
                "kind": one.kind,
                "type_url": one.type_url,
                "name": one.name,
                "part": one.part,
                "digest": one.digest,
                "replacement": base64.b64encode(one.replacement).decode(),
                "text": one.text,
                "origins": [[origin.file, origin.line, origin.column] for origin in one.origins],
                "since": one.since,
                "client": one.client,
            }
            for one in held
        ]
    )


def read_notes(text: str) -> list[Held]:
    """Raises ValueError."""
    try:
        return [
            Held(
                kind=str(row["kind"]),
                type_url=str(row["type_url"]),
                name=str(row["name"]),
                part=str(row["part"]) if row["part"] is not None else None,
                digest=str(row["digest"]),
                replacement=base64.b64decode(row["replacement"]),
                text=str(row["text"]),
                origins=tuple(Origin(file=str(f), line=int(n), column=int(c)) for f, n, c in row["origins"]),
                since=float(row["since"]),
                client=str(row["client"]),
            )
            for row in json.loads(text)
        ]
    except (KeyError, TypeError) as failure:
        raise ValueError(f"unexpected notes: {failure!r}") from failure
