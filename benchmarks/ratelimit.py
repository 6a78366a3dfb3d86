"""The rate limit service: decisions per second, what one costs, how long it takes; beside the reference service.

h2load asks one worker directly: memory, then Redis, then the reference service in Go with the same configuration on the
same Redis, in alternating rounds. At equal load (open loop) the latencies are compared. Through Envoy, wrk compares a
route with a limit to the same route without. Accuracy and behaviour in an outage are printed as figures as well.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result import Result
from ratelimit.core.budget import Budget, Code, Kind, Take
from ratelimit.core.keys import identity
from ratelimit.core.limits import Limits
from ratelimit.meters import Meters
from ratelimit.policy import Limit, Policy, Quota, Stage, StoreError
from ratelimit.service import RateLimitService
from ratelimit.store.connect import connect
from ratelimit.store.memory import MemoryStore
from ratelimit.store.redis import RedisStore
from tests.ratelimit.requests import limited, request
from tests.support.envoy import Envoy
from tests.support.gateway import causeway
from tests.support.process import Process
from tests.support.redis import Redis
from tests.support.waiting import free_port, until, until_sync

ROUNDS = 3
REQUESTS = 15_000
CONNECTIONS, STREAMS = 2, 16
OPEN_LOOP_RPS, OPEN_LOOP_S = 1_000, 4
WRK_S, WRK_CONNECTIONS = 3, 16
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CONFIG = "domain: bench\ndescriptors:\n  - {key: k, rate_limit: {unit: second, requests_per_unit: 4000000000}}\n"
# The newest commit that is published as a Go module under a version others depend on; `main` itself is tried first.
REFERENCE = "github.com/envoyproxy/ratelimit"
REFERENCE_VERSIONS = ("main", "v1.4.1-0.20260122083618-3fb702589d36")
REFERENCE_BINARY = Path.home() / ".cache" / "causeway" / "reference-ratelimit-3fb702589d36"
BUILD_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of h2load. Latencies in milliseconds, CPU in microseconds per request."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def run() -> list[Result]:
    """Every figure of the service."""
    for tool in ("h2load", "wrk"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cw-bench-"))
    redis = Redis(folder)
    stops: list[Callable[[], None]] = [redis.stop]
    try:
        redis.start()
        (folder / "config").mkdir()
        (folder / "config" / "bench.yaml").write_text(CONFIG)
        return [
            *_direct(folder, redis, stops),
            *_through_envoy(folder, stops),
            *asyncio.run(_accuracy(redis)),
            *asyncio.run(_outage(redis)),
            _million(),
        ]
    finally:
        for stop in reversed(stops):
            stop()
        shutil.rmtree(folder, ignore_errors=True)


# One worker, asked directly


class Worker:
    """A service on a TCP port, whichever it is."""

    def __init__(self, name: str, process: Process, port: int) -> None:
        self.name = name
        self.process = process
        self.port = port
        process.start()
        until_sync(f"{name} answering", self._answers, within_s=30)

    def _answers(self) -> bool:
        if not self.process.is_alive:
            raise RuntimeError(f"{self.name} ended:\n{self.process.tail()}")
        return b" 1 succeeded" in _h2load(self.port, self._body(), "-n", "1", "-c", "1")

    def _body(self) -> Path:
        """A serialised request in gRPC's framing, in a file."""
        path = self.process.log_path.with_name("request.bin")
        entry = b"\x0a\x01k\x12\x03foo"
        message = b"\x0a\x05bench\x12" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
        path.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        return path

    def closed_loop(self) -> Round:
        """As many requests as it answers."""
        return self._measure("-n", str(REQUESTS), "-c", str(CONNECTIONS), "-m", str(STREAMS), requests=REQUESTS)

    def open_loop(self) -> Round:
        """A fixed rate, whatever it answers."""
        clients = 4
        each = ("-n", str(OPEN_LOOP_RPS * OPEN_LOOP_S), "-c", str(clients), "--rps", str(OPEN_LOOP_RPS // clients))
        return self._measure(*each, "-m", "64", requests=OPEN_LOOP_RPS * OPEN_LOOP_S)

    def _measure(self, *arguments: str, requests: int) -> Round:
        log = self.process.log_path.with_name(f"{uuid.uuid4().hex}.log")
        cpu, began = _cpu_s(self.process.pid), time.perf_counter()
        _h2load(self.port, self._body(), *arguments, f"--log-file={log}")
        took = time.perf_counter() - began
        used = _cpu_s(self.process.pid) - cpu
        times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
        return Round(
            per_s=requests / took,
            cpu_us=used / requests * 1e6,
            p50_ms=times[len(times) // 2] / 1000,
            p99_ms=times[int(len(times) * 0.99)] / 1000,
        )


def _direct(folder: Path, redis: Redis, stops: list[Callable[[], None]]) -> list[Result]:
    workers = [_ours(folder, "memory"), _ours(folder, "redis", "--redis", redis.url)]
    stops += [worker.process.stop for worker in workers]
    reference, why = _reference(folder, redis)
    if reference is not None:
        workers.append(reference)
        stops.append(reference.process.stop)
    closed: dict[str, list[Round]] = {worker.name: [] for worker in workers}
    opened: dict[str, list[Round]] = {worker.name: [] for worker in workers}
    for _ in range(ROUNDS):
        for worker in workers:
            closed[worker.name].append(worker.closed_loop())
            opened[worker.name].append(worker.open_loop())
    for worker in workers:
        worker.process.stop()
    results = []
    for name in ("memory", "redis"):
        beside = "the reference service, same Redis" if reference else ""
        for what, unit, figure in (
            ("decisions", "/s", lambda r: r.per_s),
            ("CPU of a decision", "us", lambda r: r.cpu_us),
        ):
            results.append(
                Result(
                    what=f"{what}, {name}",
                    measured=_median(closed[name], figure),
                    unit=unit,
                    beside=beside,
                    reference=_median(closed[reference.name], figure) if reference else None,
                    note=why,
                )
            )
        for what, figure in (("p50", lambda r: r.p50_ms), ("p99", lambda r: r.p99_ms)):
            results.append(
                Result(
                    what=f"{what} at {OPEN_LOOP_RPS:,}/s, {name}",
                    measured=_median(opened[name], figure),
                    unit="ms",
                    beside=beside,
                    reference=_median(opened[reference.name], figure) if reference else None,
                )
            )
    return results


def _ours(folder: Path, name: str, *arguments: str) -> Worker:
    own = folder / name
    own.mkdir()
    port = free_port()
    argv = causeway("ratelimit", "--config", folder / "config", "--listen", f"127.0.0.1:{port}")
    return Worker(name, Process(name, [*argv, "--admin", f"unix:{own}/admin.sock", *arguments], folder=own), port)


def _reference(folder: Path, redis: Redis) -> tuple[Worker | None, str]:
    """The reference service on the same Redis, or why there is none."""
    binary, why = _reference_binary()
    if binary is None:
        return None, why
    own = folder / "reference"
    (own / "rl" / "config").mkdir(parents=True)
    shutil.copy(folder / "config" / "bench.yaml", own / "rl" / "config")
    port, http, debug = free_port(), free_port(), free_port()
    env = {
        "USE_STATSD": "false",
        "LOG_LEVEL": "error",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": f"127.0.0.1:{redis.port}",
        "RUNTIME_ROOT": str(own),
        "RUNTIME_SUBDIRECTORY": "rl",
        "RUNTIME_APPDIRECTORY": "config",
        "RUNTIME_WATCH_ROOT": "false",
        "HOST": "127.0.0.1",
        "GRPC_HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
        "GRPC_PORT": str(port),
        "PORT": str(http),
        "DEBUG_PORT": str(debug),
    }
    return Worker("reference", Process("reference", [binary], folder=own, env=env), port), ""


def _reference_binary() -> tuple[Path | None, str]:
    """Built once, with Go; kept for later runs."""
    named = os.environ.get("CAUSEWAY_REFERENCE_RATELIMIT")
    if named:
        return Path(named), ""
    if REFERENCE_BINARY.exists():
        return REFERENCE_BINARY, ""
    if shutil.which("go") is None:
        return None, "no Go to build the reference service with"
    REFERENCE_BINARY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as module:
        (Path(module) / "go.mod").write_text("module reference\n\ngo 1.25\n")
        (Path(module) / "uses.go").write_text(f'package reference\n\nimport _ "{REFERENCE}/src/service_cmd/runner"\n')
        env = {**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false"}
        for version in REFERENCE_VERSIONS:
            made = f"go build -o {REFERENCE_BINARY} {REFERENCE}/src/service_cmd"
            build = f"go get {REFERENCE}@{version} && go mod tidy && {made}"
            ran = subprocess.run(["sh", "-c", build], cwd=module, env=env, capture_output=True, timeout=BUILD_S)
            if ran.returncode == 0:
                return REFERENCE_BINARY, ""
    return None, "the reference service could not be built"


def _h2load(port: int, body: Path, *arguments: str) -> bytes:
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    url = f"http://127.0.0.1:{port}{METHOD}"
    argv = ["h2load", "-t", "1", *headers, "-d", str(body), *arguments, url]
    return subprocess.run(argv, capture_output=True, timeout=120, check=False).stdout


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _median(rounds: list[Round], figure: Callable[[Round], float]) -> float:
    return statistics.median(figure(each) for each in rounds)


# Through Envoy


def _through_envoy(folder: Path, stops: list[Callable[[], None]]) -> list[Result]:
    own = folder / "envoy"
    own.mkdir()
    argv = causeway("ratelimit", "--config", folder / "config", "--listen", f"unix:{own}/rls.sock")
    service = Process("ratelimit", [*argv, "--admin", f"unix:{own}/admin.sock"], folder=own).start()
    stops.append(service.stop)
    until_sync("the service's socket", (own / "rls.sock").exists, within_s=30)
    port = free_port()
    envoy = Envoy(_bootstrap(port, own / "rls.sock"), folder=own).start()
    stops.append(envoy.stop)
    asyncio.run(envoy.ready())
    rounds: dict[str, list[tuple[float, float]]] = {"limited": [], "free": []}
    for _ in range(ROUNDS):
        for path, found in rounds.items():
            found.append(_wrk(f"http://127.0.0.1:{port}/{path}"))
    envoy.stop()
    service.stop()
    rates, p50s = ({path: statistics.median(r[i] for r in found) for path, found in rounds.items()} for i in (0, 1))
    beside = "the same route without a limit"
    return [
        Result(
            what="requests through Envoy with a limit",
            measured=rates["limited"],
            unit="/s",
            beside=beside,
            reference=rates["free"],
        ),
        Result(what="p50 through Envoy", measured=p50s["limited"], unit="ms", beside=beside, reference=p50s["free"]),
    ]


def _wrk(url: str) -> tuple[float, float]:
    """Requests per second and the median latency in milliseconds."""
    argv = ["wrk", "-t1", f"-c{WRK_CONNECTIONS}", f"-d{WRK_S}s", "--latency", url]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    lines = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) >= 2}
    number, unit = lines["50%"].rstrip("muscn"), lines["50%"].lstrip("0123456789.")
    return float(lines["Requests/sec:"]), float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _bootstrap(port: int, service: Path) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions."
    limits = {
        "@type": extensions + "filters.http.ratelimit.v3.RateLimit",
        "domain": "bench",
        "timeout": "1s",
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
            "transport_api_version": "V3",
        },
    }
    own = {
        "@type": extensions + "filters.http.ratelimit.v3.RateLimitPerRoute",
        "rate_limits": [{"actions": [{"generic_key": {"descriptor_key": "k", "descriptor_value": "foo"}}]}],
    }
    forward = {"route": {"cluster": "service"}}
    routes = [
        {"match": {"path": "/limited"}, **forward, "typed_per_filter_config": {"limits": own}},
        {"match": {"path": "/free"}, **forward},
    ]
    http2 = {
        "@type": extensions + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    answers = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    # The filter leaves routes alone that answer by themselves, so a second listener is the service.
    behind = {"pipe": {"path": f"{service}.behind"}}
    return {
        "static_resources": {
            "listeners": [
                _listener(
                    {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    routes,
                    {"name": "limits", "typed_config": limits},
                ),
                _listener(behind, answers),
            ],
            "clusters": [
                _cluster("ratelimit", {"pipe": {"path": str(service)}}, typed_extension_protocol_options=options),
                _cluster("service", behind),
            ],
        }
    }


def _listener(address: dict[str, Any], routes: list[dict[str, Any]], *filters: dict[str, Any]) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions."
    manager = {
        "@type": extensions + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [
            *filters,
            {"name": "router", "typed_config": {"@type": extensions + "filters.http.router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    return {"address": address, "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}]}


def _cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


# Accuracy, outages, memory


async def _accuracy(redis: Redis) -> list[Result]:
    """How many of 2,000 parallel requests at two replicas are admitted by a limit of 100, beside 100."""
    stores = [RedisStore(connect(redis.url).client, observer=Meters(), timeout_s=5) for _ in range(2)]
    budget = Budget(kind=Kind.TOKEN_BUCKET, requests=100, window_us=86_400_000_000, burst=100)
    takes = [Take(uuid.uuid4().bytes, budget)]
    answers = await asyncio.gather(*[stores[i % 2].take(takes) for i in range(2_000)])
    for store in stores:
        await store.close()
    admitted = sum(answer.code is Code.OK for (answer,) in answers)
    beside = "the limit; two replicas on one Redis"
    return [Result(what="admitted of 2,000 in parallel", measured=admitted, unit="", beside=beside, reference=100)]


async def _outage(redis: Redis) -> list[Result]:
    """What decisions take while Redis is paused, and how soon after it is asked again."""
    limit = Limit(
        by=("ip",), stage=Stage.IP, quota=Quota(requests=100, window_ms=1000), on_store_error=StoreError.LOCAL
    )
    meters = Meters()
    store = RedisStore(connect(redis.url).client, observer=meters, timeout_s=0.05)
    service = RateLimitService(store, meters)
    service.use(limits=Limits(Policy(limits={"l": limit})))
    asked = request("causeway", limited("l", ("ip", "1.1.1.1")))
    await service.decide(asked)
    os.kill(redis.process.pid, signal.SIGSTOP)
    try:
        times = []
        for _ in range(3_000):
            began = time.perf_counter()
            await service.decide(asked)
            times.append((time.perf_counter() - began) * 1000)
    finally:
        os.kill(redis.process.pid, signal.SIGCONT)
    began = time.perf_counter()
    await until("the store being asked again", lambda: not meters.is_breaker_open)
    recovered = time.perf_counter() - began
    await store.close()
    return [
        Result(what="p99 of a decision, Redis paused", measured=sorted(times)[2970], unit="ms"),
        Result(what="longest decision, Redis paused", measured=max(times), unit="ms", note="one time-out"),
        Result(what="until Redis is asked again", measured=recovered, unit="s"),
    ]


def _million() -> Result:
    """The memory of a process with a million counters."""
    ran = subprocess.run(
        [sys.executable, "-c", "from benchmarks.ratelimit import fill; fill()"],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    return Result(what="a million counters in memory", measured=int(ran.stdout) * 1024 / 1e6, unit="MB")


def fill() -> None:
    """Makes a million counters and prints this process's peak of memory in KiB."""
    import resource

    store = MemoryStore(lambda: 1.7e15)
    budget = Budget(kind=Kind.TOKEN_BUCKET, requests=100, window_us=60_000_000, burst=100)
    for i in range(1_000_000):
        store.take([Take(b"0l" + identity(("causeway", "per-ip", f"203.0.{i >> 8 & 255}.{i}")), budget)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
