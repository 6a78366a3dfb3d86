"""A delta ADS client for a few named resources of one type: how a service gets its policy from the control plane.

`Subscription` is the conversation: a response in, a request out, no I/O and no clock. `AdsClient` is the shell that
keeps a stream open, tries again with backoff, and keeps the last known good on disk. A service goes on with what it has
when the control plane is away, says the resource is gone, or sends one that does not validate (answered with a NACK).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from serving import kept
from serving.address import Address
from serving.kept import Held
from serving.tls import TlsFiles, channel_credentials

EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
MESSAGE_BYTES = 64 << 20
_ERROR_CHARACTERS = 4000  # error_detail travels in one message and ends in a person's terminal

Apply = Callable[[str, bytes], None]
"""Puts the named resource's bytes into effect, or raises ValueError saying what is wrong with them."""
Removed = Callable[[str], None]

_log = structlog.get_logger("serving.ads")


def policy_json(body: bytes) -> str:
    """The JSON text of a policy document: a TypedExtensionConfig whose typed_config is a StringValue.

    Raises ValueError when `body` is something else.
    """
    config, text = extension_pb2.TypedExtensionConfig(), wrappers_pb2.StringValue()
    try:
        config.ParseFromString(body)
        if not config.typed_config.Unpack(text):
            found = config.typed_config.type_url or "nothing"
            raise ValueError(f"typed_config: expected a google.protobuf.StringValue, found {found}")
    except DecodeError as failure:
        raise ValueError(f"not a TypedExtensionConfig: {failure}") from failure
    value: str = text.value
    return value


