"""The rate limit service as a process: gRPC in front, a store behind, configuration from files or over ADS.

It starts alone with a folder of the reference service's YAML, or beside our control plane with `--xds`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import structlog
from grpc_health.v1 import health_pb2
from prometheus_client import REGISTRY, CollectorRegistry

from ratelimit import api, policy
from ratelimit.config import Watcher
from ratelimit.config_ads import ConfigClient, Conversation
from ratelimit.core.answer import Answer, Style
from ratelimit.core.limits import Limits
from ratelimit.core.plan import NotLoadedError, RequestError
from ratelimit.core.reference import Config
from ratelimit.meters import Meters
from ratelimit.service import RateLimitService, wall_clock_us
from ratelimit.settings import Settings
from ratelimit.store.connect import connect
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import RedisStore, StoreDownError
from serving.address import UnixAddress
from serving.admin import Admin
from serving.ads import AdsClient, Subscription, policy_json
from serving.front import Front
from serving.http2 import UNAVAILABLE, CallError, Handler
from serving.process import background
from serving.server import Call, Server, Service, Unary, check_plain
from serving.server import Limits as CallLimits
from serving.tls import TlsFiles

SERVICE_NAME = "envoy.service.ratelimit.v3.RateLimitService"
METHOD = f"/{SERVICE_NAME}/ShouldRateLimit"
HEALTH = "/grpc.health.v1.Health/Check"
NOT_FOUND = 5
UNKNOWN = 2
"""The reference service's gRPC status for a wrong request and for a store that is down."""
HEALTH_NAME = "ratelimit"
"""The name under which the reference service tells its health."""
ANNOUNCE_S = 1.0

_log = structlog.get_logger("ratelimit.server")


