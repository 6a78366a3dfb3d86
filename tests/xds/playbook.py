"""A conversation with the state machine, written down as a play: what is served, what the client says, what it hears.

Resources are named by letters and have a version number: `serve(CDS={"A": 1, "B": 1})`. What the client hears is one
line a response: `CDS A@1 B@1 -C ?D` (A and B at version 1, C removed, D does not exist).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf.message import Message

from controlplane.snapshot.history import History
from controlplane.snapshot.resource import Resource, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.protocol import DeltaRequest, Node, Response, SotwRequest
from controlplane.xds.stream import Stream
from tests.xds.rows import TYPES, Variant

NODE = Node(id="test-id", agent="envoy", version="1.40.0")
_SHORT = {type_url: kind for kind, type_url in TYPES.items()}
_NUMBERS: dict[tuple[str, str], int] = {}


@cache
def plain(kind: str, name: str, number: int) -> Resource:
    """A valid resource of the kind that refers to nothing, whose content tells the number."""
    message = _message(kind, name, number)
    body = message.SerializeToString(deterministic=True) if message is not None else f"{name}={number}".encode()
    return known(whole(TYPES[kind], name, body), number)


def known(resource: Resource, number: int) -> Resource:
    """Has the resource printed with this number."""
    _NUMBERS[(resource.name, resource.version)] = number
    return resource


def _message(kind: str, name: str, number: int) -> Message | None:
    match kind:
        case "CDS":
            message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)
            message.connect_timeout.seconds = number
            message.load_assignment.cluster_name = name
            return message
        case "EDS":
            assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
            assignment.policy.overprovisioning_factor.value = 100 + number
            return assignment
        case "LDS":
            return listener_pb2.Listener(name=name, stat_prefix=str(number))
        case "RDS":
            table = route_pb2.RouteConfiguration(name=name)
            host = table.virtual_hosts.add(name=str(number), domains=["*"])
            host.routes.add().direct_response.status = 200
            return table
        case "VHDS":
            return route_components_pb2.VirtualHost(name=str(number), domains=[name.rpartition("/")[2]])
        case _:
            return None


def state(**kinds: Mapping[str, int] | Iterable[Resource]) -> Snapshot:
    """A snapshot: for each kind either numbers by name or resources."""
    resources: list[Resource] = []
    for kind, content in kinds.items():
        if isinstance(content, Mapping):
            resources.extend(plain(kind, name, number) for name, number in content.items())
        else:
            resources.extend(content)
    return Snapshot.of(resources)


class Play:
    """One client. The default kind is the type of its stream where streams are per type."""

    def __init__(
        self, variant: Variant, kind: str = "CDS", *, history: History | None = None, node: Node | None = NODE
    ) -> None:
        self.variant = variant
        self.kind = kind
        self.history = history or History()
        self.node = node
        self.now = 0.0
        self.heard: list[Response] = []
        self.asked: dict[str, tuple[str, ...]] = {}
        self.nonces: dict[str, str] = {}
        self._has_met = False
        self.stream = Stream(
            variant.protocol,
            self.history,
            type_url=None if variant.is_aggregated else TYPES[kind],
            is_service=lambda node: node.agent == "causeway",
        )

    # What is served

    def serve(self, snapshot: Snapshot | None = None, **kinds: Mapping[str, int]) -> None:
        served = snapshot if snapshot is not None else state(**kinds)
        self.history.remember(served)
        self.stream.publish(served)

    # What the client says

    def ask(
        self,
        *names: str,
        kind: str = "",
        drop: tuple[str, ...] = (),
        held: Mapping[str, str] | None = None,
        version: str = "",
        nonce: str | None = None,
    ) -> None:
        """State of the world: the whole list. Incremental: names to add, and to drop."""
        kind = kind or self.kind
        node, self._has_met = (None if self._has_met else self.node), True
        type_url = TYPES[kind] if self.variant.is_aggregated else ""
        self.asked[kind] = names
        request: SotwRequest | DeltaRequest
        if self.variant.protocol.value == "sotw":
            nonce = self.nonces.get(kind, "") if nonce is None else nonce
            request = SotwRequest(type_url=type_url, names=names, version=version, nonce=nonce, node=node)
        else:
            request = DeltaRequest(
                type_url=type_url,
                subscribe=names,
                unsubscribe=drop,
                initial_versions=held or {},
                nonce=nonce or "",
                node=node,
            )
        self.stream.receive(request, self.now)

    def only(self, *names: str, before: tuple[str, ...], kind: str = "") -> None:
        """From now on these names: said in either protocol's way."""
        if self.variant.protocol.value == "sotw":
            self.ask(*names, kind=kind)
        else:
            self.ask(*(n for n in names if n not in before), drop=tuple(n for n in before if n not in names), kind=kind)

    def ack(self, response: Response) -> None:
        self._answer(response, None)

    def nack(self, response: Response, text: str = "refused") -> None:
        self._answer(response, text)

    def _answer(self, response: Response, error: str | None) -> None:
        kind = _SHORT[response.type_url]
        type_url = response.type_url if self.variant.is_aggregated else ""
        if self.variant.protocol.value == "sotw":
            names = self.asked.get(kind, ())
            self.stream.receive(
                SotwRequest(
                    type_url=type_url, names=names, version=response.version, nonce=response.nonce, error=error
                ),
                self.now,
            )
        else:
            self.stream.receive(DeltaRequest(type_url=type_url, nonce=response.nonce, error=error), self.now)

    # What the client hears

    def hear(self) -> list[Response]:
        """Everything the server says before it must be answered."""
        said = []
        while (response := self.stream.next(self.now)) is not None:
            said.append(response)
            self.nonces[_SHORT[response.type_url]] = response.nonce
            assert len(said) < 1000, "the server does not stop"
        self.heard += said
        return said

    def hears(self) -> list[str]:
        """The same as lines, unanswered."""
        return [line(response) for response in self.hear()]

    def talk(self) -> list[str]:
        """Hears and accepts until the server has nothing more to say."""
        lines: list[str] = []
        while said := self.hear():
            lines += map(line, said)
            for response in said:
                self.ack(response)
            assert len(lines) < 1000, "the conversation does not end"
        return lines


def line(response: Response) -> str:
    """One response as a line."""
    words = [_SHORT[response.type_url]]
    words += [f"{one.name}@{_NUMBERS.get((one.name, one.version), '?')}" for one in response.resources]
    words += [f"-{name}" for name in response.removed]
    words += [f"?{name}" for name in response.missing]
    return " ".join(words)
