"""What authorization costs: a decision alone, a worker under h2load, and a request through Envoy.

- In the process: verifying a token of each kind, beside the bare signature check of the same library.
- h2load straight at one worker's socket, credentials in the cache: decisions a second and CPU for each, beside a grpcio
  server whose handler does nothing. CPU is the worker's own time, so it holds on a busy machine too.
- wrk through Envoy: a route with authorization beside a public one of the same gateway; and Envoy's own jwt_authn
  beside the same small Envoy without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt as pyjwt
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from benchmarks.result import Result
from benchmarks.throughput import TYPE, Round, answering, forwarding, percentile
from extauthz.core import api_keys, jws, jwt
from extauthz.core.decide import Authorizer, Decision
from extauthz.core.request import read
from extauthz.core.revocations import Revocations
from extauthz.jwks import static_key_sets
from extauthz.policy import (
    CONTEXT_POLICY_KEY,
    ApiKey,
    ApiKeys,
    FromField,
    InlineKeys,
    Issuer,
    Policy,
    RoutePolicy,
)
from serving.secret import Secret
from tests.extauthz import signing
from tests.support.envoy import Envoy
from tests.support.gateway import Gateway, causeway
from tests.support.process import Process
from tests.support.waiting import free_port, until_sync

CALLS = 30_000
ROUNDS = 3
ROUND_S = 3
KINDS = ("RS256", "ES256", "HS256", "EdDSA")
KEY = api_keys.new_key(b"0123456789", b"k" * 32, "pepper")
_METHOD = "envoy.service.auth.v3.Authorization/Check"
_NO_OP = """
import asyncio, sys, grpc, uvloop
async def answer(request, context):
    return b"\\x0a\\x00"
async def main():
    server = grpc.aio.server()
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(answer)}
    handler = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", handlers)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port("unix:" + sys.argv[1])
    await server.start()
    await asyncio.Event().wait()
