"""The reference service's configuration over ADS, state of the world: `RateLimitConfig` from any control plane that
has it.

A response holds every domain there is; what it leaves out is gone. One that does not validate is answered with a NACK
that names the problem, and the last good one stays.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import grpc
import structlog
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from ratelimit.core.reference import Config, ConfigError, build
from ratelimit.messages import RateLimitConfig
from serving.address import Address
from serving.ads import MESSAGE_BYTES, Backoff
from serving.tls import TlsFiles, channel_credentials

TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

_log = structlog.get_logger("ratelimit.config")


class Conversation:
    """A response in, the answer to it out; `on_config` puts a good one into effect. No I/O."""

    def __init__(self, on_config: Callable[[Config], None], on_problem: Callable[[str], None]) -> None:
        self.version = ""
        self._on_config = on_config
        self._on_problem = on_problem

    def opening(self, node: base_pb2.Node) -> discovery_pb2.DiscoveryRequest:
        """The first request of a stream."""
        return discovery_pb2.DiscoveryRequest(version_info=self.version, node=node, type_url=TYPE_URL)

    def answer(self, response: discovery_pb2.DiscoveryResponse) -> discovery_pb2.DiscoveryRequest:
        """The ACK, or the NACK."""
        request = discovery_pb2.DiscoveryRequest(type_url=TYPE_URL, response_nonce=response.nonce)
        try:
            self._on_config(_config(response))
        except ConfigError as problem:
            _log.error("configuration refused, the last one stays", error=str(problem))
            self._on_problem(str(problem))
            request.error_detail.CopyFrom(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=str(problem)))
        else:
            self.version = response.version_info
            _log.info("configuration in effect", version=self.version)
        request.version_info = self.version
        return request


class ConfigClient:
    """Keeps the configuration in step with the control plane at `server`: `run` until cancelled."""

    def __init__(
        self, server: Address, conversation: Conversation, *, node_id: str, node_cluster: str, tls: TlsFiles | None
    ) -> None:
        self._server = server
        self._conversation = conversation
        self._node = base_pb2.Node(id=node_id, cluster=node_cluster, user_agent_name="causeway")
        self._tls = tls
        self._failures = 0

    async def run(self) -> None:
        """Talks to the control plane, and comes back after every failure."""
        backoff = Backoff()
        while True:
            try:
                await self._converse()
                reason = "the control plane ended the stream"
            except grpc.aio.AioRpcError as failure:
                reason = failure.details() or failure.code().name
            except (grpc.aio.UsageError, OSError) as failure:
                reason = str(failure)
            self._failures += 1
            if self._failures == 1:
                _log.warning("control plane lost", server=str(self._server), reason=reason)
            await asyncio.sleep(backoff.wait_s(self._failures, random.random()))  # noqa: S311 (spreads retries)

    async def _converse(self) -> None:
        async with self._channel() as channel:
            stream = channel.stream_stream(
                METHOD,
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )()
            await stream.write(self._conversation.opening(self._node))
            while (response := await stream.read()) is not grpc.aio.EOF:
                self._failures = 0
                await stream.write(self._conversation.answer(response))

    def _channel(self) -> grpc.aio.Channel:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 20_000),
        ]
        if self._tls is None or self._server.is_unix:
            return grpc.aio.insecure_channel(self._server.target, options=options)
        return grpc.aio.secure_channel(self._server.target, channel_credentials(self._tls), options=options)


def _config(response: discovery_pb2.DiscoveryResponse) -> Config:
    if response.type_url != TYPE_URL:
        raise ConfigError(f"expected {TYPE_URL}, found {response.type_url}")
    return build([parse(resource.value) for resource in response.resources])


def parse(body: bytes) -> tuple[str, object]:
    """A serialised RateLimitConfig as its name and what the YAML form would be. Raises ConfigError."""
    try:
        message = RateLimitConfig.FromString(body)
    except DecodeError as failure:
        raise ConfigError(f"not a RateLimitConfig: {failure}") from None
    written = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return message.name, {"domain": message.domain, "descriptors": list(map(_yaml, written.get("descriptors", [])))}


def _yaml(descriptor: dict[str, object]) -> dict[str, object]:
    """A descriptor as the YAML form has it. There a unit that is left out is unknown, and so it is here."""
    below = descriptor.get("descriptors", [])
    if isinstance(below, list):
        descriptor["descriptors"] = [_yaml(each) for each in below]
    return descriptor
