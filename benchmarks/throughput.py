"""Requests per second and latency through the generated configuration, beside the smallest one written by hand.

Both Envoys forward to the same service: a third Envoy that answers at once, so that it is not what is measured.
wrk drives them in alternating rounds; the median of the rounds counts.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result import Result
from tests.support.envoy import Envoy
from tests.support.gateway import Gateway
from tests.support.waiting import free_port

ROUNDS = 5
OTHER_ROUTES = 1000
ROUND_S = 3
CONNECTIONS = 32
PATH = "/api/v1/things/42"
TYPE = "type.googleapis.com/envoy.extensions."


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of wrk. Latencies in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def run() -> list[Result]:
    """Alternating rounds against both; figures are medians over the rounds."""
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cw-bench-"))
    service_port, plain_port = free_port(), free_port()
    service = Envoy(answering(service_port), folder=folder, name="service")
    plain = Envoy(forwarding(plain_port, service_port), folder=folder, name="plain")
    gateway = Gateway(folder)
    try:
        service.start()
        plain.start()
        asyncio.run(_ready(service, plain))
        ours, theirs = f"http://127.0.0.1:{gateway.port}{PATH}", f"http://127.0.0.1:{plain_port}{PATH}"
        results = []
        for others in (0, OTHER_ROUTES):
            asyncio.run(gateway.apply(_manifest(service_port, others)))
            results += _compare(ours, theirs, f", beside {others:,} other routes" if others else "")
        return results
    finally:
        for part in (gateway, plain, service):
            part.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _ready(*envoys: Envoy) -> None:
    for envoy in envoys:
        await envoy.ready()


def _manifest(service_port: int, others: int) -> dict[str, Any]:
    measured = {"path": "/api/v1/things/**", "service": "things", "auth": "public"}
    # More specific than the measured route, so that Envoy looks at every one of them first.
    other = [{"path": f"/api/v1/a{number}/:id", "service": "things", "auth": "public"} for number in range(others)]
    return {"services": {"things": {"endpoints": [f"127.0.0.1:{service_port}"]}}, "routes": [measured, *other]}


def _compare(ours: str, plain: str, circumstances: str) -> list[Result]:
    for url in (ours, plain):
        wrk(url, seconds=1)
    rounds: list[tuple[Round, Round]] = []
    for number in range(ROUNDS):
        # Whoever goes first in a round changes, so that a drift of the machine weighs on both.
        if number % 2:
            theirs, mine = wrk(plain), wrk(ours)
        else:
            mine, theirs = wrk(ours), wrk(plain)
        rounds.append((mine, theirs))

    def row(what: str, unit: str, figure: Callable[[Round], float]) -> Result:
        mine = statistics.median(figure(one) for one, _ in rounds)
        theirs = statistics.median(figure(two) for _, two in rounds)
        return Result(what=what + circumstances, measured=mine, unit=unit, beside="minimal Envoy", reference=theirs)

    return [
        row("requests per second", "/s", lambda one: one.requests_per_s),
        row("latency p50", "ms", lambda one: one.p50_ms),
        row("latency p99", "ms", lambda one: one.p99_ms),
    ]


def wrk(url: str, *, seconds: int = ROUND_S, connections: int = CONNECTIONS) -> Round:
    """One run of wrk with one thread. Raises RuntimeError when anything but 2xx came back."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"not every request was answered well:\n{out}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert found is not None, out
    return Round(requests_per_s=float(found[1]), p50_ms=percentile(out, "50"), p99_ms=percentile(out, "99"))


def percentile(out: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)\s*$", out, flags=re.MULTILINE)
    assert found is not None, out
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def answering(port: int) -> dict[str, Any]:
    body = json.dumps({"id": 42, "name": "thing"})
    return _listening(
        port, {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": body}}}
    )


def forwarding(port: int, upstream: int) -> dict[str, Any]:
    configuration = _listening(port, {"match": {"prefix": "/"}, "route": {"cluster": "service"}})
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    configuration["static_resources"]["clusters"] = [cluster]
    return configuration


def _listening(port: int, route: dict[str, Any]) -> dict[str, Any]:
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http_filters": [{"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"static_resources": {"listeners": [{"name": "in", "address": _address(port), "filter_chains": [chain]}]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
