"""The small HTTP server every process has for people and probes: /health, /metrics, and the process's own JSON.

    GET /health          every check with its reason; 503 when one fails
    GET /health/live     200 while the event loop answers
    GET /health/ready    503 while a check fails: send no traffic
    GET /health/startup  503 until `started` was called: do not judge liveness yet
    GET /metrics         prometheus-client's text format

It listens on loopback unless told otherwise. It must not know what the checks check.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from serving.address import Address, TcpAddress, UnixAddress, parse_address
from serving.server import remove_stale_socket

Check = Callable[[], str | Awaitable[str | None] | None]
"""Returns why it fails, in words, or None when all is well."""
Answer = Callable[[web.Request], object | Awaitable[object]]
"""Returns a JSON value (status 200), or a web.Response as it is."""

CHECK_TIMEOUT_S = 2.0
BODY_BYTES = 1 << 20


class Admin:
    """The server of one process: add checks and routes, `start`, call `started()` when start-up is done, `stop`."""

    def __init__(
        self,
        process: str,
        *,
        checks: Mapping[str, Check] | None = None,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = web.Application(middlewares=[_refuse_cross_site], client_max_size=BODY_BYTES)
        self.bound: Address | None = None
        self._process = process
        self._checks = dict(checks or {})
        self._registry = registry
        self._clock = clock
        self._began = clock()
        self._is_started = False
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        self.get("/health", self._health)
        self.get("/health/live", lambda _: {"status": "ok"})
        self.get("/health/ready", self._health)
        self.get("/health/startup", self._startup)
        self.get("/metrics", self._metrics)

    def get(self, path: str, answer: Answer) -> None:
        """Answers GET `path` (aiohttp's patterns) with JSON. Before `start`."""
        self.app.router.add_get(path, _as_handler(answer))

    def post(self, path: str, answer: Answer) -> None:
        """Answers POST `path` with JSON; a page of another site cannot make a browser send it. Before `start`."""
        self.app.router.add_post(path, _as_handler(answer))

    def add_check(self, name: str, check: Check) -> None:
        self._checks[name] = check

    def started(self) -> None:
        """The start-up is done: /health/startup answers 200 from now on."""
        self._is_started = True

    async def start(self, address: Address) -> Address:
        """Listens on `address` and returns it with the port the system chose. Raises OSError."""
        await self._runner.setup()
        match address:
            case UnixAddress(path):
                remove_stale_socket(path)
                await web.UnixSite(self._runner, str(path)).start()
                path.chmod(0o600)
                self.bound = address
            case TcpAddress(host, port):
                await web.TCPSite(self._runner, host, port, reuse_address=True).start()
                self.bound = TcpAddress(host, self._runner.addresses[0][1])
        return self.bound

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def failing(self) -> dict[str, str]:
        """The checks that fail now, with their reasons."""
        reasons = await asyncio.gather(*map(_run_check, self._checks.values()))
        return {name: reason for name, reason in zip(self._checks, reasons, strict=True) if reason is not None}

    async def _health(self, request: web.Request) -> web.Response:
        failing = await self.failing()
        return web.json_response(
            {
                "status": "unavailable" if failing else "ok",
                "process": self._process,
                "uptime_s": round(self._clock() - self._began, 3),
                "checks": {name: failing.get(name, "ok") for name in self._checks},
            },
            status=503 if failing else 200,
        )

    def _startup(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ok" if self._is_started else "starting"}, status=200 if self._is_started else 503
        )

    def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


async def _run_check(check: Check) -> str | None:
    try:
        outcome = check()
        if isawaitable(outcome):
            return await asyncio.wait_for(outcome, CHECK_TIMEOUT_S)
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except Exception as failure:  # a check that fails says so and takes nothing down
        return f"{type(failure).__name__}: {failure}"
    return outcome


def _as_handler(answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        result = answer(request)
        if isawaitable(result):
            result = await result
        if isinstance(result, web.StreamResponse):
            return result
        return web.json_response(result, dumps=_dumps)

    return handle


def _dumps(value: object) -> str:
    return json.dumps(value, default=str)


@web.middleware
async def _refuse_cross_site(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A web page open on the same machine must neither change anything here, nor read it by rebinding its host name."""
    host = request.headers.get("Host", "")
    if _is_over_loopback(request) and not _is_local_name(host):
        raise web.HTTPForbidden(text="unexpected Host header")
    origin = request.headers.get("Origin")
    if request.method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
        raise web.HTTPForbidden(text="cross-site request")
    return await handler(request)


def _is_over_loopback(request: web.Request) -> bool:
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return isinstance(name, tuple) and TcpAddress(str(name[0]), int(name[1])).is_loopback


def _is_local_name(host: str) -> bool:
    try:
        return parse_address(host if ":" in host.rpartition("]")[2] else f"{host}:80").is_loopback
    except ValueError:
        return False
