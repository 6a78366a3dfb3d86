"""A plain Envoy with the reference service's configuration, and our service in its place: nothing else is ours."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.ratelimit.test_server import Running
from tests.support import client
from tests.support.client import Address, Response
from tests.support.envoy import Envoy
from tests.support.origin import Origin
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.gateway

CONFIG = """
domain: rl
descriptors:
  - key: category
    value: account
    rate_limit: {replaces: [{name: named}, {name: faked}], unit: day, requests_per_unit: 4}
  - key: source_cluster
    value: proxy
    descriptors:
      - {key: destination_cluster, value: named,
         rate_limit: {replaces: [{name: named}], unit: day, requests_per_unit: 2}}
      - {key: destination_cluster, value: mock, rate_limit: {unit: day, requests_per_unit: 1}}
      - {key: destination_cluster, value: override,
         rate_limit: {replaces: [{name: banned}], unit: day, requests_per_unit: 2}}
      - {key: destination_cluster, value: fake, rate_limit: {name: faked, unit: day, requests_per_unit: 2}}
  - key: foo
    rate_limit: {unit: day, requests_per_unit: 2}
    descriptors:
      - {key: bar, rate_limit: {unit: day, requests_per_unit: 3}}
      - {key: bar, value: named, rate_limit: {name: named, unit: day, requests_per_unit: 1}}
      - {key: bar, value: banned, rate_limit: {name: banned, unit: day, requests_per_unit: 0}}
      - {key: baz, rate_limit: {unit: day, requests_per_unit: 1}}
      - {key: baz, value: not-so-shady, rate_limit: {unit: day, requests_per_unit: 3}}
      - {key: baz, value: shady, rate_limit: {unit: day, requests_per_unit: 3}, shadow_mode: true}
      - {key: bay, rate_limit: {unlimited: true}}
  - {key: unspec, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: quota_one, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: quota_two, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: pool, value: first, metadata: {pool: one}, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: tokens, rate_limit: {unit: day, requests_per_unit: 2}}
"""
FILTER = "envoy.filters.http.ratelimit"
NETWORK = "type.googleapis.com/envoy.extensions.filters.network."
PROTOBUF = "type.googleapis.com/envoy.extensions.filters.http."


POOL = {"header": {"key": "x-pool", "value": "%DYNAMIC_METADATA(envoy.filters.http.ratelimit:pool)%"}}


def by_header(*names: str, **more: Any) -> dict[str, Any]:
    """One descriptor of request headers."""
    return {"actions": [{"request_headers": {"header_name": n, "descriptor_key": n}} for n in names], **more}


def route(prefix: str, *rate_limits: dict[str, Any]) -> dict[str, Any]:
    return {"match": {"prefix": prefix}, "route": {"cluster": "mock", "rate_limits": list(rate_limits)}}


def inline(prefix: str, *rate_limits: dict[str, Any]) -> dict[str, Any]:
    """Limits in the filter's own per-route form: only there a descriptor has hits of its own."""
    own = {"@type": PROTOBUF + "ratelimit.v3.RateLimitPerRoute", "rate_limits": list(rate_limits)}
    return {"match": {"prefix": prefix}, "route": {"cluster": "mock"}, "typed_per_filter_config": {FILTER: own}}


def cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


def bootstrap(port: int, origin: Origin, service: Path) -> dict[str, Any]:
    routes = [
        route("/twoheader", by_header("foo", "bar"), by_header("foo", "baz")),
        route("/fourheader", by_header("foo", "bar"), by_header("source_cluster", "destination_cluster")),
        route(
            "/fiveheader",
            by_header("foo", "bar"),
            by_header("source_cluster", "destination_cluster"),
            by_header("category"),
        ),
        route("/unspec", by_header("unspec")),
        {**route("/pool", by_header("pool")), "response_headers_to_add": [POOL]},
        route("/quota", by_header("quota_one"), by_header("quota_two")),
        inline(
            "/tokens",
            by_header("tokens", hits_addend={"number": 0}),
            by_header("tokens", hits_addend={"number": 1}, apply_on_stream_done=True),
        ),
    ]
    limits = {
        "@type": PROTOBUF + "ratelimit.v3.RateLimit",
        "domain": "rl",
        "timeout": "2s",
        "failure_mode_deny": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
            "transport_api_version": "V3",
        },
    }
    manager = {
        "@type": NETWORK + "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "http_filters": [
            {"name": FILTER, "typed_config": limits},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": PROTOBUF + "router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    return {
        "static_resources": {
            "listeners": [{"name": "in", "address": address, "filter_chains": [chain]}],
            "clusters": [
                cluster("mock", {"socket_address": {"address": "127.0.0.1", "port_value": origin.port}}),
                cluster("ratelimit", {"pipe": {"path": str(service)}}, typed_extension_protocol_options=http2),
            ],
        }
    }


class Proxy:
    """Envoy in front, our service beside it."""

    def __init__(self, port: int, service: Running) -> None:
        self.port = port
        self.service = service

    async def get(self, path: str, **headers: str) -> Response:
        return await client.request(Address(port=self.port), "GET", path, headers=list(headers.items()))

    async def statuses(self, times: int, path: str, **headers: str) -> list[int]:
        return [(await self.get(path, **headers)).status for _ in range(times)]


@pytest.fixture
async def proxy(run_folder: Path, origin: Origin) -> AsyncIterator[Proxy]:
    folder = _configured(run_folder)
    service = await Running(folder, "--config", str(folder / "config"), "--response-metadata", "yes").start()
    port = free_port()
    envoy = Envoy(bootstrap(port, origin, folder / "rls.sock"), folder=folder).start()
    await envoy.ready()
    yield Proxy(port, service)
    envoy.stop()
    await service.channel.close()
    service.process.stop()


def _configured(run_folder: Path) -> Path:
    folder = run_folder / uuid.uuid4().hex[:8]
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "rl.yaml").write_text(CONFIG)
    return folder


