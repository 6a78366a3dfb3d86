"""One worker of the authorization service: settings in, gRPC and an admin server, the policy from the control plane or
from a file, and a graceful end.

The transport is most of what a check costs, so checks are answered by the lean server; health, reflection and whatever
else gRPC has are there too, on the same addresses, behind it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc
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
from serving.address import Address, UnixAddress
from serving.admin import Admin
from serving.ads import AdsClient, Subscription, policy_json
from serving.front import Front
from serving.http2 import CallError
from serving.process import background
from serving.server import Call, Server, Service, Unary, check_plain
from serving.tls import TlsFiles

CHECK: Final = f"/{GRPC_SERVICE}/Check"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_NOT_FOUND: Final = 5
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
    try:
        with TemporaryDirectory(prefix="causeway-") as private:
            await _serve(settings, service, admin, Listener(service, settings, Path(private)), stop)
    finally:
        await admin.stop()
        await fetcher.close()
        REGISTRY.unregister(service.metrics)


async def _serve(settings: Settings, service: ExtAuthz, admin: Admin, listener: Listener, stop: asyncio.Event) -> None:
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


class Listener:
    """Where Envoy asks. Checks and health are answered by the lean server, everything else by grpcio behind it; TCP
    with TLS is grpcio's alone."""

    def __init__(self, service: ExtAuthz, settings: Settings, private: Path) -> None:
        self._tls = _tls(settings)
        self._allow_insecure = settings.allow_insecure
        self._private = UnixAddress(private / "general.sock")
        self._front = Front({CHECK: service.check, HEALTH_CHECK: self._health}, self._private.path)
        self._general = Server(
            [Service(name=GRPC_SERVICE, unary={"Check": _handler(service)})],
            tls=self._tls,
            allow_insecure=settings.allow_insecure,
        )
        self._is_serving = False

    async def start(self, addresses: Sequence[Address]) -> None:
        """Listens, and says that it does not serve yet. Raises OSError and InsecureAddressError."""
        secured = [address for address in addresses if self._tls is not None and not address.is_unix]
        await self._general.start([self._private, *secured], serving=self._is_serving)
        for address in addresses:
            if address not in secured:
                check_plain(address, allow_insecure=self._allow_insecure)
                bound = await self._front.start(address)
                _log.info("listening", address=str(bound), service=GRPC_SERVICE)

    async def set_serving(self) -> None:
        self._is_serving = True
        await self._general.set_serving(True)

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing new and lets what is in flight finish."""
        self._is_serving = False
        await self._front.drain(grace_s)
        await self._general.drain(grace_s=grace_s)

    def _health(self, message: bytes) -> bytes:
        if HealthCheckRequest.FromString(message).service not in ("", GRPC_SERVICE):
            raise CallError(_NOT_FOUND, "unknown service")
        status = HealthCheckResponse.SERVING if self._is_serving else HealthCheckResponse.NOT_SERVING
        answer: bytes = HealthCheckResponse(status=status).SerializeToString()
        return answer


def _handler(service: ExtAuthz) -> Unary:
    check = service.check

    async def handle(message: bytes, call: Call) -> bytes:
        try:
            answer = check(message)
        except CallError as error:
            await call.abort(grpc.StatusCode.UNAVAILABLE, str(error))
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
    flags = ("--tls-cert", "--tls-key", "--tls-ca")
    return TlsFiles(certificate=settings.tls_cert, key=settings.tls_key, ca=settings.tls_ca, flags=flags)
