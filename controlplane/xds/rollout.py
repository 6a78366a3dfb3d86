"""One canary from its beginning to its verdict: waits for an Envoy, for acceptance, then watches, then decides.

It runs beside everything else, whoever asked for it: an edit that was seen, or `causeway apply --canary`. The plane
says who gets what; this says when the trial is over and why. A person may decide earlier (`promote`, `abort`), and
another change may overtake it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from controlplane.xds import cohort, metrics
from controlplane.xds.canary import Comparison, Readings, Requests, Trial, between, changed_places, restarted
from controlplane.xds.controlplane import ControlPlane

POLL_S = 0.25
LONGEST_POLL_S = 1.0
ACCEPT_S = 30.0
SETTLE_S = 2.0
"""Envoys that come back after a restart of the control plane come one after the other: so long after the first."""
AWAY_S = 6.0
"""An Envoy of the cohort may be away, or not answer, for so long: a connection is made anew with pauses of up to five
seconds."""

Json = dict[str, object]
Ask = Callable[[], Awaitable[Readings]]
SERVED, ROLLED_BACK, OVERTAKEN = "served", "rolled back", "overtaken"

_log = structlog.get_logger("controlplane.canary")


@dataclass(slots=True, kw_only=True)
class Course:
    """How the canary stands, or how the last one ended."""

    revision: str
    state: str
    began: datetime
    since: float
    watch_s: float
    cohort: tuple[str, ...] = ()
    left_s: float | None = None
    requests: Comparison = field(default_factory=Comparison)
    by_node: tuple[tuple[str, Requests], ...] = ()
    unmeasured: tuple[str, ...] = ()
    """Envoys of the cohort whose admin interface is not known: their acceptance is all the proof there is."""
    reason: str = ""
    changed: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return self.state in (SERVED, ROLLED_BACK, OVERTAKEN)

    def as_json(self, now: float) -> Json:
        asked = self.requests
        return {
            "revision": self.revision,
            "state": self.state,
            "is_over": self.is_over,
            "cohort": list(self.cohort),
            "began": self.began.isoformat(timespec="seconds"),
            "since_s": round(now - self.since, 1),
            "watch_s": self.watch_s,
            "left_s": None if self.left_s is None else round(self.left_s, 1),
            "requests": {"before": _rate(asked.before), "canary": _rate(asked.cohort), "others": _rate(asked.others)},
            "envoys": [{"id": name, **_rate(one), "is_canary": name in self.cohort} for name, one in self.by_node],
            "unmeasured": list(self.unmeasured),
            "reason": self.reason,
            "changed": list(self.changed),
        }


def _rate(requests: Requests) -> Json:
    return {"completed": requests.completed, "failed": requests.failed, "share": round(requests.share, 4)}


async def _nobody() -> Readings:
    return {}


class Rollout:
    """The canary that runs, and the course of the last one."""

    def __init__(
        self,
        plane: ControlPlane,
        ask: Ask = _nobody,
        *,
        earlier: Callable[[], Readings] = dict,
        forget: Callable[[], None] = lambda: None,
        accept_s: float = ACCEPT_S,
        away_s: float = AWAY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.course: Course | None = None
        self.on_over: Callable[[Course], None] = lambda _: None
        self._plane = plane
        self._ask = ask
        self._earlier = earlier
        self._forget = forget
        self._accept_s = accept_s
        self._away_s = away_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def begin(self, *, watch_s: float, patience_s: float | None = None) -> None:
        """Follows the trial that the plane has begun. One of the same revision that runs already goes on.

        `patience_s` is how long there may be no Envoy to try it on; None: as long as it takes.
        """
        trial, base = self._plane.trial, self._plane.snapshot
        if trial is None or base is None:
            return
        if self.is_running and self.course is not None and self.course.revision == trial.revision:
            return
        if self._task is not None:
            self._task.cancel()
        if self.course is not None and not self.course.is_over:
            self._end(OVERTAKEN, "a newer edit came")
        self.course = Course(
            revision=trial.revision,
            state="waiting for an Envoy",
            began=datetime.now(UTC),
            since=self._clock(),
            watch_s=watch_s,
            changed=changed_places(base, trial.snapshot),
        )
        metrics.CANARY.set(1)
        self._task = asyncio.get_running_loop().create_task(self._run(watch_s, patience_s))

    async def over(self, revision: str, *, patience_s: float | None = None) -> Course | None:
        """The course of that revision's canary when it has ended; None when there is none.

        With `patience_s` it may come back undecided: when there was no Envoy to try it on for so long, or when it took
        so much longer than it is watched.
        """
        course, loop = self.course, asyncio.get_running_loop()
        if course is None or course.revision != revision:
            return None
        deadline = loop.time() + patience_s if patience_s is not None else None
        while not course.is_over:
            until = deadline + (course.watch_s if course.cohort else 0.0) if deadline is not None else None
            if until is not None and loop.time() >= until:
                break
            with suppress(TimeoutError):  # an Envoy may have come meanwhile: then there is more time
                async with asyncio.timeout_at(until):
                    await self._news.wait()
        return course

    def promote(self) -> Course | None:
        """Serves it to everybody now. None when nothing is on trial."""
        return self._by_hand(is_good=True, reason="promoted by hand")

    def abort(self) -> Course | None:
        """Takes it back now. None when nothing is on trial."""
        return self._by_hand(is_good=False, reason="aborted by hand")

    def as_json(self) -> Json | None:
        return self.course.as_json(self._clock()) if self.course is not None else None

    async def stop(self) -> None:
        """Ends the watching; nothing is decided. What was served stays the last known good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _by_hand(self, *, is_good: bool, reason: str) -> Course | None:
        if not self.is_running or self._plane.trial is None:
            return None
        if self._task is not None:
            self._task.cancel()
        self._decide(is_good=is_good, reason=reason)
        return self.course

    async def _run(self, watch_s: float, patience_s: float | None) -> None:
        try:
            reason = await self._begun(patience_s) or await self._accepted() or await self._watched(watch_s)
        except _Overtaken:
            self._end(OVERTAKEN, "another change came meanwhile")
            return
        except Exception as failure:  # whatever goes wrong here must not leave a trial that nobody ends
            _log.exception("the canary's watch failed")
            reason = f"the watch failed: {failure!r}"
        self._decide(is_good=reason is None, reason=reason or self._praise(watch_s))

    async def _begun(self, patience_s: float | None) -> str | None:
        """Waits for Envoys, and picks the cohort."""
        began = self._clock()
        ready_at = began if cohort.envoys(self._plane) else None
        while True:
            trial = self._current()
            if not cohort.envoys(self._plane):
                ready_at = None
            elif ready_at is None:
                ready_at = self._clock() + SETTLE_S
            if ready_at is not None and self._clock() >= ready_at and not trial.cohort:
                trial = cohort.choose_cohort(self._plane, trial, frozenset(await self._ask()))
            if trial.cohort:
                course = self._course()
                _log.info("canary", revision=trial.revision, clients=sorted(trial.cohort), changed=course.changed)
                course.state, course.cohort = "waiting for acceptance", tuple(sorted(trial.cohort))
                return None
            if patience_s is not None and self._clock() - began > patience_s:
                return "no Envoy is connected"
            await asyncio.sleep(POLL_S)

    async def _accepted(self) -> str | None:
        start, earlier = await self._ask(), self._earlier()
        chosen = self._current().cohort
        others = start.keys() - chosen
        course = self._course()
        course.requests = Comparison(
            before=between(earlier, start, chosen), others_before=between(earlier, start, others)
        )
        course.unmeasured = tuple(sorted(chosen - start.keys() - earlier.keys()))
        deadline = self._clock() + self._accept_s
        while not cohort.has_accepted(self._plane):
            if reason := self._refused():
                return reason
            if self._clock() > deadline:
                return f"not accepted by every client of the canary within {self._accept_s:g} s"
            await asyncio.sleep(min(POLL_S, self._accept_s / 10))
            self._current()
        return self._refused()

    async def _watched(self, watch_s: float) -> str | None:
        start = await self._ask()
        until = self._clock() + watch_s
        away_since: dict[str, float] = {}
        while True:
            now = await self._ask()
            trial, course, left = self._current(), self._course(), until - self._clock()
            start = {**now, **start}  # who did not answer at first is measured from its first answer on
            others = now.keys() - trial.cohort
            course.state, course.left_s = "watching", max(0.0, left)
            course.requests = replace(
                course.requests,
                cohort=between(start, now, trial.cohort & start.keys()),
                others=between(start, now, others & start.keys()),
            )
            course.by_node = tuple((name, between(start, now, {name})) for name in sorted(now))
            if name := restarted(start, now, trial.cohort):
                return f'"{name}" began anew while it had the change'
            if reason := self._refused() or course.requests.objection():
                return reason
            gone = trial.cohort - cohort.connected(self._plane)
            mute = trial.cohort - now.keys() - set(course.unmeasured)
            away_since = {name: away_since.get(name, self._clock()) for name in sorted(gone | mute)}
            for name, since in away_since.items():
                if self._clock() - since > self._away_s:
                    how = "has gone away" if name in gone else "has stopped answering at its admin interface"
                    return f'"{name}" {how} while it had the change'
            if left <= 0 and not away_since:
                return None
            pause = min(LONGEST_POLL_S, max(POLL_S, watch_s / 10))
            await asyncio.sleep(min(pause, left) if left > 0 else pause)

    def _current(self) -> Trial:
        trial = self._plane.trial
        if trial is None or trial.revision != self._course().revision:
            raise _Overtaken
        return trial

    def _course(self) -> Course:
        if self.course is None:
            raise _Overtaken
        return self.course

    def _refused(self) -> str | None:
        return next(iter(cohort.refusals(self._plane)), None)

    def _praise(self, watch_s: float) -> str:
        course = self.course
        if course is None:
            return ""
        count = len(course.cohort)
        accepted = f"accepted by {count} Envoy{'' if count == 1 else 's'}"
        if len(course.unmeasured) == count:
            return f"{accepted}, none of which could be measured: give their admin addresses with --envoy-admin"
        if not course.requests.cohort.completed:
            return f"{accepted}; no request came within {watch_s:g} s"
        answered = course.requests.cohort
        return f"{accepted}; {answered.share:.1%} of {answered.completed} requests failed within {watch_s:g} s"

    def _decide(self, *, is_good: bool, reason: str) -> None:
        self._plane.end_trial(is_good=is_good)
        self._end(SERVED if is_good else ROLLED_BACK, reason)

    def _end(self, state: str, reason: str) -> None:
        if self.course is None:
            return
        self.course.state, self.course.reason, self.course.left_s = state, reason, None
        metrics.CANARY.set(0)
        metrics.CANARIES.labels(outcome=state).inc()
        if state == ROLLED_BACK:
            self._forget()  # its failures are no measure for the next
        level = _log.warning if state == ROLLED_BACK else _log.info
        level("canary over", outcome=state, reason=reason, revision=self.course.revision, changed=self.course.changed)
        news, self._news = self._news, asyncio.Event()
        news.set()
        self.on_over(self.course)


class _Overtaken(Exception):  # noqa: N818
    """What is watched is not on trial any more."""


def undecided(course: Course) -> str:
    """Why there is no verdict yet."""
    if not course.cohort:
        return "no Envoy is connected to try it on"
    return f"no verdict yet: {course.state}, on {', '.join(course.cohort)}"


def lines(course: Course) -> Iterator[str]:
    """What went wrong, for people: the reason, and where the change is."""
    yield f"rolled back: {course.reason}"
    if course.changed:
        yield f"changed were {', '.join(course.changed)}"
