"""One worker of the authorization service: settings in, a gRPC server, an admin server, the policy from the control
plane or from a file, and a graceful end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Coroutine

from aiohttp import web
from prometheus_client import REGISTRY

from extauthz.core.revocations import Revocation
from extauthz.jwks import HttpFetcher
from extauthz.policy import RESOURCE_NAME
from extauthz.revocation import LONGEST_S, StoreUnavailable
from extauthz.service import GRPC_SERVICE, ExtAuthz, Options
from extauthz.settings import Settings
from serving.address import Address
from serving.admin import Admin
from serving.ads import AdsClient, Subscription, policy_json
from serving.process import background
from serving.server import Call, Server, Service, Unary
from serving.tls import TlsFiles

FIRST_KEYS_S = 2.0
READY_POLL_S = 0.02


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
    server = Server(
        [Service(name=GRPC_SERVICE, unary={"Check": _handler(service)})],
        tls=_tls(settings),
        allow_insecure=settings.allow_insecure,
    )
    try:
        async with service.running():
            work = [_serving_when_ready(server, service)]
            if settings.policy is not None:
                service.apply(await asyncio.to_thread(settings.policy.read_text, encoding="utf-8"))
            elif settings.xds is not None:
                work.append(_from_control_plane(settings, service, admin, settings.xds))
            if settings.admin is not None:
                await admin.start(settings.admin)
            async with background(*work):
                await server.start(settings.listen, serving=False)
                admin.started()
                await stop.wait()
                await server.drain(grace_s=settings.drain)
    finally:
        await admin.stop()
        await fetcher.close()
        REGISTRY.unregister(service.metrics)


def _handler(service: ExtAuthz) -> Unary:
    check = service.check

    async def handle(message: bytes, call: Call) -> bytes:
        return await check(message)

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


async def _serving_when_ready(server: Server, service: ExtAuthz) -> None:
    """Health says SERVING from the first policy on, and keys for it, or once they have been waited for long enough: an
    issuer that is away must not take the routes of the others with it."""
    waited_s = 0.0
    while not service.has_policy or (service.problem() is not None and waited_s < FIRST_KEYS_S):
        await asyncio.sleep(READY_POLL_S)
        waited_s = waited_s + READY_POLL_S if service.has_policy else 0.0
    await server.set_serving(True)


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
