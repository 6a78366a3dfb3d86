"""`causeway validate --envoy` asks the real Envoy binary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import build
from controlplane.cli.rendering import envoy_says
from controlplane.cli.up.envoy import find_envoy
from controlplane.expression import program_size
from controlplane.reconcile import Built
from controlplane.reconcile import build as built
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import CLUSTER, whole
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.translate import translate

pytestmark = pytest.mark.gateway

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").iterdir() if p.is_dir()))
def test_envoy_agrees_with_an_example(example: str) -> None:
    result = CliRunner().invoke(build(), ["validate", "--envoy", str(ROOT / "examples" / example)])
    assert result.exit_code == 0, result.output
    assert "Envoy agrees" in result.stdout


EVERYTHING = """\
services:
  a:
    endpoints: ["https://example.com"]
    protocol: auto
    load_balancing: {policy: hash, by: cookie.sid, cookie_ttl: 1h}
    health_check: {grpc: ""}
    connections: {max_requests: 100, max_streams: 10, keep_alive: 30s}
  b: {endpoints: ["unix:/tmp/x.sock"], protocol: grpc, health_check: {tcp: true}}
  c: {endpoints: [{address: "c:1", weight: 2}, {address: "d:1", priority: 1}], retry: {methods: any, on: [503]}}
