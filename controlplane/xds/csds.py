"""CSDS: the standard way to ask what every client of the control plane has, for tools that speak it.

Contents are given on request of nobody: names, versions and states only, since some resources hold secrets. Clients can
be chosen by id; not by a regular expression, since one of a stranger's could run for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.status.v3 import csds_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.message import DecodeError

from controlplane.snapshot.resource import Resource
from controlplane.xds.channel import ABSENT, Channel
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.protocol import Node
from controlplane.xds.quarantine import Held
from serving.server import Call, Service

_State = config_dump_shared_pb2.ClientResourceStatus


def service(plane: ControlPlane) -> Service:
    """The gRPC service, to be put beside the xDS ones."""

    async def fetch(body: bytes, call: Call) -> bytes:
        await plane.admit(call)
        return await _answer(plane, body, call)

    async def stream(bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        await plane.admit(call)
        async for body in bodies:
            yield await _answer(plane, body, call)

    return Service(
        name="envoy.service.status.v3.ClientStatusDiscoveryService",
        unary={"FetchClientStatus": fetch},
        stream={"StreamClientStatus": stream},
    )


async def _answer(plane: ControlPlane, body: bytes, call: Call) -> bytes:
    try:
        wanted = csds_pb2.ClientStatusRequest.FromString(body).node_matchers
    except DecodeError:
        await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a ClientStatusRequest")
    for one in wanted:
        if one.node_metadatas or one.node_id.WhichOneof("match_pattern") not in _PATTERNS:
            supported = ", ".join(filter(None, _PATTERNS))
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, f"node_matchers: only node_id is met here, by {supported}")
    response, held = csds_pb2.ClientStatusResponse(), plane.quarantine.by_type()
    for session in plane.sessions:
        node = session.stream.node
        if node is not None and (not wanted or any(_matches(one.node_id, node.id) for one in wanted)):
            config = response.config.add(
                node=base_pb2.Node(id=node.id, cluster=node.cluster, user_agent_name=node.agent),
                client_scope=f"stream of {session.peer}",
            )
            for channel in session.stream.channels.values():
                config.generic_xds_configs.extend(
                    _resources(channel, held.get((node.kind, channel.type_url), ()), node)
                )
    encoded: bytes = response.SerializeToString()
    return encoded


def _resources(channel: Channel, held: Sequence[Held], node: Node) -> Iterable[csds_pb2.ClientConfig.GenericXdsConfig]:
    """What the client refused stays refused, also when it is not asked for it any more."""
    refused = {one.name: one.text for one in held if one.client == node.id}
    refused |= {name: verdict.text for name, verdict in channel.pinned.items()}
    for name in sorted({*channel.sent, *channel.subscription.names, *refused}):
        sent, acked = channel.sent.get(name), channel.acked.get(name)
        row = csds_pb2.ClientConfig.GenericXdsConfig(type_url=channel.type_url, name=name)
        if isinstance(sent, Resource):
            row.version_info = sent.version
        if name in refused:
            row.config_status, row.client_status = csds_pb2.ERROR, _State.NACKED
            row.error_state.details = refused[name]
        elif sent is None or name in channel.owed:
            row.config_status, row.client_status = csds_pb2.NOT_SENT, _State.REQUESTED
        elif sent is ABSENT:
            row.config_status, row.client_status = csds_pb2.SYNCED, _State.DOES_NOT_EXIST
        elif acked is not None and acked.version == sent.version:
            row.config_status, row.client_status = csds_pb2.SYNCED, _State.ACKED
        else:
            row.config_status, row.client_status = csds_pb2.STALE, _State.REQUESTED
        yield row


_PATTERNS: Mapping[str | None, Callable[[str, str], bool]] = {
    None: lambda text, wanted: True,
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


def _matches(matcher: string_pb2.StringMatcher, text: str) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    wanted = getattr(matcher, kind) if kind else ""
    if matcher.ignore_case:
        text, wanted = text.lower(), wanted.lower()
    return _PATTERNS[kind](text, wanted)