class Subscription:
    """What one client has of `names`, and what it answers. Pure: `apply` is the only thing it calls."""

    def __init__(
        self, names: Iterable[str], apply: Apply, *, type_url: str = EXTENSION, on_removed: Removed | None = None
    ) -> None:
        self.names = frozenset(names)
        self.type_url = type_url
        self.held: dict[str, Held] = {}
        self.rejected: dict[str, str] = {}  # name -> why its newest version is not in effect
        self.missing: dict[str, str] = {}  # name -> what the server says about its absence
        self._apply = apply
        self._on_removed = on_removed

    @property
    def is_complete(self) -> bool:
        """Every name has a version in effect, from the server or from disk."""
        return self.names == self.held.keys()

    def restore(self, saved: Mapping[str, Held]) -> None:
        """Puts what was kept into effect. What no longer validates is left out, so that the server sends it again."""
        for name in sorted(self.names & saved.keys()):
            try:
                self._apply(name, saved[name].body)
            except ValueError as problem:
                self.rejected[name] = str(problem)
            else:
                self.held[name] = saved[name]

    def opening(self, node: base_pb2.Node) -> discovery_pb2.DeltaDiscoveryRequest:
        """The first request of a stream: who we are, what we want, what we have."""
        return discovery_pb2.DeltaDiscoveryRequest(
            node=node,
            type_url=self.type_url,
            resource_names_subscribe=sorted(self.names),
            initial_resource_versions={name: held.version for name, held in self.held.items()},
        )

    def answer(self, response: discovery_pb2.DeltaDiscoveryResponse) -> discovery_pb2.DeltaDiscoveryRequest:
        """Puts a response into effect and returns its ACK, or its NACK with every problem by resource name.

        What is right in a response takes effect beside what is wrong, as gRPC's clients do (gRFC A46).
        """
        problems: list[str] = []
        if response.type_url != self.type_url:
            problems.append(f"type_url: expected {self.type_url}, found {response.type_url}")
        else:
            for resource in response.resources:
                problem = self._take(resource)
                if problem is not None:
                    problems.append(f"{resource.name}: {problem}")
            for name in response.removed_resources:
                self._remove(name, "removed by the control plane")
            for error in response.resource_errors:
                self.missing[error.resource_name.name] = error.error_detail.message
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if problems:
            message = "; ".join(problems)[:_ERROR_CHARACTERS]
            request.error_detail.CopyFrom(status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message))
        return request

    def _take(self, resource: discovery_pb2.Resource) -> str | None:
        name = resource.name
        if name not in self.names:
            return "not subscribed to"
        if not resource.HasField("resource"):
            return None  # a heartbeat: the version that was sent last lives on
        if resource.resource.type_url != self.type_url:
            problem = f"expected {self.type_url}, found {resource.resource.type_url}"
        else:
            try:
                self._apply(name, resource.resource.value)
            except ValueError as failure:
                problem = str(failure)
            else:
                self.held[name] = Held(version=resource.version, body=resource.resource.value)
                self.rejected.pop(name, None)
                self.missing.pop(name, None)
                return None
        self.rejected[name] = problem
        return problem

    def _remove(self, name: str, why: str) -> None:
        if name not in self.names:
            return
        self.missing[name] = why
        if self._on_removed is not None and self.held.pop(name, None) is not None:
            self._on_removed(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits between attempts: exponential with full jitter, so that a thousand clients do not come back as one."""

    first_s: float = 0.1
    most_s: float = 3.0

    def wait_s(self, failures: int, share: float) -> float:
        """The wait after the `failures`-th failure in a row; `share` is a random number in [0, 1)."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return ceiling * (0.5 + 0.5 * share)


class AdsClient:
    """Keeps `names` in step with the control plane at `server`.

    `load()` puts the last known good into effect (call it before serving), `run()` talks to the server until cancelled.
    `synced` is set when every name has a version in effect. `stale_s()` and `problem()` are for readiness and status.
    """

    def __init__(
        self,
        server: Address,
        subscription: Subscription,
        *,
        node_id: str,
        node_cluster: str,
        state_file: Path | None = None,
        tls: TlsFiles | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        self.synced = asyncio.Event()
        self.is_connected = False
        self._server = server
        self._subscription = subscription
        self._node = base_pb2.Node(id=node_id, cluster=node_cluster, user_agent_name="causeway")
        self._state_file = state_file
        self._tls = tls
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._share = share
        self._heard_at: float | None = None
        self._failures = 0

    def load(self) -> None:
        """Puts what was kept on disk into effect. A damaged file is reported and ignored."""
        if self._state_file is None:
            return
        try:
            saved = kept.read(self._state_file, self._subscription.type_url)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as problem:
            _log.error("kept state unreadable", file=str(self._state_file), error=str(problem))
            return
        self._subscription.restore(saved)
        if self._subscription.held:
            _log.info("last known good in effect", versions=self.versions)
        self._note_synced()

    @property
    def versions(self) -> dict[str, str]:
        return {name: held.version for name, held in sorted(self._subscription.held.items())}

    def stale_s(self) -> float | None:
        """Seconds since the stream was last known to be alive: 0 while connected, None if it never was."""
        if self.is_connected:
            return 0.0
        return None if self._heard_at is None else self._clock() - self._heard_at

    def problem(self) -> str | None:
        """Why the service cannot work yet (a check for /health/ready), or None. Stale policy is no reason: it works."""
        lacking = sorted(self._subscription.names - self._subscription.held.keys())
        if not lacking:
            return None
        reasons = {**self._subscription.missing, **self._subscription.rejected}
        unknown = "not received yet" if self.is_connected else f"no connection to {self._server} yet"
        return "; ".join(f"{name}: {reasons.get(name, unknown)}" for name in lacking)

    def status(self) -> dict[str, object]:
        """For the admin server's JSON."""
        return {
            "server": str(self._server),
            "connected": self.is_connected,
            "stale_s": self.stale_s(),
            "versions": self.versions,
            "rejected": dict(self._subscription.rejected),
            "missing": dict(self._subscription.missing),
        }

    async def run(self) -> None:
        """Talks to the control plane until cancelled, and comes back after every failure."""
        while True:
            try:
                await self._converse()
                reason = "the control plane ended the stream"
            except (grpc.aio.AioRpcError, grpc.aio.UsageError) as failure:
                reason = failure.details() if isinstance(failure, grpc.aio.AioRpcError) else str(failure)
            except OSError as failure:  # TLS files unreadable for a moment
                reason = str(failure)
            finally:
                if self.is_connected:
                    self._heard_at = self._clock()
                self.is_connected = False
            self._failures += 1
            wait_s = self._backoff.wait_s(self._failures, self._share())
            if self._failures == 1 or self._failures % 10 == 0:
                _log.warning("control plane lost", server=str(self._server), reason=reason, failures=self._failures)
            await asyncio.sleep(wait_s)

    async def _converse(self) -> None:
        async with self._channel() as channel:
            stream = channel.stream_stream(
                METHOD,
                request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
            )()
            await stream.write(self._subscription.opening(self._node))
            while (response := await stream.read()) is not grpc.aio.EOF:
                if not self.is_connected:
                    _log.info("control plane connected", server=str(self._server))
                self.is_connected = True
                self._failures = 0
                before = dict(self._subscription.held)
                answer = self._subscription.answer(response)
                if self._subscription.held != before:
                    await self._keep()
                    _log.info("policy in effect", versions=self.versions)
                if answer.HasField("error_detail"):
                    _log.error("policy rejected", error=answer.error_detail.message)
                self._note_synced()
                await stream.write(answer)

    def _channel(self) -> grpc.aio.Channel:
        options = [
            ("grpc.use_local_subchannel_pool", 1),  # every attempt is a new connection, its wait is ours to choose
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        if self._tls is None or self._server.is_unix:
            return grpc.aio.insecure_channel(self._server.target, options=options)
        return grpc.aio.secure_channel(self._server.target, channel_credentials(self._tls), options=options)

    async def _keep(self) -> None:
        """Writes before the ACK: what was acknowledged is there after a crash."""
        if self._state_file is None:
            return
        held = dict(self._subscription.held)
        try:
            await asyncio.to_thread(kept.write, self._state_file, self._subscription.type_url, held)
        except OSError as failure:
            _log.error("cannot keep state on disk", file=str(self._state_file), error=str(failure))

    def _note_synced(self) -> None:
        if self._subscription.is_complete:
            self.synced.set()