async def serve(settings: Settings, stop: asyncio.Event, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Runs the service until `stop` is set. Raises OSError, ValueError."""
    meters = Meters(tags=dict(_pair(tag) for tag in settings.extra_tags))
    registry.register(meters)
    async with AsyncExitStack() as stack:
        stack.callback(registry.unregister, meters)
        service, kind = await stack.enter_async_context(_service(settings, meters))
        admin = Admin("ratelimit", registry=registry)
        api.mount(admin, service, store_kind=kind)
        work = _sources(settings, service, admin)
        if isinstance(service.store, RedisStore):
            work.append(_announce(service, service.store, _node(settings)))
            admin.add_check("store", lambda: _store_problem(service))
        else:
            work.append(_count(service, meters))
        stack.push_async_callback(admin.stop)
        await admin.start(settings.admin)
        async with background(*work):
            end = await _listen(settings, service, stack, stop)
            admin.started()
            await stop.wait()
            await end()


async def _listen(
    settings: Settings, service: RateLimitService, stack: AsyncExitStack, stop: asyncio.Event
) -> Callable[[], Awaitable[None]]:
    """Serves on every address; what is returned ends that gracefully.

    Plain connections are served by the fast server, which has the general one behind it; TLS by the general one alone.
    """
    tls = _tls(settings)
    general = Server(
        [Service(name=SERVICE_NAME, unary={"ShouldRateLimit": _handler(service)}), Service(name=HEALTH_NAME)],
        limits=CallLimits(message_bytes=1 << 20),
        tls=tls,
        allow_insecure=settings.allow_insecure,
    )
    private = Path(stack.enter_context(TemporaryDirectory(prefix="causeway-"))) / "general.sock"
    fast = Front({METHOD: _fast(service), HEALTH: _health(stop)}, private)
    secured = [address for address in settings.listen if tls is not None and not address.is_unix]
    await general.start([UnixAddress(private), *secured])
    for address in settings.listen:
        if address not in secured:
            check_plain(address, allow_insecure=settings.allow_insecure)
            bound = await fast.start(address)
            _log.info("listening", address=str(bound), service=SERVICE_NAME)

    async def end() -> None:
        await fast.drain(settings.drain_s)
        await general.drain(grace_s=settings.drain_s)

    return end


def _health(stop: asyncio.Event) -> Handler:
    """Answers grpc.health.v1's Check where calls are: a client's channel is one connection for both."""

    def check(request: bytes) -> bytes:
        asked = health_pb2.HealthCheckRequest.FromString(request)
        if asked.service not in ("", SERVICE_NAME, HEALTH_NAME):
            raise CallError(NOT_FOUND, "unknown service")
        status = health_pb2.HealthCheckResponse
        told: bytes = status(status=status.NOT_SERVING if stop.is_set() else status.SERVING).SerializeToString()
        return told

    return check


def _fast(service: RateLimitService) -> Handler:
    """Answers ShouldRateLimit for the fast server."""

    async def later(answering: Awaitable[Answer]) -> bytes:
        try:
            return (await answering).response
        except StoreDownError as problem:
            raise CallError(UNKNOWN, str(problem)) from None

    def should_rate_limit(request: bytes) -> bytes | Awaitable[bytes]:
        try:
            answer = service.begin(request)
        except NotLoadedError as problem:
            raise CallError(UNAVAILABLE, str(problem)) from None
        except (RequestError, StoreDownError) as problem:
            raise CallError(UNKNOWN, str(problem)) from None
        return answer.response if isinstance(answer, Answer) else later(answer)

    return should_rate_limit


@asynccontextmanager
async def _service(settings: Settings, meters: Meters) -> AsyncIterator[tuple[RateLimitService, str]]:
    """The service on its store, and the store's kind."""
    headers = (settings.limit_header, settings.remaining_header, settings.reset_header)
    style = Style(
        shadows_all=settings.shadow_mode,
        all_are_quotas=settings.quota_mode,
        reference_headers=headers if settings.response_headers else None,
        tells_metadata=settings.response_metadata,
    )
    url = settings.redis_url.reveal() if settings.redis_url else settings.redis
    if not url:
        memory = MemoryStore(wall_clock_us, max_counters=settings.max_counters)
        yield RateLimitService(memory, meters, style=style), "memory"
        return
    connected = connect(url)
    store = RedisStore(
        connected.client, observer=meters, tags=connected.tags, timeout_s=settings.redis_timeout_ms / 1000
    )
    await store.start()
    try:
        yield RateLimitService(store, meters, style=style), f"redis ({connected.kind})"
    finally:
        await store.close()


def _sources(settings: Settings, service: RateLimitService, admin: Admin) -> list[Coroutine[None, None, None]]:
    """Where configuration comes from, as work to run; what is there already is in effect when this returns."""
    work: list[Coroutine[None, None, None]] = []

    def use_config(config: Config) -> None:
        service.use(config=config)
        service.meters.config_loads += 1

    def refuse(problem: str) -> None:
        service.meters.config_failures += 1

    if settings.config is not None:
        watcher = Watcher(settings.config, use_config, refuse, merges_domains=settings.merge_domains)
        watcher.look()
        work.append(watcher.run())
        admin.add_check("config", lambda: None if service.rules.is_loaded else "no configuration was loaded yet")
    if settings.xds is None:
        return work
    node, tls = _node(settings), _tls(settings)
    if settings.xds_reference:
        conversation = Conversation(use_config, refuse)
        work.append(ConfigClient(settings.xds, conversation, node_id=node, node_cluster="ratelimit", tls=tls).run())
        return work

    def use_policy(name: str, body: bytes) -> None:
        service.use(limits=Limits(policy.parse(policy_json(body))))

    state = settings.state / "ratelimit.policy" if settings.state else None
    client = AdsClient(
        settings.xds,
        Subscription([policy.RESOURCE_NAME], use_policy),
        node_id=node,
        node_cluster="ratelimit",
        state_file=state,
        tls=tls,
    )
    client.load()
    admin.add_check("policy", client.problem)
    admin.get("/xds", lambda _: client.status())
    work.append(client.run())
    return work


def _handler(service: RateLimitService) -> Unary:
    async def should_rate_limit(request: bytes, call: Call) -> bytes:
        try:
            return await service.decide(request)
        except NotLoadedError as problem:
            await call.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        except (RequestError, StoreDownError) as problem:
            await call.abort(grpc.StatusCode.UNKNOWN, str(problem))

    return should_rate_limit


async def _announce(service: RateLimitService, store: RedisStore, node: str) -> None:
    """Keeps count of the replicas that share the store: a limit that is counted locally is divided by them."""
    while True:
        if not store.is_open:
            try:
                service.replicas = await store.announce(node)
            except StoreDownError as problem:
                store.trip(problem)
        await asyncio.sleep(ANNOUNCE_S)


async def _count(service: RateLimitService, meters: Meters) -> None:
    while True:
        meters.counters = len(service.store) if isinstance(service.store, MemoryStore) else 0
        await asyncio.sleep(1)


def _store_problem(service: RateLimitService) -> str | None:
    return "the store does not answer" if service.meters.is_breaker_open else None


def _pair(tag: str) -> tuple[str, str]:
    name, _, value = tag.partition("=")
    return name, value


def _node(settings: Settings) -> str:
    return settings.node or f"ratelimit-{socket.gethostname()}-{os.getpid()}"


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    flags = ("--tls-cert", "--tls-key", "--tls-ca")
    return TlsFiles(certificate=settings.tls_cert, key=settings.tls_key, ca=settings.tls_ca, flags=flags)
