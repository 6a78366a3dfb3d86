"""Arbitrary conversations: snapshots, requests, acceptances, rejections, delays and reconnects in any order.

The client behaves as Envoy does: it takes a response whole or not at all, asks for what the resources it has name, and
for a while for what a listener named that is draining. While a cluster is warming it says nothing of clusters, neither
yes nor no. Whatever the order of things, no route that worked loses its cluster, and none is without one while the
client speaks; it never loses an extension that it asks for, the server never says again what was refused and never goes
on for ever, and in the end the client has everything but what it refuses.
"""

from __future__ import annotations

from collections import deque
from functools import cache

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import check, part_references, references
from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import EMPTY, Snapshot
from controlplane.xds.protocol import FULL_STATE, REPEATED, DeltaRequest, Node, Response, SotwRequest
from controlplane.xds.protocol import Variant as Protocol
from controlplane.xds.quarantine import Quarantine
from controlplane.xds.stream import Stream
from tests.xds import made, made_types

CLUSTERS = ("a", "b", "c", "d")
EXTENSIONS = ("m", "n", "o")
PREFIXES = ("/x", "/y", "/z")
KIND = "envoy/1"
REFUSED = "refused"
WILD = (types.CLUSTER, types.LISTENER)


def bad(resource: Resource) -> bool:
    """Refused by this client: a cluster, route or extension that says so in its bytes."""
    if resource.type_url == types.EXTENSION:
        return resource.version == made_types.bad_extension(resource.name).version
    if resource.type_url == types.ROUTE:
        return any(part.body == _routes(((part.key, REFUSED),)).parts[0].body for part in resource.parts)
    return resource.type_url == types.CLUSTER and resource.version == made.bad_cluster(resource.name).version


@cache
def _routes(table: tuple[tuple[str, str], ...]) -> Resource:
    """Prefixes to clusters, or to a route that is refused."""
    return made.routes("rc", {prefix: made.bad_route(prefix) if to == REFUSED else to for prefix, to in table})


