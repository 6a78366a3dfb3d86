"""`causeway validate --envoy` asks the real Envoy binary."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import build
from controlplane.cli.rendering import envoy_says
from controlplane.reconcile import Built
from controlplane.reconcile import build as built
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import CLUSTER, whole
from controlplane.snapshot.snapshot import Snapshot

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
