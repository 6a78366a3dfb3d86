"""A tiny delta ADS server for the client's tests: it records every request and sends what the test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from envoy.config.core.v3 import extension_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import wrappers_pb2

from serving.address import Address
from serving.ads import EXTENSION
from serving.server import Call, Server, Service


def policy(name: str, text: str) -> bytes:
    """A policy document as the control plane sends it."""
    config = extension_pb2.TypedExtensionConfig(name=name)
    config.typed_config.Pack(wrappers_pb2.StringValue(value=text))
    return config.SerializeToString()


def response(
    nonce: str, resources: Mapping[str, tuple[str, bytes]] | None = None, removed: tuple[str, ...] = ()
) -> discovery_pb2.DeltaDiscoveryResponse:
    """A response with `resources` as name -> (version, body)."""
    message = discovery_pb2.DeltaDiscoveryResponse(type_url=EXTENSION, nonce=nonce, removed_resources=removed)
    for name, (version, body) in (resources or {}).items():
        resource = message.resources.add(name=name, version=version)
        resource.resource.type_url, resource.resource.value = EXTENSION, body
    return message


class AdsServer:
    """`requests` holds what clients sent, `send` what the one connected client gets, `hang_up` ends its stream."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[discovery_pb2.DeltaDiscoveryRequest] = asyncio.Queue()
        self.send: asyncio.Queue[discovery_pb2.DeltaDiscoveryResponse | None] = asyncio.Queue()
        self._server: Server | None = None

    async def start(self, address: Address) -> Address:
        service = Service(
            name="envoy.service.discovery.v3.AggregatedDiscoveryService",
            stream={"DeltaAggregatedResources": self._talk},
        )
        self._server = Server([service])
        (bound,) = await self._server.start([address])
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.drain(grace_s=0)

    async def hang_up(self) -> None:
        await self.send.put(None)

    async def next_request(self) -> discovery_pb2.DeltaDiscoveryRequest:
        return await asyncio.wait_for(self.requests.get(), 10)

    async def _talk(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        reading = asyncio.create_task(self._record(requests))
        try:
            while (message := await self.send.get()) is not None:
                yield message.SerializeToString()
        finally:
            reading.cancel()

    async def _record(self, requests: AsyncIterator[bytes]) -> None:
        async for request in requests:
            await self.requests.put(discovery_pb2.DeltaDiscoveryRequest.FromString(request))