@cache
def _extension(name: str, value: str) -> Resource:
    return made_types.bad_extension(name) if value == REFUSED else made_types.extension(name, value)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A consistent gateway, some of whose clusters and routes this client refuses."""
    names = draw(st.sets(st.sampled_from(CLUSTERS), min_size=1))
    refused = draw(st.sets(st.sampled_from(sorted(names)), max_size=1)) if draw(st.integers(0, 3)) == 0 else set()
    clusters = [
        made.bad_cluster(name) if name in refused else made.cluster(name, timeout_ms=draw(st.sampled_from([1, 2])))
        for name in sorted(names)
    ]
    assignments = [made.endpoints(name, draw(st.sampled_from([1, 2]))) for name in sorted(names - refused)]
    table = {
        prefix: REFUSED if draw(st.integers(0, 9)) == 0 else draw(st.sampled_from(sorted(names)))
        for prefix in sorted(draw(st.sets(st.sampled_from(PREFIXES), min_size=1)))
    }
    listeners: list[Resource] = []
    if draw(st.integers(0, 9)):
        used = tuple(sorted(draw(st.sets(st.sampled_from(EXTENSIONS)))))
        listeners = [
            made_types.listener("l", draw(st.sampled_from([80, 81])), "rc", extensions=used),
            _routes(tuple(table.items())),
            *(_extension(name, draw(st.sampled_from(("1", "2", "2", "2", REFUSED)))) for name in used),
        ]
    snapshot = Snapshot.of([*clusters, *assignments, *listeners])
    assert check(snapshot) == ()
    return snapshot


class Conversation(RuleBasedStateMachine):
    """One client. Requests and responses travel in order, each when its rule fires."""

    protocol: Protocol

    @initialize(first=snapshots())
    def begin(self, first: Snapshot) -> None:
        self.now = 0.0
        self.history, self.quarantine = History(), Quarantine()
        self.accepted_before = EMPTY
        self.has: dict[str, dict[str, Resource]] = {}
        self.draining: set[str] = set()
        self.wanted = first
        self.has_heard_of_clusters = False
        self.is_warming = False
        self.working: set[tuple[str, str]] = set()
        self.connect()

    # The server's side

    def connect(self) -> None:
        self.stream = Stream(self.protocol, self.history)
        self.to_client: deque[Response] = deque()
        self.to_server: deque[SotwRequest | DeltaRequest] = deque()
        self.unsaid: list[SotwRequest | DeltaRequest] = []
        self.asked: dict[str, set[str]] = {}
        self.nonces: dict[str, str] = {}
        self.versions = getattr(self, "versions", {})
        self.refused: set[tuple[str, frozenset[tuple[str, str]], tuple[str, ...]]] = set()
        self.publish()
        self.ask()

    def publish(self) -> None:
        served = self.quarantine.effective(KIND, self.wanted, self.accepted_before)
        assert check(served) == ()
        self.history.remember(self.wanted)
        self.history.remember(served)
        self.stream.publish(served)

    @rule(snapshot=snapshots())
    def edit(self, snapshot: Snapshot) -> None:
        self.wanted = snapshot
        self.quarantine.forget_outdated(snapshot)
        self.publish()

    @rule()
    def server_writes(self) -> None:
        response = self.stream.next(self.now)
        self.look_at_verdicts()
        if response is None:
            if self.stream.is_settled and self.stream.target is not None:
                self.accepted_before = self.stream.target
            return
        content = frozenset((one.name, one.version) for one in response.resources)
        assert not content or (response.type_url, content, response.removed) not in self.refused
        names = [one.name for one in response.resources]
        assert len(names) == len(set(names))
        assert not set(names) & set(response.removed)
        self.to_client.append(response)

    @precondition(lambda self: self.to_server)
    @rule()
    def server_reads(self) -> None:
        self.stream.receive(self.to_server.popleft(), self.now)
        self.look_at_verdicts()

    def look_at_verdicts(self) -> None:
        verdicts = self.stream.verdicts()
        for verdict in verdicts:
            self.quarantine.add(KIND, "fuzz", verdict, self.now)
        if verdicts:
            self.publish()

    @rule(seconds=st.sampled_from([0.1, 0.6, 6.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reconnect(self) -> None:
        self.connect()

    # The client's side

    @precondition(lambda self: self.to_client)
    @rule()
    def client_reads(self) -> None:
        response = self.to_client.popleft()
        self.nonces[response.type_url] = response.nonce
        self.has_heard_of_clusters = self.has_heard_of_clusters or response.type_url == types.CLUSTER
        error = "refused" if any(map(bad, response.resources)) else None
        if error is None:
            self.take(response)
            self.versions[response.type_url] = response.version
        else:
            content = frozenset((one.name, one.version) for one in response.resources)
            self.refused.add((response.type_url, content, response.removed))
        self.say(response.type_url, error=error)
        self.ask()

    def take(self, response: Response) -> None:
        held = self.has.setdefault(response.type_url, {})
        if response.type_url in REPEATED:
            needed = held.keys() & self.names(response.type_url)
            assert not needed & set(response.removed), "still in use"
            if self.protocol is Protocol.SOTW and (response.resources or response.missing):
                assert needed <= {one.name for one in response.resources}, "Envoy's unified mux reads it as gone"
        if response.type_url == types.LISTENER:
            self.draining |= self.names(types.EXTENSION)
        if self.protocol is Protocol.SOTW and response.type_url in FULL_STATE:
            held.clear()
        asked = self.asked.get(response.type_url, set())
        held.update({one.name: one for one in response.resources if "*" in asked or one.name in asked})
        for name in response.removed:
            held.pop(name, None)

    def names(self, type_url: str) -> set[str]:
        """What Envoy asks for: everything of some types, of others what it was told of."""
        if type_url in WILD:
            return {"*"}
        parents = types.CLUSTER if type_url == types.ENDPOINT else types.LISTENER
        held = self.has.get(parents, {}).values()
        draining = self.draining if type_url == types.EXTENSION else set()
        return {one.name for parent in held for one in references(parent) if one.type_url == type_url} | draining

    @rule()
    def begins_to_warm(self) -> None:
        """From now on nothing is said of clusters."""
        self.is_warming = True

    @precondition(lambda self: self.is_warming)
    @rule()
    def is_warm(self) -> None:
        """What was not said is said."""
        self.is_warming = False
        self.to_server += self.unsaid
        self.unsaid = []

    @rule()
    def drained(self) -> None:
        """What listeners named that were replaced is not needed any more."""
        self.draining = set()
        self.ask()

    def ask(self) -> None:
        """Says what is wanted now, where it was not said. Listeners are asked for once clusters came or failed."""
        for type_url in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.EXTENSION, types.ROUTE):
            names = self.names(type_url)
            if type_url == types.LISTENER and not self.has_heard_of_clusters:
                continue
            if self.asked.get(type_url, set()) == names and (type_url in self.asked or not names):
                continue
            held = self.has.get(type_url, {})
            for gone in [name for name in held if type_url not in WILD and name not in names]:
                del held[gone]
            self.say(type_url, names=names)

    def say(self, type_url: str, *, names: set[str] | None = None, error: str | None = None) -> None:
        before, is_first = self.asked.get(type_url, set()), type_url not in self.asked
        node = Node(id="fuzz", agent="envoy", version="1")
        if names is not None:
            self.asked[type_url] = names
        request: SotwRequest | DeltaRequest
        if self.protocol is Protocol.SOTW:
            request = SotwRequest(
                type_url=type_url,
                names=tuple(sorted(self.asked.get(type_url, set()))),
                nonce=self.nonces.get(type_url, ""),
                version=self.versions.get(type_url, ""),
                error=error,
                node=node,
            )
        else:
            now = self.asked.get(type_url, set())
            held = self.has.get(type_url, {})
            request = DeltaRequest(
                type_url=type_url,
                subscribe=tuple(sorted(now - before)) if names is not None else (),
                unsubscribe=tuple(sorted(before - now)) if names is not None else (),
                initial_versions={name: one.version for name, one in held.items()} if is_first else {},
                nonce=self.nonces.get(type_url, "") if names is None else "",
                error=error,
                node=node,
            )
        if self.is_warming and type_url == types.CLUSTER and not is_first:
            self.unsaid.append(request)
        else:
            self.to_server.append(request)

    # What must always hold

    @invariant()
    def no_route_is_without_its_cluster(self) -> None:
        if not hasattr(self, "has"):
            return
        clusters, working = self.has.get(types.CLUSTER, {}), set()
        for table in self.has.get(types.ROUTE, {}).values():
            for part, named in part_references(table):
                missing = {one.name for one in named if one.type_url == types.CLUSTER} - clusters.keys()
                if not missing:
                    working.add((table.name, part.key))
                assert not missing or (table.name, part.key) not in self.working, (
                    f"{part.key} worked, and lost {missing}"
                )
                assert not missing or self.unsaid, f"{part.key} to {missing}, which the client does not have"
        self.working = working

    def teardown(self) -> None:
        """Left alone, the conversation ends, and the client has everything but what it refuses."""
        if not hasattr(self, "has"):
            return
        self.is_warm()
        for _ in range(500):
            if not self.to_client and not self.to_server:
                self.drained()
            before = (len(self.to_client), len(self.to_server))
            while self.to_server:
                self.server_reads()
            self.server_writes()
            self.server_writes()  # a verdict of the first makes something new to look at
            if self.to_client:
                self.client_reads()
            elif before == (0, 0) and not self.to_server:
                if self.stream.wake_at() is None:
                    break
                self.now += 6.0
        else:
            pytest.fail("the conversation does not end")
        self.no_route_is_without_its_cluster()
        target = self.stream.target
        assert target is not None
        for type_url in (types.CLUSTER, types.LISTENER, types.ROUTE, types.ENDPOINT, types.EXTENSION):
            asked = self.names(type_url)
            wanted = {
                one.name: one.version
                for one in target.of_type(type_url).values()
                if type_url in WILD or one.name in asked
            }
            held = {name: one.version for name, one in self.has.get(type_url, {}).items()}
            assert held == wanted, type_url
        assert self.stream.is_settled


class Sotw(Conversation):
    protocol = Protocol.SOTW


class Delta(Conversation):
    protocol = Protocol.DELTA


_SETTINGS = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestSotw = Sotw.TestCase
TestSotw.settings = _SETTINGS
TestDelta = Delta.TestCase
TestDelta.settings = _SETTINGS
