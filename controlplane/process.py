"""The control plane as a process: watches the folder, builds, serves, observes, and says how it is.

An edit with a problem changes nothing that is served; the problems are logged and shown until the next good edit. At
start, manifests that cannot be used leave the last known good state in service, so they never empty a gateway.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge, Histogram

from controlplane.ir.cluster import OutlierDetection
from controlplane.ir.names import service_of
from controlplane.manifests.load import Memory, Refused
from controlplane.manifests.watch import Change, watch
from controlplane.observe.observer import Observer, as_json
from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.translate import translate
from controlplane.xds.controlplane import ControlPlane, Inconsistent, Outcome

_log = structlog.get_logger("controlplane")
_RELOADS = Counter("causeway_reloads_total", "Edits read, by what became of them", ["outcome"])
_PROBLEMS = Gauge("causeway_manifest_problems", "Problems of the last edit; 0 when it is served")
_BUILD = Histogram("causeway_build_seconds", "From reading the folder to a checked snapshot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """The last time that the folder was read."""

    at: datetime
    took_s: float
    outcome: str
    problems: tuple[str, ...] = ()


def _settle_memory() -> None:
    """What the first reading made is there for good: the collector need not look at it again and again.

    Ten thousand routes are millions of objects; a full collection of them would hold up everything for a tenth of a
    second, in the middle of an edit.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _removes(before: Snapshot, after: Snapshot) -> bool:
    """Whether a resource, or a part of one, is there no more."""
    for resource in before:
        now = after.get(resource.type_url, resource.name)
        if now is None:
            return True
        if now.version != resource.version and not resource.part_keys <= now.part_keys:
            return True
    return False


class Process:
    """Everything of the control plane but its sockets."""

    def __init__(
        self,
        folder: Path,
        deployment: Deployment,
        plane: ControlPlane,
        observer: Observer,
        environ: Mapping[str, str],
        *,
        is_watching: bool = True,
    ) -> None:
        self.folder = folder
        self.plane = plane
        self.observer = observer
        self.reload: Reload | None = None
        self.has_read = asyncio.Event()
        self._is_watching = is_watching
        self._deployment = deployment
        self._environ = environ
        self._memory = Memory()
        self._built: Built | None = None
        self._files: tuple[Path, ...] = ()  # read besides the manifests: certificates, keys, included secrets
        self._lock = asyncio.Lock()
        self._troubled: tuple[str, ...] = ()
        observer.on_look = self._tighten

    async def run(self) -> None:
        """Reads the folder now and, where edits go live by themselves, after every change. Never returns."""
        if not self._is_watching:
            await self.read()
            self.has_read.set()
            await asyncio.Event().wait()
        async for change in watch(self.folder, lambda: self._files, early=True):
            if change.is_settled:
                await self.read()
                self.has_read.set()
            else:
                await self._read_early(change)

    async def read(self, *, confirmed: bool = False, canary: str = "") -> Reload:
        """Reads the folder once. What is wrong comes back in the result; what is served stays then."""
        async with self._lock:
            began = time.monotonic()
            built = await asyncio.to_thread(build, self.folder, self._environ, self._deployment, self._memory)
            self._files = built.files
            outcome, problems = await self._serve(built, confirmed=confirmed, canary=canary)
            took = time.monotonic() - began
            if self.reload is None:
                _settle_memory()
        _BUILD.observe(took)
        _RELOADS.labels(outcome=outcome).inc()
        _PROBLEMS.set(len(problems))
        self.plane.report_problems(problems)
        self.reload = Reload(at=datetime.now(UTC), took_s=took, outcome=outcome, problems=problems)
        if problems:
            for problem in problems:
                _log.error("manifest problem", problem=problem)
            meanwhile = "what was served before goes on" if self.plane.snapshot is not None else "nothing is served yet"
            _log.error(f"the edit is not served; {meanwhile}", problems=len(problems))
        else:
            _log.info("manifests read", outcome=outcome, took_ms=round(took * 1000))
        return self.reload

    async def _read_early(self, change: Change) -> None:
        """Serves an edit before it has settled, if nothing that is served goes away by it.

        An edit of several files is seen between two of them. What it adds or changes can go live by then; what seems to
        be gone may only be on its way to another file, and what is wrong may be put right by the next.
        """
        async with self._lock:
            built = await asyncio.to_thread(build, self.folder, self._environ, self._deployment, self._memory)
            served = self.plane.snapshot
            if not isinstance(built, Built) or served is None or _removes(served, built.snapshot):
                return
            if change.holds():  # else a file may have been read in the middle of its next change
                await self._serve(built, confirmed=False)

    async def apply(self, confirmed: bool, canary: str = "") -> dict[str, object]:
        """`read` for `causeway apply`: what came of it, as JSON."""
        reload = await self.read(confirmed=confirmed, canary=canary)
        held = self.plane.held
        return {
            "outcome": reload.outcome,
            "revision": self.plane.revision,
            "took_ms": round(reload.took_s * 1000, 1),
            "problems": list(reload.problems),
            "reason": held.reason if held is not None else None,
        }

    async def _serve(self, built: Built | Refused, *, confirmed: bool, canary: str = "") -> tuple[str, tuple[str, ...]]:
        if isinstance(built, Refused):
            return "refused", tuple(map(str, built.problems))
        try:
            outcome = await self.plane.set_snapshot(self._snapshot(built), confirmed=confirmed, canary=canary)
        except Inconsistent as problem:
            return "refused", problem.problems
        if outcome is not Outcome.HELD:
            self._built = built
            self.observer.critical = built.gateway.critical
            self.observer.open_for_s = {
                service_of(cluster.name): cluster.outliers.ejection_ms / 1000
                for cluster in built.gateway.clusters
                if isinstance(cluster.outliers, OutlierDetection)
            }
        return outcome.value, ()

    def _snapshot(self, built: Built) -> Snapshot:
        if not self._troubled:
            return built.snapshot
        return Snapshot.of(translate(replace(built.gateway, troubled=self._troubled)))

    async def _tighten(self) -> None:
        """Limits that name a service in trouble are tightened while it is, and loosened afterwards."""
        if self._built is None:
            return
        named = {name for limit in self._built.gateway.limits if limit.tighten for name in limit.tighten.services}
        troubled = tuple(sorted(c.service for c in self.observer.circuits if c.is_troubled and c.service in named))
        if troubled == self._troubled:
            return
        async with self._lock:
            self._troubled = troubled
            _log.warning("limits follow their services", tightened_for=list(troubled))
            await self._serve(self._built, confirmed=False)

    def status(self) -> dict[str, object]:
        """What `/status` answers."""
        reload = self.reload
        return {
            **self.plane.status().as_json(),
            "folder": str(self.folder),
            "routes": len(self._built.manifest.routes) if self._built is not None else 0,
            "services": list(map(as_json, self.observer.circuits)),
            "reload": {
                "at": reload.at.isoformat(timespec="seconds"),
                "took_ms": round(reload.took_s * 1000, 1),
                "outcome": reload.outcome,
                "problems": list(reload.problems),
            }
            if reload is not None
            else None,
        }

    def not_ready(self) -> str | None:
        """Why nothing is served yet."""
        return None if self.plane.snapshot is not None else "no manifests could be served yet"