routes:
  - {path: /a/**, service: a, auth: public, rewrite: {strip_prefix: /a}, mirror: [b], websocket: true, timeout: none}
  - {path: "/b/:id/**", services: [{service: a, weight: 9}, {service: b}], auth: public, rewrite: {path: "/z/{id}"}}
  - {path: /c, service: c, auth: public, headers: {x-a: {suffix: b}, x-b: {regex: "f+"}}, query: {q: {present: false}}}
  - {path: /m, respond: {status: 200, body: hello, headers: {x-a: b}}, auth: public, maintenance: {retry_after: 5s}}
  - {path: "/r/**", redirect: {prefix: /s, code: 308}, auth: public, hosts: ["*.example.com"]}
"""


def test_envoy_agrees_with_what_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(EVERYTHING)
    result = CliRunner().invoke(build(), ["validate", "--envoy", str(tmp_path)])
    assert result.exit_code == 0, result.output


LONGEST, SHORTEST = "366d", "1ms"
HOST = ".".join(["a" * 63] * 3 + ["b" * 61])
TEXT = "".join(map(chr, range(0x20, 0x7F)))
NAME = "!#$%&'*+-.^_`|~" + "x" * 113


def _service(**fields: object) -> dict[str, object]:
    return {"endpoints": ["127.0.0.1:1"], **fields}


def _at(time: str, count: int) -> dict[str, object]:
    """A service with every duration and every number at one end of what may be written."""
    return _service(
        endpoints=["a:1"],
        timeout=time,
        idle_timeout=time,
        connect_timeout=time,
        dns={"refresh": "2ms" if time == SHORTEST else time},
        health_check={
            "path": "/",
            "interval": time,
            "timeout": time,
            "unhealthy_after": count,
            "healthy_after": count,
            "statuses": [100, 599],
        },
        circuit_breaker={
            "consecutive_failures": count,
            "error_rate": "1%" if count == 1 else "100%",
            "min_requests": count,
            "window": time,
            "open_for": time,
            "max_concurrent": count,
            "max_pending": count,
            "max_connections": count,
        },
        retry={"attempts": 10, "backoff": f"{time}..{time}", "per_try_timeout": time, "budget": "0%"},
        load_balancing={"policy": "hash", "by": f"cookie.{NAME}", "cookie_ttl": time},
        connections={"idle_timeout": time, "max_requests": count, "max_streams": count, "keep_alive": "9h"},
        maintenance={"enabled": False, "retry_after": time},
    )


def _route(path: str, **fields: object) -> dict[str, object]:
    return {
        "path": path,
        "auth": "public",
        **({} if {"redirect", "respond"} & set(fields) else {"service": "a"}),
        **fields,
    }


SERVICES = {
    "a": _at(SHORTEST, 1),
    "b": _at(LONGEST, 1_000_000),
    "x" * 128: _service(endpoints=["unix:/" + "é" * 53]),
    "interface": _service(endpoints=["[fe80::1%lo]:1"]),
    "far": _service(endpoints=[{"address": "127.0.0.1:65535", "weight": 128, "priority": 15, "zone": "z" * 128}]),
    "host": _service(endpoints=[f"https://{HOST}"], protocol="auto", host=HOST, health_check={"grpc": TEXT}),
}
ROUTES = [
    _route("/" + "x" * 1023, timeout=LONGEST, idle_timeout=SHORTEST, body_limit="1B"),
    _route("/-._~!$&'()+,;=:@%20%5C/*/:x/**", body_limit="1024GiB", hosts=[HOST, "*." + HOST[4:], "[::1]"]),
    _route("/h", headers={NAME: {"exact": TEXT}}, query={TEXT: {"contains": "é\n\x00"}, "é": {"present": False}}),
    _route("/s", request_headers={"set": {NAME: TEXT.strip()}, "add": {"x": "x" * 4096}, "remove": [NAME]}),
    _route("/r", response_headers={"set": {NAME: "%" * 9}}, mirror=[{"service": "b", "share": "0.0001%"}]),
    _route(
        "/regex/**",
        rewrite={"regex": {"match": "é|[^\n]|" + "a" * 400, "replace": TEXT.strip().replace("\\", r"\0\\")}},
    ),
    _route("/template/:x", rewrite={"path": '/"<>^`|%zz{x}'}),
    _route(
        "/respond", respond={"status": 599, "body": "é" * 65536, "content_type": TEXT.strip(), "headers": {NAME: ""}}
    ),
    _route("/redirect", redirect={"host": HOST, "port": 65535, "path": "/" + "x" * 5000, "code": 308}),
    _route("/to", redirect="https://a/" + TEXT[1:]),
    _route("/cors", cors={"origins": ["https://a:99999", "http://*.-"], "headers": [NAME], "max_age": LONGEST}),
    _route("/wait", maintenance={"message": TEXT, "retry_after": SHORTEST}),
]
GATEWAY = {
    "name": "x" * 100,
    "listeners": [{"port": 65535, "address": "fe80::1%lo"}, {"port": 1, "address": "::"}],
    "trusted_proxies": 16,
    "drain_timeout": LONGEST,
    "clients": {
        "max_header_size": "8MiB",
        "max_headers": 1000,
        "headers_timeout": SHORTEST,
        "idle_timeout": LONGEST,
        "max_connections": 1_000_000,
    },
}


def test_envoy_agrees_with_what_is_at_the_bounds(tmp_path: Path) -> None:
    written = json.dumps({"gateway": GATEWAY, "services": SERVICES, "routes": ROUTES})
    (tmp_path / "a.yaml").write_text(written)
    result = CliRunner().invoke(build(), ["validate", "--envoy", str(tmp_path)])
    assert result.exit_code == 0, result.output


def test_envoy_is_asked_in_earnest(tmp_path: Path) -> None:
    """A snapshot with a cluster that only Envoy can refuse is refused, in Envoy's words, without our files' names."""
    (tmp_path / "a.yaml").write_text("routes: [{path: /a, respond: {body: hello}, auth: public}]\n")
    result = built(tmp_path, {}, Deployment())
    assert isinstance(result, Built)
    assert envoy_says(result.snapshot) is None
    # Field 6, lb_policy, is CLUSTER_PROVIDED: for clusters with a load balancer of their own, which this one has not.
    broken = whole(CLUSTER, "broken", b"\x0a\x06broken" + b"\x30\x06")
    verdict = envoy_says(Snapshot.of([*result.snapshot, broken]))
    assert verdict is not None
    assert "broken" in verdict
    assert "/tmp" not in verdict


def test_what_envoy_says_is_the_reason_without_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("services: {a: {endpoints: ['a:1']}}\n")
    result = built(tmp_path, {}, Deployment())
    assert isinstance(result, Built)
    clusters = tuple(replace(one, dns_refresh_ms=1) for one in result.gateway.clusters)
    verdict = envoy_says(Snapshot.of(translate(replace(result.gateway, clusters=clusters))))
    assert verdict is not None
    assert "value must be greater than 1ms" in verdict
    assert "nanos" not in verdict


REFUSED = """\
gateway: {listeners: [{port: 8080}, {port: 8081}]}
services: {a: {endpoints: ["127.0.0.1:1"]}}
routes:
  - {path: /a, service: a, auth: public}
  - {path: /b, service: a, auth: public, headers: {x-a: {regex: "[0-9]{60}"}}}
  - {path: /c, service: a, auth: public, hosts: [c.example.com]}
  - {path: /d, service: a, auth: public, query: {x-a: {regex: "[0-9]{70}"}}}
"""


@pytest.fixture
def strict_envoy(tmp_path: Path) -> Path:
    """Envoy with a smaller limit on expressions than the manifests have, so that it refuses what they do not."""
    strict = "{layered_runtime: {layers: [{name: strict, static_layer: {re2.max_program_size.error_level: 50}}]}}"
    script = tmp_path / "envoy"
    script.write_text(f"#!/bin/sh\nexec {find_envoy()} \"$@\" --config-yaml '{strict}'\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param((), "a.yaml:{line}:5: Envoy refuses this: regex", id="text"),
        pytest.param(("--json",), '"line": {line},', id="json"),
        pytest.param(("--format", "github"), "/a.yaml,line={line},col=5,title=envoy::Envoy refuses this", id="github"),
        pytest.param(("--format", "sarif"), '"startLine": {line},', id="sarif"),
    ],
)
def test_what_envoy_refuses_is_told_like_any_problem(
    tmp_path: Path, strict_envoy: Path, arguments: tuple[str, ...], told: str
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(REFUSED)
    result = CliRunner(env={"CAUSEWAY_ENVOY": str(strict_envoy)}).invoke(
        build(), ["validate", "--envoy", *arguments, str(folder)]
    )
    assert result.exit_code == 1
    said = result.stdout if arguments else result.stderr
    assert [said.count(told.format(line=line)) for line in (4, 5, 6, 7)] == [0, 1, 0, 1]
    assert "source/server" not in said


@pytest.mark.parametrize(
    "expression", ["[0-9a-f]{60}", ".{60}", "é{60}", r"\pL{40}", "[^/é]{60}", r"(?i)k\w{60}|a{60}"]
)
def test_the_size_of_an_expression_is_what_envoy_says_it_is(
    tmp_path: Path, strict_envoy: Path, expression: str
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    route = f"{{path: /a, headers: {{x-a: {{regex: '{expression}'}}}}, redirect: /b, auth: public}}"
    (folder / "a.yaml").write_text(f"gateway: {{listeners: [{{port: 8080}}]}}\nroutes: [{route}]\n")
    result = CliRunner(env={"CAUSEWAY_ENVOY": str(strict_envoy)}).invoke(build(), ["validate", "--envoy", str(folder)])
    assert f"RE2 program size of {program_size(expression)} >" in result.stderr
