"""`causeway validate --envoy` asks the real Envoy binary."""

from __future__ import annotations

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