async def test_what_it_does(proxy: Proxy) -> None:
    """One Envoy for all: each part has values of its own, so that the parts share no counter."""
    assert await proxy.statuses(1, "/twoheader", foo="test", baz="shady") == [200]

    assert await proxy.statuses(5, "/twoheader", foo="pelle", baz="not-so-shady") == [200, 200, 200, 429, 429]

    shady = [await proxy.get("/twoheader", foo="shade", baz="shady") for _ in range(6)]
    assert [(r.status, r.header("x-ratelimit-remaining")) for r in shady] == [(200, n) for n in "210000"]

    assert await proxy.statuses(3, "/unspec", unspec="unspecified_value") == [200, 200, 429]
    metrics = (await proxy.service.http("GET", "/metrics")).body
    wanted = b'ratelimit_service_rate_limit_over_limit{domain="rl",key1="unspec_unspecified_value",key2=""} 1.0'
    assert wanted in metrics

    assert await proxy.statuses(3, "/quota", quota_one="q", quota_two="q") == [200, 200, 429]


async def test_metadata_of_what_passed_reaches_envoy(proxy: Proxy) -> None:
    first, second = [await proxy.get("/pool", pool="first") for _ in range(2)]

    assert (first.status, first.header("x-pool")) == (200, "one")
    assert (second.status, second.header("x-pool")) == (429, None)


async def test_limits_that_replace_others(proxy: Proxy) -> None:
    def proxied(destination: str, **more: str) -> dict[str, str]:
        return {"source_cluster": "proxy", "destination_cluster": destination, **more}

    banned = {"foo": "b", "bar": "banned"}
    assert await proxy.statuses(1, "/twoheader", **banned) == [429]
    assert await proxy.statuses(1, "/fourheader", **banned, **proxied("mock")) == [429]
    assert await proxy.statuses(3, "/fourheader", **banned, **proxied("override")) == [200, 200, 429]

    named = {"foo": "mine", "bar": "named"}
    assert await proxy.statuses(3, "/fourheader", **named, **proxied("named")) == [200, 200, 429]
    assert await proxy.statuses(2, "/fourheader", **named, **proxied("not_named")) == [200, 429]
    assert await proxy.statuses(1, "/fourheader", **named, **proxied("named")) == [429]

    account = proxied("fake", category="account")
    assert await proxy.statuses(5, "/fiveheader", **named, **account) == [200, 200, 200, 200, 429]
    assert await proxy.statuses(2, "/twoheader", foo="other", bar="named") == [200, 429]
    assert await proxy.statuses(3, "/fourheader", foo="third", bar="any", **proxied("fake")) == [200, 200, 429]
    assert await proxy.statuses(1, "/fiveheader", **named, **account) == [429]


async def test_looking_first_and_counting_at_the_end(proxy: Proxy) -> None:
    statuses = []
    for done in range(1, 4):
        statuses += await proxy.statuses(1, "/tokens", tokens="t")
        await _counted(proxy, done)
    statuses += await proxy.statuses(1, "/tokens", tokens="t")

    assert statuses == [200, 200, 200, 429]


async def _counted(proxy: Proxy, hits: int) -> None:
    line = f'ratelimit_service_rate_limit_total_hits{{domain="rl",key1="tokens",key2=""}} {hits}.0'

    async def is_counted() -> bool:
        return line.encode() in (await proxy.service.http("GET", "/metrics")).body

    await until(f"{hits} hits counted", is_counted)
