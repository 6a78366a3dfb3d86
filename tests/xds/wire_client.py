"""A client that speaks xDS over a real gRPC connection, one variant at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from controlplane.xds.methods import METHODS
from tests.xds.rows import TYPES, Variant

Heard = discovery_pb2.DiscoveryResponse | discovery_pb2.DeltaDiscoveryResponse
QUIET_S = 0.06


class WireClient:
    """One stream. `ask` says, `hear` waits for a response, `is_quiet` is true when none comes."""

    def __init__(self, variant: Variant, call: grpc.aio.StreamStreamCall, node: base_pb2.Node) -> None:
        self.variant = variant
        self.requests = 0
        self.responses = 0
        self._call = call
        self._node: base_pb2.Node | None = node
        self._nonces: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._unread: asyncio.Task[Heard] | None = None

    async def ask(self, kind: str, *names: str, drop: tuple[str, ...] = ()) -> None:
        node, self._node = self._node, None
        self._names[kind] = names
        type_url = TYPES[kind]
        if self.variant.protocol.value == "sotw":
            request = discovery_pb2.DiscoveryRequest(
                type_url=type_url,
                resource_names=names,
                response_nonce=self._nonces.get(kind, ""),
                version_info=self._versions.get(kind, ""),
                node=node,
            )
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, resource_names_unsubscribe=drop, node=node
            )
        await self._write(request)

    async def hear(self, *, within_s: float = 2.0, ack: bool = True) -> Heard:
        if self._unread is None:
            self._unread = asyncio.ensure_future(self._call.read())
        async with asyncio.timeout(within_s):
            response = await asyncio.shield(self._unread)
        self._unread = None
        assert response is not grpc.aio.EOF, "the server ended the stream"
        self.responses += 1
        if ack:
            await self.answer(response)
        return response

    async def is_quiet(self, for_s: float = QUIET_S) -> bool:
        if self._unread is None:
            self._unread = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait([self._unread], timeout=for_s)
        return not done

    async def answer(self, response: Heard, error: str | None = None, *, as_kind: str | None = None) -> None:
        kind = as_kind or next(kind for kind, type_url in TYPES.items() if type_url == response.type_url)
        detail = status_pb2.Status(code=3, message=error) if error is not None else None
        if self.variant.protocol.value == "sotw":
            self._nonces[kind], self._versions[kind] = response.nonce, response.version_info
            request = discovery_pb2.DiscoveryRequest(
                type_url=TYPES[kind],
                resource_names=self._names.get(kind, ()),
                response_nonce=response.nonce,
                version_info=response.version_info,
                error_detail=detail,
            )
        else:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=TYPES[kind], response_nonce=response.nonce, error_detail=detail
            )
        await self._write(request)

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()

    async def details(self) -> str:
        return await self._call.details()

    async def end(self) -> None:
        await self._call.done_writing()

    async def _write(self, request: discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest) -> None:
        self.requests += 1
        await self._call.write(request)


@asynccontextmanager
async def connected(
    port: int, variant: Variant, kind: str = "CDS", *, node: base_pb2.Node | None = None
) -> AsyncIterator[WireClient]:
    """A stream of the variant: to the aggregated service, or to the service of the kind."""
    type_url = None if variant.is_aggregated else TYPES[kind]
    method = next(one for one in METHODS if one.variant is variant.protocol and one.type_url == type_url)
    sotw = variant.protocol.value == "sotw"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=(
                discovery_pb2.DiscoveryResponse if sotw else discovery_pb2.DeltaDiscoveryResponse
            ).FromString,
        )()
        client = WireClient(variant, call, node or base_pb2.Node(id="test-id", user_agent_name="envoy"))
        try:
            yield client
        finally:
            call.cancel()
            if client._unread is not None:
                client._unread.cancel()


def versions(response: Heard) -> dict[str, str]:
    """Versions by name; in state of the world every resource has the response's."""
    if isinstance(response, discovery_pb2.DiscoveryResponse):
        return dict.fromkeys(names(response), response.version_info)
    return {one.name: one.version for one in response.resources}


def names(response: Heard) -> list[str]:
    if isinstance(response, discovery_pb2.DeltaDiscoveryResponse):
        return [one.name for one in response.resources]
    return [_name(box.value) for box in response.resources]


def _name(body: bytes) -> str:
    """Field 1 of every type is its name."""
    length = body[1]
    return body[2 : 2 + length].decode()
