"""The control plane as a process: watches the folder, builds, serves, observes, and says how it is.

An edit with a problem changes nothing that is served; the problems are logged and shown until the next good edit. At
start, manifests that cannot be used leave the last known good state in service, so they never empty a gateway.

With a canary, an edit goes to some Envoys first and to all when it has proved itself there; one that has not is taken
back, and not tried again until the files are other ones, over restarts too.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge, Histogram

from controlplane.additions import only_adds
from controlplane.departures import EVERY_S, Departures
from controlplane.ir.cluster import OutlierDetection
from controlplane.ir.names import service_of
from controlplane.manifests.load import Memory, Refused
from controlplane.manifests.watch import Change, at_rest, watch
from controlplane.observe.observer import Observer, as_json
from controlplane.reconcile import Built, build
from controlplane.rejected import Rejected
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import EXTENSION, ROUTE
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.policies.departing import with_departing
from controlplane.translate.translate import translate
from controlplane.xds.api import Wish
from controlplane.xds.canary import Trial, choose
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.policy import Inconsistent, Outcome
from controlplane.xds.rollout import OVERTAKEN, ROLLED_BACK, Course, Rollout, lines, undecided
from controlplane.xds.status import ClientStatus, HeldChange, Verdict
from extauthz.policy import RESOURCE_NAME as EXTAUTHZ

_log = structlog.get_logger("controlplane")
_RELOADS = Counter("causeway_reloads_total", "Edits read, by what became of them", ["outcome"])
_PROBLEMS = Gauge("causeway_manifest_problems", "Problems of the last edit; 0 when it is served")
_BUILD = Histogram("causeway_build_seconds", "From reading the folder to a checked snapshot")

_PATIENCE_S = 10.0
"""Who asks for a canary waits so long for an Envoy to try it on; an edit that is seen waits until one is there."""
EVERYBODY = "no"
"""The size of a canary that is none."""
_AUTHORIZATION = (EXTENSION, EXTAUTHZ)
"""The document of the authorization service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """How edits that are seen go live: to how many Envoys first (everybody: ""), and how long they are watched."""

    size: str = ""
    watch_s: float = 30.0

    def __post_init__(self) -> None:
        if self.size:
            choose(self.size, ())


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


