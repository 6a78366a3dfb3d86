"""The Adapter service of the public xDS test harness, in front of our control plane.

The harness tells an adapter which resources to serve and plays a client against the server: `SetState`, `ClearState`,
`UpdateResource`, `AddResource`, `RemoveResource` of the gRPC service `adapter.Adapter`. How to point the original
harness at our server, and what comes of it: `docs/xds-conformance.md`. Its messages are described here by their field
numbers.
"""

from __future__ import annotations

import asyncio
import sys

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from serving.address import TcpAddress
from serving.server import Call, Server, Service
from tests.xds.playbook import plain
from tests.xds.rows import TYPES

_KINDS = {type_url: kind for kind, type_url in TYPES.items()}
_STRING, _BOOL, _MESSAGE = 9, 8, 11

# message: (field, number, type, is repeated)
_MESSAGES: dict[str, tuple[tuple[str, int, int, bool], ...]] = {
    "SetStateRequest": (
        ("node", 1, _STRING, False),
        ("version", 2, _STRING, False),
        ("resources", 3, _MESSAGE, True),
    ),
    "SetStateResponse": (("success", 1, _BOOL, False),),
    "clearStateRequest": (("node", 1, _STRING, False),),
    "clearStateResponse": (("response", 1, _STRING, False),),
    "ResourceRequest": (
        ("node", 1, _STRING, False),
        ("typeUrl", 2, _STRING, False),
        ("resourceName", 3, _STRING, False),
        ("version", 4, _STRING, False),
    ),
    "UpdateResourceResponse": (("success", 1, _BOOL, False),),
}


def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="adapter.proto", package="adapter", syntax="proto3", dependency=["google/protobuf/any.proto"]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, is_repeated in fields:
            added = message.field.add(name=field, number=number, type=kind, label=3 if is_repeated else 1)
            if kind == _MESSAGE:
                added.type_name = ".google.protobuf.Any"
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"adapter.{name}")) for name in _MESSAGES}


MESSAGES = _classes()


class Adapter:
    """Keeps the state that the harness asked for and serves it. Versions are the harness's own labels.

    The original harness sends a request of its client and a change to the adapter at the same moment, over two
    connections, and counts on the request being first. `settle_s` is how long a change waits for that.
    """

    def __init__(self, plane: ControlPlane, *, settle_s: float = 0) -> None:
        self._plane = plane
        self._settle_s = settle_s
        self._resources: dict[tuple[str, str], Resource] = {}
        self._labels: dict[str, str] = {}
        self._changes = 0

    def service(self) -> Service:
        return Service(
            name="adapter.Adapter",
            unary={
                "SetState": self._set_state,
                "ClearState": self._clear_state,
                "UpdateResource": self._put,
                "AddResource": self._put,
                "RemoveResource": self._remove,
            },
        )

    async def _set_state(self, body: bytes, _: Call) -> bytes:
        request = MESSAGES["SetStateRequest"].FromString(body)
        self._resources.clear()
        self._labels.clear()
        for box in request.resources:
            name = _name(box)
            self._hold(box.type_url, name, request.version)
        return await self._serve()

    async def _clear_state(self, _body: bytes, _: Call) -> bytes:
        self._resources.clear()
        self._labels.clear()
        await self._serve()
        return MESSAGES["clearStateResponse"](response="cleared").SerializeToString()

    async def _put(self, body: bytes, _: Call) -> bytes:
        request = MESSAGES["ResourceRequest"].FromString(body)
        await asyncio.sleep(self._settle_s)
        self._hold(request.typeUrl, request.resourceName, request.version)
        return await self._serve()

    async def _remove(self, body: bytes, _: Call) -> bytes:
        request = MESSAGES["ResourceRequest"].FromString(body)
        await asyncio.sleep(self._settle_s)
        self._resources.pop((request.typeUrl, request.resourceName), None)
        self._labels[request.typeUrl] = request.version
        return await self._serve()

    def _hold(self, type_url: str, name: str, version: str) -> None:
        self._resources[type_url, name] = plain(_KINDS[type_url], name, int(version))
        self._labels[type_url] = version

    async def _serve(self) -> bytes:
        self._changes += 1
        snapshot = Snapshot.of(self._resources.values(), labels=dict(self._labels))
        await self._plane.set_snapshot(snapshot, revision=str(self._changes), confirmed=True)
        return MESSAGES["SetStateResponse"](success=True).SerializeToString()


def _name(box: any_pb2.Any) -> str:
    """The resources come with nothing but a name, field 1 of each type (`cluster_name` for endpoints)."""
    from controlplane.snapshot.consistency import message_type

    kind = message_type(box.type_url)
    assert kind is not None, box.type_url
    message = kind.FromString(box.value)
    return message.cluster_name if "cluster_name" in message.DESCRIPTOR.fields_by_name else message.name


async def _main(adapter_port: int, xds_port: int) -> None:
    plane = ControlPlane()
    adapter, xds = Server([Adapter(plane, settle_s=0.2).service()]), Server(plane.services())
    await adapter.start([TcpAddress("127.0.0.1", adapter_port)])
    await xds.start([TcpAddress("127.0.0.1", xds_port)])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
