"""The public harness's 98 example runs, over real gRPC: its Adapter says what to serve, a client plays its part."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2

from controlplane.xds.controlplane import ControlPlane
from serving.address import TcpAddress
from serving.server import Server
from tests.support.waiting import until
from tests.xds.adapter import MESSAGES, Adapter
from tests.xds.playbook import plain
from tests.xds.rows import DELTA, SOTW, TYPES, Variant, row
from tests.xds.wire_client import WireClient, connected, names, versions

SECTION = "Public harness (18 scenarios, 98 runs)"
FULL, NAMED, EVERY = ("CDS", "LDS"), ("RDS", "EDS"), ("CDS", "LDS", "RDS", "EDS")


@dataclass(frozen=True)
class Harness:
    """Both sides of the harness: `do` tells the adapter, `client` is the one that subscribes."""

    adapter: grpc.aio.Channel
    client: WireClient
    plane: ControlPlane

    async def set_state(self, *kinds: str, resources: str = "ABC", version: int = 1) -> None:
        boxes = [
            any_pb2.Any(type_url=TYPES[kind], value=plain(kind, name, 1).body) for kind in kinds for name in resources
        ]
        await self._call("SetState", "SetStateRequest", version=str(version), resources=boxes)

    async def do(self, verb: str, kind: str, name: str, version: int = 2) -> None:
        await self._call(verb, "ResourceRequest", typeUrl=TYPES[kind], resourceName=name, version=str(version))

    async def _call(self, method: str, message: str, **fields: object) -> None:
        await until("what the client said is heard", lambda: self._heard() == self.client.requests)
        request = MESSAGES[message](node="test-id", **fields)
        await self.adapter.unary_unary(f"/adapter.Adapter/{method}")(request.SerializeToString())

    def _heard(self) -> int:
        return sum(one.requests for session in self.plane.sessions for one in session.stream.channels.values())

    async def hears(self, *expected: str, version: int) -> None:
        """One response with exactly these, at this version."""
        response = await self.client.hear()
        assert sorted(names(response)) == sorted(expected)
        if self.client.variant.protocol.value == "sotw":
            assert set(versions(response).values()) <= {str(version)}
        else:
            assert response.system_version_info == str(version)

    async def hears_at_least(self, *expected: str, version: int) -> None:
        """These at this version, and perhaps more, in one response."""
        response = await self.client.hear()
        assert set(expected) <= set(names(response))
        if self.client.variant.protocol.value == "sotw":
            assert response.version_info == str(version)

    async def never_more_than_necessary(self) -> None:
        assert await self.client.is_quiet()
        assert self.client.requests > self.client.responses


@asynccontextmanager
async def harness(variant: Variant, kind: str) -> AsyncIterator[Harness]:
    plane = ControlPlane()
    adapter, xds = Server([Adapter(plane).service()]), Server(plane.services())
    (adapter_at,) = await adapter.start([TcpAddress("127.0.0.1", 0)])
    (xds_at,) = await xds.start([TcpAddress("127.0.0.1", 0)])
    assert isinstance(adapter_at, TcpAddress)
    assert isinstance(xds_at, TcpAddress)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{adapter_at.port}") as channel,
        connected(xds_at.port, variant, kind) as client,
    ):
        yield Harness(channel, client, plane)
    plane.end_all()
    await xds.drain(grace_s=0)
    await adapter.drain(grace_s=0)


@row(SECTION, "1", "Wildcard: all resources in one response, no reply to the ACK", SOTW, FULL)
async def test_wildcard(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind)
        await h.hears("A", "B", "C", version=1)
        await h.never_more_than_necessary()


@row(SECTION, "2", "Wildcard: one updated, the full set at the new version", SOTW, FULL)
async def test_wildcard_update(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind)
        await h.hears("A", "B", "C", version=1)
        await h.do("UpdateResource", kind, "A")
        await h.hears("A", "B", "C", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "3", "Wildcard: one added, the full set with it", SOTW, FULL)
async def test_wildcard_add(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind)
        await h.hears("A", "B", "C", version=1)
        await h.do("AddResource", kind, "D")
        await h.hears("A", "B", "C", "D", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "4", "A subset only", (*SOTW, *DELTA), ("LDS", "RDS"))
async def test_subset(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        await h.never_more_than_necessary()


@row(SECTION, "5", "A subset of full-state types: one changes, the whole subset comes", SOTW, FULL)
async def test_subset_update_full(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        await h.do("UpdateResource", kind, "A")
        await h.hears("A", "B", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "6", "A subset of named types: one changes, at least it comes", SOTW, NAMED)
async def test_subset_update_named(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        await h.do("UpdateResource", kind, "A")
        await h.hears_at_least("A", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "7", "A missing one of a full-state type is created later: the whole subset comes", SOTW, FULL)
async def test_created_later_full(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind, resources="AB")
        await h.client.ask(kind, "A", "B", "D")
        await h.hears("A", "B", version=1)
        await h.do("AddResource", kind, "D")
        await h.hears("A", "B", "D", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "8", "A missing one of a named type is created later: it comes", SOTW, NAMED)
async def test_created_later_named(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind, resources="AB")
        await h.client.ask(kind, "A", "B", "D")
        await h.hears("A", "B", version=1)
        await h.do("AddResource", kind, "D")
        await h.hears_at_least("D", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "9", "Several types on one stream do not mix", (Variant.SOTW_ADS,), ("CDS+LDS", "RDS+EDS"))
async def test_several_types(variant: Variant, kind: str) -> None:
    one, other = kind.split("+")
    async with harness(variant, one) as h:
        await h.set_state(one, other)
        await h.client.ask(one, "A", "B")
        await h.hears("A", "B", version=1)
        await h.client.ask(other, "A", "B")
        response = await h.client.hear(ack=False)
        # The harness accepts every response as one of the first type: a stale nonce there, to be ignored.
        await h.client.answer(response, as_kind=one)
        h.client._nonces[other], h.client._versions[other] = response.nonce, response.version_info
        await h.do("UpdateResource", other, "A")
        assert TYPES[other] == (await h.client.hear()).type_url
        await h.never_more_than_necessary()


@row(SECTION, "10", "Unsubscribed from some of a full-state type: the one that is kept is updated", SOTW, FULL)
async def test_unsubscribe_some_full(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B", "C")
        await h.hears("A", "B", "C", version=1)
        await h.client.ask(kind, "A")
        await h.do("UpdateResource", kind, "A")
        await h.hears_at_least("A", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "11", "Unsubscribed from some of a named type: only the one that is kept is updated", SOTW, NAMED)
async def test_unsubscribe_some_named(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B", "C")
        await h.hears("A", "B", "C", version=1)
        await h.client.ask(kind, "A")
        await h.do("UpdateResource", kind, "A")
        await h.hears("A", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "12", "Unsubscribed from all, said as one empty name: nothing comes", SOTW, EVERY)
async def test_unsubscribe_all(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        await h.client.ask(kind, "")
        await h.do("UpdateResource", kind, "A")
        await h.never_more_than_necessary()


@row(SECTION, "13", "Incremental: A, then B as well", DELTA, EVERY)
async def test_delta_subscribe(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A")
        await h.hears("A", version=1)
        await h.client.ask(kind, "B")
        await h.hears("B", version=1)
        await h.never_more_than_necessary()


@row(SECTION, "14", "Incremental: one updated, only it comes", DELTA, EVERY)
async def test_delta_update(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        first = await h.client.hear()
        await h.do("UpdateResource", kind, "A")
        second = await h.client.hear()
        assert names(second) == ["A"]
        assert versions(second)["A"] != versions(first)["A"]
        assert second.nonce != first.nonce
        await h.never_more_than_necessary()


@row(SECTION, "15", "Incremental: a missing one is told to be missing, and comes when created", DELTA, EVERY)
async def test_delta_created_later(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind, resources="AB")
        await h.client.ask(kind, "A", "D")
        first = await h.client.hear()
        assert names(first) == ["A"]
        assert list(first.removed_resources) == ["D"]
        await h.do("AddResource", kind, "D")
        await h.hears("D", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "16", "Incremental: removed, then added again", DELTA, EVERY)
async def test_delta_removed_and_added(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        await h.do("RemoveResource", kind, "A")
        assert list((await h.client.hear()).removed_resources) == ["A"]
        await h.do("AddResource", kind, "A", version=2)
        await h.hears("A", version=2)
        await h.never_more_than_necessary()


@row(SECTION, "17", "Incremental: unsubscribed one by one, updates are not sent", DELTA, EVERY)
async def test_delta_unsubscribe(variant: Variant, kind: str) -> None:
    async with harness(variant, kind) as h:
        await h.set_state(kind)
        await h.client.ask(kind, "A", "B")
        await h.hears("A", "B", version=1)
        for name in ("A", "B"):
            await h.client.ask(kind, drop=(name,))
            await h.do("UpdateResource", kind, name)
            assert await h.client.is_quiet()
        await h.never_more_than_necessary()


ORDERS = ("CDS+LDS", "LDS+CDS", "RDS+EDS", "EDS+RDS")


@row(SECTION, "18", "Incremental: several types on one stream, updated separately", (Variant.DELTA_ADS,), ORDERS)
async def test_delta_several_types(variant: Variant, kind: str) -> None:
    one, other = kind.split("+")
    async with harness(variant, one) as h:
        await h.set_state(one, other)
        for each in (one, other):
            await h.client.ask(each, "A", "B")
            await h.hears("A", "B", version=1)
        for each in (one, other):
            await h.do("UpdateResource", each, "A")
            response = await h.client.hear()
            assert (response.type_url, names(response)) == (TYPES[each], ["A"])
        await h.never_more_than_necessary()
