"""What is served, to whom, and what came of it: the one object behind every stream.

A snapshot comes in whole (`set_snapshot`), is checked, and is handed to every session; what clients refuse comes back
as verdicts and changes what their kind is served. Everything runs on one event loop: no locks. It must not know
manifests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import grpc
import structlog

from controlplane.snapshot.consistency import check
from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import EMPTY, Snapshot
from controlplane.xds import metrics, report
from controlplane.xds.canary import Trial, choose
from controlplane.xds.channel import Channel
from controlplane.xds.clients import AllowList, admit, is_on_this_machine
from controlplane.xds.codec import Encoder
from controlplane.xds.fuse import Waiting, mass_deletion
from controlplane.xds.gate import ROUTES_WAIT, PolicyGate, policies_changed
from controlplane.xds.methods import METHODS, Method
from controlplane.xds.needs import Needs
from controlplane.xds.policy import Inconsistent, Outcome, Policy
from controlplane.xds.protocol import Node, Verdict
from controlplane.xds.quarantine import Held, Quarantine
from controlplane.xds.refusals import Refusals
from controlplane.xds.session import Session
from controlplane.xds.status import HeldChange, Status
from controlplane.xds.stream import Stream
from serving.server import Call, Service

_log = structlog.get_logger("controlplane.xds")

SERVICE_AGENT = "causeway"
ALLOW_LIST_INTERVAL_S = 2.0


class ControlPlane:
    """Serves snapshots to every client that asks. `services()` are the gRPC services to put on a server."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        allow_list: AllowList | None = None,
        make_needs: Callable[[Mapping[str, Channel]], Needs] = Needs,
    ) -> None:
        self.policy = policy or Policy()
        self.encoder = Encoder(self.policy.identifier)
        self.snapshot: Snapshot | None = None
        self.revision = ""
        self.served_at = clock()
        self.out_at = self.served_at
        """Since when clients can have what they should have: as `served_at`, or later if a canary was taken back."""
        self.source = "manifests"
        self.problems: tuple[str, ...] = ()
        self.problems_at: float | None = None
        self.quarantine = Quarantine()
        self.sessions: dict[Session, None] = {}
        self.is_service: Callable[[Node], bool] = lambda node: node.agent == SERVICE_AGENT
        self.on_change: Callable[[], None] = lambda: None
        """Called when what should survive a restart has changed."""
        self._clock = clock
        self.wall = wall
        self._allow_list = allow_list
        self._make_needs = make_needs
        self._history = History()
        self._effective: dict[str, Snapshot] = {}
        self.trial: Trial | None = None
        self._trial_effective: dict[str, Snapshot] = {}
        self._accepted: dict[str, Snapshot] = {}
        self._waiting: Waiting | None = None
        self._refusals = Refusals(self, self.policy.patience_s)
        self._gate = PolicyGate(self.policy.policy_patience_s, self._gate_opened)
        self._news = asyncio.Event()

    # What is served

    async def set_snapshot(
        self,
        snapshot: Snapshot,
        *,
        revision: str = "",
        confirmed: bool = False,
        canary: str = "",
        shown: Snapshot | None = None,
    ) -> Outcome:
        """Serves the snapshot from now on. Raises Inconsistent when it names what it does not hold.

        A snapshot that removes more than the allowed share of what is served is held until `confirm`. With `canary`, a
        number or a share, it goes on trial: to that many Envoys once `choose_cohort` says so, until `end_trial`. They
        get it as `shown`. Where nothing is served yet there is nothing to go back to, and no trial.
        """
        revision = revision or snapshot.version
        problems = check(snapshot)
        if problems:
            raise Inconsistent(map(str, problems))
        self.discard()  # the files say something else now, or it is held anew
        if self.snapshot is not None and snapshot.version == self.snapshot.version:
            self.end_trial(is_good=False)
            self.revision, self.source = revision, "manifests"
            for session in self.sessions:
                if session.stream.target is not None:
                    session.stream.publish(session.stream.target)  # whoever asks again has a reason
                    session.wake()
            self._settle()
            return Outcome.UNCHANGED
        before = EMPTY if confirmed or self.snapshot is None else self.snapshot
        if removes := mass_deletion(before, snapshot, self.policy.deletion_share):
            self._waiting = held = Waiting(snapshot, revision, removes, self.policy.deletion_share, self._clock())
            _log.warning("change held until confirmed", revision=revision, reason=held.reason, removes=removes[:20])
            metrics.HELD.set(1)
            return Outcome.HELD
        if canary and self.snapshot is not None:
            self._begin_trial(Trial(snapshot=snapshot, shown=shown or snapshot, revision=revision, size=canary))
            return Outcome.CANARY
        self.serve_unchecked(snapshot, revision)
        return Outcome.SERVED

    def _begin_trial(self, trial: Trial) -> None:
        """Nobody is in the cohort of a new trial; whoever is in that of the present one stays in it."""
        choose(trial.size, ())  # raises where the size is none
        before, self.trial = self.trial, trial
        if before is None:
            return
        if before.revision == trial.revision or (before.cohort and before.size == trial.size):
            self.trial = replace(trial, cohort=before.cohort, services=before.services)
            self._show_trial()
        else:
            self._publish_all()

    def show_to(self, cohort: frozenset[str]) -> Trial:
        """Shows what is on trial to these Envoys, and to every service."""
        if self.trial is None:
            raise RuntimeError("nothing is on trial")
        services = frozenset(stream.node.id for stream in self._services() if stream.node is not None)
        self.trial = replace(self.trial, cohort=cohort, services=services)
        self._show_trial()
        return self.trial

    def adjust(
        self,
        snapshot: Snapshot,
        *,
        on_trial: Snapshot | None = None,
        shown: Snapshot | None = None,
        held: Snapshot | None = None,
    ) -> None:
        """What is served, on trial and held all change in the same way; the trial goes on, what is held stays so."""
        if self.trial is not None and on_trial is not None:
            self.trial = replace(self.trial, snapshot=on_trial, shown=shown or on_trial)
        if self._waiting is not None and held is not None:
            self._waiting.snapshot = held
        self._put(snapshot, snapshot.version)
        self._show_trial()

    def _show_trial(self) -> None:
        if self.trial is None or self.snapshot is None:
            return
        self._trial_effective.clear()
        self._history.remember(self.trial.shown)
        if policies_changed(self.snapshot, self.trial.shown):
            self._gate.close()
        self._publish_all()
        self._gate.check(self._services())

    def _publish_all(self) -> None:
        for session in self.sessions:
            self._publish(session)

    def end_trial(self, *, is_good: bool) -> None:
        """Serves what was on trial to everybody, or takes it back from the cohort."""
        trial, self.trial = self.trial, None
        if trial is None:
            return
        for session in self.sessions:
            if session.revision == trial.revision:
                session.revision = ""
        if is_good:
            self.serve_unchecked(trial.snapshot, trial.revision)
        elif self.snapshot is not None:
            self.out_at = self._clock()
            self.quarantine.forget_outdated(self.snapshot)
            self._publish_all()
            self._settle()

    def target_of(self, node: Node) -> Snapshot:
        """What the client should have."""
        if self.trial is None or not self.trial.includes(node.id):
            return self.effective(node.kind)
        if node.kind not in self._trial_effective:
            accepted = self._accepted.get(node.kind, EMPTY)
            self._trial_effective[node.kind] = self.quarantine.effective(node.kind, self.trial.shown, accepted)
            self._history.remember(self._trial_effective[node.kind])
        return self._trial_effective[node.kind]

    async def confirm(self) -> str | None:
        """Serves the held change. Returns its revision, None when nothing is held."""
        waiting = self._waiting
        self.discard()
        if waiting is not None:
            self.serve_unchecked(waiting.snapshot, waiting.revision)
        return waiting.revision if waiting else None

    def discard(self) -> str | None:
        """Forgets the held change. Returns its revision, None when nothing is held."""
        waiting, self._waiting = self._waiting, None
        metrics.HELD.set(0)
        return waiting.revision if waiting else None

    def report_problems(self, problems: Iterable[str]) -> None:
        """The last edit was not put in service, for these reasons. None: the last edit is fine."""
        self.problems = tuple(problems)
        self.problems_at = self._clock() if self.problems else None

    def restore(
        self, snapshot: Snapshot, revision: str, held: Iterable[Held], variants: Mapping[str, Snapshot]
    ) -> None:
        """Serves what an earlier life of this process served, to each kind of client what it accepted then."""
        self.quarantine = Quarantine(held)
        self._accepted.update(variants)
        for variant in variants.values():
            self._history.remember(variant)
        self.serve_unchecked(snapshot, revision)
        self.source = "last known good"

    def variants(self) -> Mapping[str, Snapshot]:
        """What some kinds of clients are served in place of the snapshot."""
        return {kind: served for kind, served in self._effective.items() if served is not self.snapshot}

    def serve_unchecked(self, snapshot: Snapshot, revision: str) -> None:
        """Serves the snapshot from now on, whatever it lacks or removes. What is on trial is not any more."""
        self.trial = None
        self._put(snapshot, revision)

    def _put(self, snapshot: Snapshot, revision: str) -> None:
        before = self.snapshot
        self.snapshot, self.revision, self.source = snapshot, revision, "manifests"
        self.served_at = self.out_at = self._clock()
        metrics.SERVED.inc()
        self.quarantine.forget_outdated(snapshot, *([self.trial.shown] if self.trial is not None else []))
        self._history.remember(snapshot)
        self._effective.clear()
        self._trial_effective.clear()
        if before is not None and policies_changed(before, snapshot):
            self._gate.close()
        self._publish_all()
        self._gate.check(self._services())
        _log.info("serving", revision=revision, resources=len(snapshot), clients=len(self.sessions))
        self.on_change()
        self._settle()

    def effective(self, kind: str) -> Snapshot:
        """What clients of the kind are served. Only with a snapshot set."""
        if self.snapshot is None:
            return EMPTY
        if kind not in self._effective:
            accepted = self._accepted.get(kind, EMPTY)
            self._effective[kind] = self.quarantine.effective(kind, self.snapshot, accepted)
            self._history.remember(self._effective[kind])
        return self._effective[kind]

    def _publish(self, session: Session) -> None:
        node = session.stream.node
        if self.snapshot is None or node is None:
            return
        snapshot = self.target_of(node)
        if session.stream.target is not snapshot:
            session.stream.publish(snapshot)
        session.stream.hold_back(ROUTES_WAIT if self._gate.is_closed and not self.is_service(node) else frozenset())
        session.wake()

    # Sessions

    def services(self) -> list[Service]:
        """The gRPC services that speak xDS, for `serving.server.Server`."""
        by_service: dict[str, list[Method]] = {}
        for method in METHODS:
            by_service.setdefault(method.service, []).append(method)
        return [
            Service(name=name, stream={method.name: self._handler(method) for method in methods})
            for name, methods in by_service.items()
        ]

    def _handler(self, method: Method) -> Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]:
        async def handle(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
            if len(self.sessions) >= self.policy.max_streams:
                await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {self.policy.max_streams} streams")
            names, is_local = await self.admit(call), is_on_this_machine(call.peer())
            stream = Stream(
                method.variant,
                self._history,
                type_url=method.type_url,
                is_service=lambda node: self.is_service(node) and (is_local or self._may_have_policies(names)),
                patience_s=self.policy.patience_s,
                make_needs=self._make_needs,
            )
            session = Session(stream, self, self.encoder, self._clock, call.peer(), names)
            self.sessions[session] = None
            metrics.CLIENTS.set(len(self.sessions))
            async for body in session.run(requests, call):
                yield body

        return handle

    async def admit(self, call: Call) -> frozenset[str]:
        """The names in the caller's certificate; who may not connect is told so, and the call ends."""
        self.check_clients()
        return await admit(self._allow_list, call)

    def check_clients(self) -> None:
        """Reads the allow-list again if it changed, and ends the streams of those who are not on it any more."""
        if self._allow_list is None or not self._allow_list.refresh():
            return
        for session in tuple(self.sessions):
            if not is_on_this_machine(session.peer) and not self._allow_list.allows(session.identity):
                _log.warning("client taken off the allow-list", peer=session.peer, names=sorted(session.identity))
                session.end()

    async def watch_clients(self) -> None:
        """Follows the allow-list for the streams that are open. Never returns."""
        while True:
            self.check_clients()
            await asyncio.sleep(ALLOW_LIST_INTERVAL_S)

    def _may_have_policies(self, names: frozenset[str]) -> bool:
        return self._allow_list is None or self._allow_list.is_service(names)

    def end_all(self) -> None:
        """Ends every stream: the process is going."""
        for session in tuple(self.sessions):
            session.end()

    def joined(self, session: Session) -> None:
        node = session.stream.node
        if node is not None and self._is_too_old(node):
            oldest = ".".join(map(str, self.policy.oldest_envoy or ()))
            _log.error("Envoy too old", client=node.id, version=node.version, oldest=oldest)
            session.refuse(f"Envoy {node.version} is too old: what is served here needs {oldest} or later")
            return
        self._publish(session)

    def _is_too_old(self, node: Node) -> bool:
        oldest, release = self.policy.oldest_envoy, node.release
        return node.agent == "envoy" and oldest is not None and release is not None and release < oldest

    def quiet(self, session: Session) -> None:
        if self._refusals.hear(session) and session.stream.node is not None:
            kind = session.stream.node.kind
            self._effective.pop(kind, None)
            self._trial_effective.pop(kind, None)
            for other in self.sessions:
                if other.stream.node is not None and other.stream.node.kind == kind:
                    self._publish(other)
            self.on_change()
        self._settle_one(session)
        self._gate.check(self._services())

    def is_wanted(self, verdict: Verdict) -> bool:
        """What was refused is still what should be served."""
        wanted = self.snapshot.get(verdict.type_url, verdict.name) if self.snapshot is not None else None
        return wanted is not None and wanted.version == verdict.version

    def _services(self) -> Iterator[Stream]:
        for session in self.sessions:
            if session.stream.node is not None and self.is_service(session.stream.node):
                yield session.stream

    def _gate_opened(self) -> None:
        for session in self.sessions:
            session.stream.hold_back(frozenset())
            session.wake()

    def left(self, session: Session) -> None:
        if self.sessions.pop(session, 0) is None:
            self._refusals.forget(session)
            if session.stream.node is not None and not session.stream.node.agent:
                self._accepted.pop(session.stream.node.kind, None)
            metrics.CLIENTS.set(len(self.sessions))
            self._gate.check(self._services())
            self._tell()

    def _settle(self) -> None:
        for session in self.sessions:
            self._settle_one(session)
        self._tell()

    def _settle_one(self, session: Session) -> None:
        stream = session.stream
        was_settled, session.is_settled = session.is_settled, stream.is_settled
        if stream.node is None or stream.target is None or not session.is_settled:
            return
        if not was_settled:
            self._tell()
        trial = self.trial if self.trial is not None and self.trial.includes(stream.node.id) else None
        if trial is not None and stream.target is self._trial_effective.get(stream.node.kind):
            revision = trial.revision
        elif stream.target is self._effective.get(stream.node.kind):
            self._accepted[stream.node.kind] = stream.target
            revision = self.revision
        else:
            return
        if session.revision != revision:
            session.revision, session.revision_at = revision, self._clock()
            if trial is None:
                metrics.PROPAGATION.observe(session.revision_at - max(self.out_at, session.began))
            self._tell()

    def _tell(self) -> None:
        """Wakes who waits for news about clients."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        """Returns when a client came, went, or has a revision in full."""
        await self._news.wait()

    # What can be said about it

    def in_use(self, type_url: str) -> Iterator[bytes]:
        """The encoded resources of the type that some client may be using, and what is served in place of others."""
        channels = (session.stream.channels.get(type_url) for session in self.sessions)
        forms = (form for channel in channels if channel is not None for form in channel.held())
        for form in {id(form): form for form in forms}.values():
            if isinstance(form, Resource):
                yield form.body
        for held in self.quarantine.all():
            if held.type_url == type_url:
                yield held.replacement

    @property
    def held(self) -> HeldChange | None:
        return self._waiting.told(self._clock()) if self._waiting is not None else None

    def status(self) -> Status:
        return report.status(self, self._clock(), self.wall())