def _or_frozen(frozen: Mapping[str, float], client: ClientStatus) -> ClientStatus:
    """An Envoy that is connected and answers nobody."""
    silent_s = frozen.get(client.id)
    if silent_s is None or client.agent != "envoy":
        return client
    return replace(client, verdict=Verdict.FROZEN, frozen_s=silent_s)


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
        canary: Canary | None = None,
        rollout: Rollout | None = None,
        rejected: Rejected | None = None,
        frozen: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.folder = folder
        self.plane = plane
        self.observer = observer
        self.reload: Reload | None = None
        self.has_read = asyncio.Event()
        self.rollout = rollout or Rollout(plane)
        self.rollout.on_over = self._over
        self._is_watching = is_watching
        self._canary = canary or Canary()
        self._rejected = rejected or Rejected()
        self._frozen = frozen
        self._candidates: dict[str, Built] = {}  # by revision: what is on trial, and what is held
        self._deployment = deployment
        self._environ = environ
        self._memory = Memory()
        self._built: Built | None = None
        self._early: Built | Refused | None = None  # what came of an edit that has not settled yet
        self._files: tuple[Path, ...] = ()  # read besides the manifests: certificates, keys, included secrets
        self._lock = asyncio.Lock()
        self._troubled: tuple[str, ...] = ()
        self._departures = Departures()
        observer.on_look = self._tighten

    async def run(self) -> None:
        """Reads the folder now and, where edits go live by themselves, after every change. Never returns."""
        if not self._is_watching:
            await self.read()
            self.has_read.set()
            await asyncio.Event().wait()
        async for change in watch(self.folder, lambda: self._files, early=True):
            await self.follow(change)

    async def follow(self, change: Change) -> None:
        """Serves what changed, as far as it can be believed."""
        if change.is_settled:
            await self._read_settled(change)
        elif not self._canary.size:
            await self._read_early(change)

    async def read(self, wish: Wish | None = None) -> Reload:
        """Reads the folder once, when nothing moves in it. What is wrong comes back in the result; what is served
        stays then.

        Without a wish, an edit that was taken back is not tried again.
        """
        async with self._lock:
            began = time.monotonic()
            return await self._take(await at_rest(self.folder, lambda: self._files, self._build), wish, began)

    async def _read_settled(self, change: Change) -> None:
        """Serves an edit that has settled, unless the next one began while it was read: both are told again then."""
        async with self._lock:
            began = time.monotonic()
            known, self._early = self._early if change.is_told else None, None
            built = known or await self._build()
            if await change.holds():
                await self._take(built, None, began)
                self.has_read.set()

    async def _take(self, built: Built | Refused, wish: Wish | None, began: float) -> Reload:
        """Serves what was read, if it can be, and says what came of it."""
        self._files = built.files
        outcome, problems = await self._serve(built, wish)
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
        """Serves an edit before it has settled, if it only adds to what is served."""
        async with self._lock:
            self._early = None
            built, before = await self._build(), self._served()
            if not await change.holds():  # a file may have been read in the middle of its next change
                return
            self._early = built
            if isinstance(built, Built) and before is not None and only_adds(before, built):
                await self._serve(built, None)

    async def _build(self) -> Built | Refused:
        return await asyncio.to_thread(build, self.folder, self._environ, self._deployment, self._memory)

    async def apply(self, wish: Wish) -> dict[str, object]:
        """`read` for `causeway apply`: what came of it, as JSON. Raises ValueError when the wish cannot be met."""
        if wish.canary not in ("", EVERYBODY):
            choose(wish.canary, ())
            if self._is_watching and not self._canary.size:
                raise ValueError(
                    "this control plane serves edits to every Envoy as they are saved: there is nothing left to try. "
                    "Start it with `causeway serve --canary 10%`, and edits go to some Envoys first; or with "
                    "`--watch no`, and they go nowhere before `causeway apply`"
                )
        reload = await self.read(wish)
        outcome, problems, reason = reload.outcome, reload.problems, ""
        trial = self.plane.trial
        if outcome == Outcome.CANARY.value and trial is not None and (wish.wait or wish.canary):
            course = await self.rollout.over(trial.revision, patience_s=wish.timeout_s)
            if course is not None and not course.is_over:
                reason = undecided(course)
            elif course is not None:
                outcome, reason = course.state, course.reason
                problems = tuple(lines(course)) if course.state == ROLLED_BACK else ()
        if outcome == Outcome.HELD.value and (held := self.plane.held) is not None:
            reason = held.reason
        return {
            "outcome": outcome,
            "revision": self.plane.revision,
            "took_ms": round(reload.took_s * 1000, 1),
            "problems": list(problems),
            "reason": reason or None,
            "canary": self.rollout.as_json() if trial is not None else None,
        }

    async def _serve(self, built: Built | Refused, wish: Wish | None) -> tuple[str, tuple[str, ...]]:
        if isinstance(built, Refused):
            return "refused", tuple(map(str, built.problems))
        version = built.snapshot.version
        if wish is None and self._rejected.version == version and self.plane.snapshot is not None:
            self.plane.discard()  # the files do not say it any more
            return ROLLED_BACK, self._rejected.problems
        wish = wish or Wish()
        size = "" if wish.canary == EVERYBODY else wish.canary or self._canary.size
        self._say(long_ago=self._built is None)
        if self._built is None:
            self._depart(built)  # what is served is of an earlier life: routes of it may be in use
        snapshot = self._snapshot(built)
        try:
            outcome = await self.plane.set_snapshot(
                snapshot,
                confirmed=wish.confirm,
                canary=size,
                shown=self._shown(snapshot) if size else None,
            )
        except Inconsistent as problem:
            return "refused", problem.problems
        self._departures.say(snapshot.get(*_AUTHORIZATION), time.monotonic())
        self._candidates[snapshot.version] = built
        self._forget_candidates()
        match outcome:
            case Outcome.CANARY:
                watch_s = self._canary.watch_s if wish.watch_s is None else wish.watch_s
                self.rollout.begin(watch_s=watch_s, patience_s=_PATIENCE_S if wish.canary else None)
            case Outcome.SERVED | Outcome.UNCHANGED:
                self._rejected.forget()
                self._adopt(built)
        return outcome.value, ()

    def _adopt(self, built: Built) -> None:
        """This is what is served now."""
        self._built = built
        self._forget_candidates()
        self.observer.critical = built.gateway.critical
        self.observer.open_for_s = {
            service_of(cluster.name): cluster.outliers.ejection_ms / 1000
            for cluster in built.gateway.clusters
            if isinstance(cluster.outliers, OutlierDetection)
        }

    def _forget_candidates(self) -> None:
        """Of what was held or on trial and is neither any more nothing is kept."""
        awaited = {one.revision for one in (self.plane.trial, self.plane.held) if one is not None}
        self._candidates = {revision: one for revision, one in self._candidates.items() if revision in awaited}

    def _served(self) -> Built | None:
        """What is served now; what was held may have been confirmed since."""
        if (confirmed := self._candidates.get(self.plane.revision)) is not None:
            self._adopt(confirmed)
        return self._built

    def _over(self, course: Course) -> None:
        """A canary has ended."""
        candidate = self._candidates.pop(course.revision, None)
        if candidate is None or course.state == OVERTAKEN:
            return
        problems = tuple(lines(course)) if course.state == ROLLED_BACK else ()
        if problems:
            self._rejected.remember(candidate.snapshot.version, problems)
        else:
            self._rejected.forget()
            self._adopt(candidate)
        _RELOADS.labels(outcome=course.state).inc()
        # What came of a newer edit (refused, or held) is not changed by what became of this one.
        if self.reload is not None and self.reload.outcome == Outcome.CANARY.value:
            self.plane.report_problems(problems)
            _PROBLEMS.set(len(problems))
            self.reload = replace(self.reload, outcome=course.state, problems=problems)

    def _shown(self, snapshot: Snapshot) -> Snapshot:
        """What the clients of a canary get: the services still know the policies of everybody else's routes."""
        document, served = snapshot.get(*_AUTHORIZATION), self.plane.snapshot
        if document is None or served is None:
            return snapshot
        both = with_departing(served.get(*_AUTHORIZATION), document)
        return snapshot if both is document else snapshot.replacing({_AUTHORIZATION: both})

    def _snapshot(self, built: Built) -> Snapshot:
        snapshot = built.snapshot
        if self._troubled:
            snapshot = Snapshot.of(translate(replace(built.gateway, troubled=self._troubled)))
        return self._departures.joined(snapshot, _AUTHORIZATION)

    async def _tighten(self) -> None:
        """Limits that name a service in trouble are tightened while it is, and loosened afterwards."""
        if (built := self._served()) is None:
            return
        named = {name for limit in built.gateway.limits if limit.tighten for name in limit.tighten.services}
        troubled = tuple(sorted(c.service for c in self.observer.circuits if c.is_troubled and c.service in named))
        if troubled == self._troubled:
            return
        async with self._lock:
            self._troubled = troubled
            _log.warning("limits follow their services", tightened_for=list(troubled))
            self._adjust(built)

    async def watch_departures(self) -> None:
        """Keeps the policies that clients' routes name, though the manifests do not say them any more, as long as
        routes name them. Never returns.
        """
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look_for_departures()

    async def look_for_departures(self) -> None:
        """One look."""
        async with self._lock:
            self._say()
            built = self._served()
            if built is not None and self._depart(built):
                self._adjust(built)

    def _depart(self, built: Built) -> bool:
        """Whether other policies are kept than before, beside those of these manifests."""
        said = built.snapshot.get(*_AUTHORIZATION)
        in_use = partial(self.plane.in_use, ROUTE)
        return said is not None and self._departures.look(said, in_use, time.monotonic())

    def _say(self, *, long_ago: bool = False) -> None:
        """What the authorization service has been told until now."""
        now = -math.inf if long_ago else time.monotonic()
        trial = self.plane.trial
        for snapshot in (self.plane.snapshot, trial.shown if trial is not None else None):
            if snapshot is not None:
                self._departures.say(snapshot.get(*_AUTHORIZATION), now)

    def _adjust(self, built: Built) -> None:
        """Serves the same manifests in another way: what is on trial and what is held with them."""
        on_trial, held = self._candidate(self.plane.trial), self._candidate(self.plane.held)
        self.plane.adjust(
            self._snapshot(self._served() or built),
            on_trial=on_trial,
            shown=self._shown(on_trial) if on_trial is not None else None,
            held=held,
        )

    def _candidate(self, awaited: Trial | HeldChange | None) -> Snapshot | None:
        """What is on trial or held, with limits as they are now."""
        candidate = self._candidates.get(awaited.revision) if awaited is not None else None
        return self._snapshot(candidate) if candidate is not None else None

    def status(self) -> dict[str, object]:
        """What `/status` answers."""
        reload, found, frozen, built = self.reload, self.plane.status(), self._frozen(), self._served()
        return {
            **replace(found, clients=tuple(map(partial(_or_frozen, frozen), found.clients))).as_json(),
            "folder": str(self.folder),
            "routes": len(built.manifest.routes) if built is not None else 0,
            "canary": self.rollout.as_json(),
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