uvloop.run(main())
"""


def run() -> list[Result]:
    for tool in ("wrk", "h2load"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cw-bench-"))
    try:
        return [*_verification(), *_decisions(), *_worker(folder), *_through_envoy(folder)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# In the process -------------------------------------------------------------------------------------------------------


def document() -> Policy:
    return Policy(
        issuers={
            kind: Issuer(
                issuer=f"https://{kind.lower()}.test",
                audiences=("api",),
                keys=InlineKeys(jwks=Secret(signing.key_set(signing.jwk(kind)))),
            )
            for kind in KINDS
        },
        api_keys=ApiKeys(peppers=(Secret("pepper"),), keys={KEY.id: ApiKey(client="robot", digest=KEY.digest)}),
        policies={"required": RoutePolicy()},
        headers={
            "x-user-id": FromField(field="user"),
            "x-tenant-id": FromField(field="tenant"),
            "x-user-roles": FromField(field="roles"),
        },
    )


def token(kind: str, **more: Any) -> str:
    now = int(time.time())
    claims = {"iss": f"https://{kind.lower()}.test", "aud": "api", "sub": "user-1", "tenant_id": "acme"}
    payload = json.dumps({**claims, "roles": ["member", "editor"], "iat": now, "exp": now + 3600, **more}).encode()
    return signing.jws(kind, payload, typ="JWT")


def message(**credential: str) -> bytes:
    """A CheckRequest as Envoy sends it for a route with authorization."""
    asked = CheckRequest()
    http = asked.attributes.request.http
    http.id, http.method, http.path, http.host = "1234567890", "GET", "/api/v1/things/42", "gateway.test"
    http.scheme, http.protocol = "http", "HTTP/1.1"
    asked.attributes.request.time.GetCurrentTime()
    for peer, port in ((asked.attributes.source, 40_000), (asked.attributes.destination, 8080)):
        peer.address.socket_address.address = "127.0.0.1"
        peer.address.socket_address.port_value = port
    asked.attributes.context_extensions[CONTEXT_POLICY_KEY] = "required"
    named = {"x-request-id": "a08f4da8-f565-4065-8bbe-9dadb6d5da12", **credential}
    for name, value in named.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    encoded: bytes = asked.SerializeToString()
    return encoded


def best_us(act: Callable[[], object], *, calls: int = 400, rounds: int = 15) -> float:
    """Microseconds of the quickest round: what else runs on the machine can only add."""
    quickest = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            act()
        quickest = min(quickest, (time.perf_counter() - began) / calls)
    return quickest * 1e6


def _verification() -> Iterator[Result]:
    policy = document()
    keys = static_key_sets(policy)
    issuers = {one.issuer: jwt.Issuer(name, one, keys[name]) for name, one in policy.issuers.items()}
    now = time.time()
    for kind in KINDS:
        text = token(kind).encode()
        parts, key = jws.parse(text), keys[kind].keys[0]
        ours = best_us(lambda text=text: jwt.verify(text, issuers, now))
        bare = best_us(lambda parts=parts, key=key: key.verify(parts.signature, parts.message))
        yield Result(what=f"verify {kind}", measured=ours, unit="µs", beside="signature alone", reference=bare)
        whole = best_us(lambda text=text, kind=kind: _pyjwt(text, kind), calls=200)
        yield Result(what=f"verify {kind}", measured=ours, unit="µs", beside="PyJWT", reference=whole)


def _pyjwt(text: bytes, kind: str) -> object:
    key = pyjwt.PyJWK.from_dict(signing.jwk(kind)) if kind not in _PYJWKS else _PYJWKS[kind]
    _PYJWKS[kind] = key
    return pyjwt.decode(text, key, algorithms=[kind], audience="api", issuer=f"https://{kind.lower()}.test")


_PYJWKS: dict[str, pyjwt.PyJWK] = {}


def _decisions() -> Iterator[Result]:
    """From the bytes of a CheckRequest to those of a CheckResponse."""
    policy = document()
    one = Authorizer(policy, static_key_sets(policy), Revocations(), secret=b"x" * 32)
    now = time.time()

    def decide(asked: bytes) -> None:
        decision = one.decide(read(asked, "x-api-key"), now)
        if not (isinstance(decision, Decision) and decision.allowed):
            raise RuntimeError("a valid credential was refused")

    asked = message(authorization=f"Bearer {token('RS256')}")
    cached = best_us(lambda: decide(asked))
    fresh = [message(authorization=f"Bearer {token('RS256', jti=str(n))}") for n in range(900)]
    began = time.perf_counter()
    for one_asked in fresh:
        decide(one_asked)
    uncached = (time.perf_counter() - began) / len(fresh) * 1e6
    yield Result(what="decide RS256, in the cache", measured=cached, unit="µs", beside="not in it", reference=uncached)
    yield Result(what="memory of a cached token", measured=one.cache.size_bytes / len(one.cache), unit="bytes")


# A worker -------------------------------------------------------------------------------------------------------------


def _worker(folder: Path) -> Iterator[Result]:
    file, socket, other = folder / "policy.json", folder / "worker.sock", folder / "noop.sock"
    file.write_bytes(document().dump())
    listen = ("--listen", f"unix:{socket}", "--policy", file, "--log-every-allow", "0")
    with (
        _running(Process("worker", causeway("extauthz", *listen), folder=folder), socket) as worker,
        _running(Process("noop", [sys.executable, "-c", _NO_OP, str(other)], folder=folder), other) as noop,
    ):
        cases = {kind: {"authorization": f"Bearer {token(kind)}"} for kind in KINDS[:3]} | {
            "API key": {"x-api-key": KEY.text}
        }
        for name, credential in cases.items():
            body = folder / "body"
            asked = message(**credential)
            body.write_bytes(b"\0" + len(asked).to_bytes(4, "big") + asked)
            ours = [_h2load(socket, body, worker) for _ in range(ROUNDS)]
            theirs = [_h2load(other, body, noop, calls=CALLS // 4) for _ in range(ROUNDS)]
            rate, cpu = (statistics.median(found) for found in zip(*ours, strict=True))
            no_op_rate, no_op_cpu = (statistics.median(found) for found in zip(*theirs, strict=True))
            note = "one worker, h2load on the same machine"
            yield Result(
                what=f"checks, {name} cached", measured=rate, unit="/s", beside="grpcio, doing nothing",
                reference=no_op_rate, note=note,
            )  # fmt: skip
            yield Result(
                what=f"CPU of a check, {name} cached", measured=cpu, unit="µs", beside="grpcio, doing nothing",
                reference=no_op_cpu, note=f"{1e6 / cpu:,.0f} checks/s for a whole core",
            )  # fmt: skip
        half = rate / 2
        p99 = _p99_ms(socket, folder / "body", folder / "times", half)
        yield Result(what=f"p99 at half load ({half:,.0f}/s)", measured=p99, unit="ms", note="aim: under 3 ms")
        yield Result(what="memory of the worker", measured=_memory_mb(worker), unit="MB")


@contextmanager
def _running(process: Process, socket: Path) -> Iterator[int]:
    process.start()
    try:
        until_sync(f"{process.name} listening", socket.exists)
        until_sync(f"{process.name} ready", lambda: _answers(socket))
        yield process.pid
    finally:
        process.stop()


def _answers(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _h2load(socket: Path, body: Path, pid: int, *, calls: int = CALLS) -> tuple[float, float]:
    """Calls a second, and the server's CPU for one in microseconds."""
    before = _cpu_s(pid)
    argv = ["h2load", "-n", str(calls), "-c", "4", "-m", "16", "-d", str(body)]
    argv += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    argv += ["-B", f"unix:{socket}", f"http://extauthz/{_METHOD}"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r"finished in [^,]+, ([\d.]+) req/s", out)
    if found is None or f"{calls} succeeded" not in out:
        raise RuntimeError(f"not every call was answered:\n{out}")
    return float(found[1]), (_cpu_s(pid) - before) / calls * 1e6


