"""One worker of the authorization service: settings in, gRPC and an admin server, the policy from the control plane or
from a file, and a graceful end.

Where Envoy is on the same host it asks over a Unix socket, and that socket is served by the lean server, because there
the transport is most of the cost. TCP is served by grpcio, with TLS, health and reflection.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Final

import structlog
from aiohttp import web
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from prometheus_client import REGISTRY

from extauthz.core.revocations import Revocation
from extauthz.jwks import HttpFetcher
from extauthz.policy import RESOURCE_NAME
from extauthz.revocation import LONGEST_S, StoreUnavailable
from extauthz.service import GRPC_SERVICE, ExtAuthz, Options
from extauthz.settings import Settings
from serving.address import Address, TcpAddress, UnixAddress
from serving.admin import Admin
from serving.ads import AdsClient, Subscription, policy_json
from serving.http2 import UnaryServer
from serving.process import background
from serving.server import Call, Server, Service, Unary, remove_stale_socket
from serving.tls import TlsFiles

CHECK: Final = f"/{GRPC_SERVICE}/Check"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
FIRST_KEYS_S: Final = 2.0
READY_POLL_S: Final = 0.02

_log = structlog.get_logger("extauthz.server")


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs one worker until `stop` is set. Raises OSError, and ValueError for a policy file that does not validate."""
    fetcher = HttpFetcher()
    service = ExtAuthz(
        fetch=fetcher,
        folder=settings.state,
        options=Options(cache_bytes=settings.cache_mb << 20, log_every_allow=settings.log_every_allow),
    )
    REGISTRY.register(service.metrics)
    admin = _admin(service)
    listener = Listener(service, settings)
    try:
        async with service.running():
            work: list[Coroutine[None, None, None]] = []
            if settings.policy is not None:
                service.apply(await asyncio.to_thread(settings.policy.read_text, encoding="utf-8"))
            elif settings.xds is not None:
                work.append(_from_control_plane(settings, service, admin, settings.xds))
            if settings.admin is not None:
                await admin.start(settings.admin)
            await listener.start(settings.listen)
            admin.started()
            async with background(_serving_when_ready(listener, service), *work):
                await stop.wait()
                await listener.drain(settings.drain)
    finally:
        await admin.stop()
        await fetcher.close()
        REGISTRY.unregister(service.metrics)


class Listener:
    """Where Envoy asks: Unix sockets by the lean server, TCP by grpcio; both say the same about their health."""

    def __init__(self, service: ExtAuthz, settings: Settings) -> None:
        self._lean = UnaryServer({CHECK: service.check, HEALTH_CHECK: self._health})
        self._full: Server | None = None
        self._service = service
        self._settings = settings
        self._sockets: list[UnixAddress] = []
        self._is_serving = False

    async def start(self, addresses: Sequence[Address]) -> None:
        """Listens, and says that it does not serve yet. Raises OSError."""
        tcp = [address for address in addresses if isinstance(address, TcpAddress)]
        if tcp:
            self._full = Server(
                [Service(name=GRPC_SERVICE, unary={"Check": _handler(self._service)})],
                tls=_tls(self._settings),
                allow_insecure=self._settings.allow_insecure,
            )
            await self._full.start(tcp, serving=self._is_serving)
        for address in addresses:
            if isinstance(address, UnixAddress):
                remove_stale_socket(address.path)
                before = os.umask(0o177)
                try:
                    await self._lean.start_unix(str(address.path))
                finally:
                    os.umask(before)
                self._sockets.append(address)
                _log.info("listening", addresses=[str(address)], services=[GRPC_SERVICE])

    async def set_serving(self) -> None:
        self._is_serving = True
        if self._full is not None:
            await self._full.set_serving(True)

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing new and lets what is in flight finish."""
        self._is_serving = False
        drains = [self._lean.drain(grace_s)]
        if self._full is not None:
            drains.append(self._full.drain(grace_s=grace_s))
        await asyncio.gather(*drains)
        for address in self._sockets:
            address.path.unlink(missing_ok=True)

    def _health(self, message: bytes) -> bytes:
        asked = HealthCheckRequest.FromString(message).service
        known = asked in ("", GRPC_SERVICE)
        status = HealthCheckResponse.SERVING if self._is_serving else HealthCheckResponse.NOT_SERVING
        answer: bytes = HealthCheckResponse(
            status=status if known else HealthCheckResponse.SERVICE_UNKNOWN
        ).SerializeToString()
        return answer


def _handler(service: ExtAuthz) -> Unary:
    check = service.check

    async def handle(message: bytes, call: Call) -> bytes:
        answer = check(message)
        return answer if isinstance(answer, bytes) else await answer

    return handle


def _from_control_plane(
    settings: Settings, service: ExtAuthz, admin: Admin, xds: Address
) -> Coroutine[None, None, None]:
    """Follows the document at the control plane; the last known good is in effect at once."""
    client = AdsClient(
        xds,
        Subscription([RESOURCE_NAME], lambda _, body: service.apply(policy_json(body))),
        node_id=settings.node or f"extauthz-{socket.gethostname()}-{os.getpid()}",
        node_cluster="extauthz",
        state_file=settings.state / "policy" if settings.state is not None else None,
        tls=_tls(settings),
    )
    client.load()
    admin.add_check("policy", client.problem)
    admin.get("/xds", lambda _: client.status())
    return client.run()


async def _serving_when_ready(listener: Listener, service: ExtAuthz) -> None:
    """Health says SERVING from the first policy on, and keys for it, or once they have been waited for long enough: an
    issuer that is away must not take the routes of the others with it."""
    waited_s = 0.0
    while not service.has_policy or (service.problem() is not None and waited_s < FIRST_KEYS_S):
        await asyncio.sleep(READY_POLL_S)
        waited_s = waited_s + READY_POLL_S if service.has_policy else 0.0
    await listener.set_serving()


def _admin(service: ExtAuthz) -> Admin:
    admin = Admin("extauthz")
    admin.add_check("ready", lambda: None if service.has_policy else "no policy yet")
    admin.get("/status", lambda _: service.status())
    admin.get("/revocations", lambda _: [json.loads(one.dump()) for one in service.revocations])

    async def revoke(request: web.Request) -> object:
        try:
            revocation = Revocation.parse(await request.read())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        if revocation.until > time.time() + LONGEST_S:
            return web.json_response({"error": f"until: at most {LONGEST_S} seconds from now"}, status=400)
        try:
            await service.revoke(revocation)
        except StoreUnavailable as error:
            return web.json_response({"error": f"the revocation is not in force: {error}"}, status=503)
        return {"revoked": json.loads(revocation.dump())}

    admin.post("/revocations", revoke)
    return admin


def _tls(settings: Settings) -> TlsFiles | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(certificate=settings.tls_cert, key=settings.tls_key, ca=settings.tls_ca)