def _p99_ms(socket: Path, body: Path, log: Path, rate: float) -> float:
    """The 99th percentile of calls that come at a steady rate."""
    clients = 4
    argv = ["h2load", "-n", str(int(rate) * 2), "-c", str(clients), "-m", "16", "--rps", f"{rate / clients:.0f}"]
    argv += ["-d", str(body), "--log-file", str(log), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    argv += ["-B", f"unix:{socket}", f"http://extauthz/{_METHOD}"]
    subprocess.run(argv, capture_output=True, check=True, timeout=60)
    times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    log.unlink()
    return times[int(len(times) * 0.99)] / 1000


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


# Through Envoy --------------------------------------------------------------------------------------------------------


def _through_envoy(folder: Path) -> list[Result]:
    service_port, plain_port, native_port = free_port(), free_port(), free_port()
    service = Envoy(answering(service_port), folder=folder, name="service")
    plain = Envoy(forwarding(plain_port, service_port), folder=folder, name="plain")
    native = Envoy(_with_jwt_authn(native_port, service_port), folder=folder, name="native")
    gateway = Gateway(folder)
    try:
        for envoy in (service, plain, native):
            envoy.start()
        asyncio.run(_apply(gateway, service_port, service, plain, native))
        header = f"authorization: Bearer {token('RS256')}"
        urls = {
            "public": f"http://127.0.0.1:{gateway.port}/free/x",
            "ours": f"http://127.0.0.1:{gateway.port}/api/x",
            "plain": f"http://127.0.0.1:{plain_port}/api/x",
            "native": f"http://127.0.0.1:{native_port}/api/x",
        }
        rounds: dict[str, list[Round]] = {name: [] for name in urls}
        for url in urls.values():
            _wrk(url, header, seconds=1)
        for number in range(ROUNDS):
            for name in sorted(urls, reverse=bool(number % 2)):
                rounds[name].append(_wrk(urls[name], header))
    finally:
        for part in (gateway, native, plain, service):
            part.stop()
    return list(_compared(rounds))


async def _apply(gateway: Gateway, service_port: int, *envoys: Envoy) -> None:
    for envoy in envoys:
        await envoy.ready()
    jwks = gateway.folder / "jwks.json"
    jwks.write_text(signing.key_set(signing.jwk("RS256")))
    issuer = {"issuer": "https://rs256.test", "audiences": ["api"], "jwks": str(jwks)}
    await gateway.apply(
        {
            "identity": {"issuers": {"main": issuer}, "headers": {"x-user-id": "sub", "x-tenant-id": "tenant_id"}},
            "services": {"things": {"endpoints": [f"127.0.0.1:{service_port}"]}},
            "routes": [
                {"path": "/api/**", "service": "things"},
                {"path": "/free/**", "service": "things", "auth": "public"},
            ],
        }
    )


def _compared(rounds: dict[str, list[Round]]) -> Iterator[Result]:
    def median(name: str, figure: Callable[[Round], float]) -> float:
        return statistics.median(map(figure, rounds[name]))

    for ours, without, what in (("ours", "public", "through the gateway"), ("native", "plain", "Envoy's jwt_authn")):
        yield Result(
            what=f"requests, {what}", measured=median(ours, lambda one: one.requests_per_s), unit="/s",
            beside="the same without authorization", reference=median(without, lambda one: one.requests_per_s),
        )  # fmt: skip
        for name, figure in (("p50", lambda one: one.p50_ms), ("p99", lambda one: one.p99_ms)):
            added = median(ours, figure) - median(without, figure)
            yield Result(
                what=f"latency {name}, {what}", measured=median(ours, figure), unit="ms",
                beside="the same without authorization", reference=median(without, figure), note=f"{added:+.2f} ms",
            )  # fmt: skip


def _wrk(url: str, header: str, *, seconds: int = ROUND_S) -> Round:
    argv = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", "-H", header, url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if found is None or "Non-2xx" in out:
        raise RuntimeError(f"not every request was answered well:\n{out}")
    return Round(requests_per_s=float(found[1]), p50_ms=percentile(out, "50"), p99_ms=percentile(out, "99"))


def _with_jwt_authn(port: int, upstream: int) -> dict[str, Any]:
    """The small Envoy with its own verifier in front of the router."""
    configuration = forwarding(port, upstream)
    chain = configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    provider = {
        "issuer": "https://rs256.test",
        "audiences": ["api"],
        "local_jwks": {"inline_string": signing.key_set(signing.jwk("RS256"))},
        "forward": True,
        "jwt_cache_config": {"jwt_cache_size": 100},
    }
    authn = {
        "@type": TYPE + "filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"main": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "main"}}],
    }
    chain["http_filters"].insert(0, {"name": "envoy.filters.http.jwt_authn", "typed_config": authn})
    return configuration
