"""The support under every other test here: an origin's misdeeds look to Envoy like what they are named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support.behaviour import Answer, Behaviour, Close, Garbage, Hang, Hold, Partial, Reset
from tests.support.client import Address, request
from tests.support.envoy import Envoy
from tests.support.origin import Origin
from tests.support.redis import Redis
from tests.support.waiting import free_port
from tests.support.wire import ClosedError

pytestmark = pytest.mark.gateway


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_EXTENSIONS = "type.googleapis.com/envoy.extensions."


def plain_bootstrap(port: int, upstream: int, *, http2: bool = False) -> dict[str, Any]:
    """The smallest configuration that forwards everything, with a time-out of half a second."""
    router = {"@type": _EXTENSIONS + "filters.http.router.v3.Router"}
    options = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    protocol = {
        "@type": _EXTENSIONS + "upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": options,
    }
    manager = {
        "@type": _EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "router", "typed_config": router}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0.5s"}}],
                }
            ]
        },
    }
    cluster = {
        "name": "origin",
        "connect_timeout": "1s",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(upstream)}}]}],
        },
    }
    listener = {
        "name": "in",
        "address": _socket(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@pytest.fixture(scope="module", params=[False, True], ids=["HTTP/1.1 upstream", "HTTP/2 upstream"])
def http2_upstream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def service() -> Iterator[Origin]:
    origin = Origin()
    origin.start()
    yield origin
    origin.stop()


@pytest.fixture(scope="module")
def front(http2_upstream: bool, service: Origin, run_folder: Path) -> Iterator[Address]:
    port = free_port()
    envoy = Envoy(plain_bootstrap(port, service.port, http2=http2_upstream), folder=run_folder, name=f"e{port}")
    envoy.start()
    asyncio.run(envoy.ready())
    yield Address(port=port)
    envoy.stop()


async def test_the_origin_echoes_the_request_and_remembers_it(
    front: Address, service: Origin, http2_upstream: bool
) -> None:
    service.accept()
    service.forget()
    response = await request(front, "POST", "/a?b=c", headers=(("X-Odd", " v "), ("x-odd", "w")), body=b"hello")
    assert response.status == 200
    assert response.json()["body"] == "hello"
    seen = service.last
    assert (seen.method, seen.path, seen.body) == ("POST", "/a?b=c", b"hello")
    assert seen.values("x-odd") == ["v", "w"]
    assert seen.protocol == ("HTTP/2" if http2_upstream else "HTTP/1.1")
    if not http2_upstream:
        assert seen.request_line == b"POST /a?b=c HTTP/1.1"
        assert b"x-odd: v" in seen.header_lines


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (Answer(status=418, body=b"x"), 418),
        (Answer(status=204), 204),
        (Reset(), 503),
        (Close(), 503),
        (Hang(), 504),
        (Garbage(), 502),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
async def test_a_misdeed_is_answered_by_envoy(
    front: Address, service: Origin, http2_upstream: bool, behaviour: Behaviour, status: int
) -> None:
    service.forget()
    service.next(behaviour)
    response = await request(front, "GET", "/")
    expected = {503, 502} if isinstance(behaviour, Garbage) else {status}
    assert response.status in expected
    assert (await request(front, "GET", "/after")).status == 200


async def test_a_partial_body_ends_the_clients_connection(front: Address, service: Origin) -> None:
    service.forget()
    service.next(Partial())
    with pytest.raises(ClosedError):
        await request(front, "GET", "/")


async def test_a_refused_connection_is_503_and_the_origin_comes_back_on_its_port(
    front: Address, service: Origin
) -> None:
    service.refuse()
    assert (await request(front, "GET", "/")).status == 503
    service.accept()
    assert (await request(front, "GET", "/")).status == 200


async def test_a_held_request_is_answered_when_released(front: Address, service: Origin) -> None:
    service.forget()
    hold = Hold(then=Answer(body=b"released"))
    service.next(hold)
    waiting = asyncio.create_task(request(front, "GET", "/held"))
    await service.saw(1)
    assert not waiting.done()
    hold.release()
    assert (await waiting).body == b"released"


async def test_http2_clients_send_trailers_and_large_bodies_come_back(front: Address, service: Origin) -> None:
    service.forget()
    body = b"z" * 300_000
    service.always(Answer(body=body, trailers=(("x-sum", "1"),)))
    response = await request(front, "POST", "/", http2=True, body=b"q" * 200_000)
    assert response.status == 200
    assert response.body == body
    assert service.last.body == b"q" * 200_000


async def test_websocket_messages_are_echoed(front: Address, service: Origin, http2_upstream: bool) -> None:
    if http2_upstream:
        pytest.skip("an HTTP/2 service takes WebSockets by extended CONNECT, which the origin does not speak")
    async with websockets.connect(f"ws://127.0.0.1:{front.port}/socket") as socket:
        for message in ("one", "x" * 70_000):
            await socket.send(message)
            assert await socket.recv() == message
    assert service.last.path == "/socket"


async def test_envoy_tells_its_clusters_and_stats(run_folder: Path, service: Origin) -> None:
    port = free_port()
    envoy = Envoy(plain_bootstrap(port, service.port), folder=run_folder, name="asked").start()
    try:
        await envoy.ready()
        await request(Address(port=port), "GET", "/")
        assert "origin" in await envoy.clusters()
        assert (await envoy.stats("^cluster.origin.upstream_rq_total$")) == {"cluster.origin.upstream_rq_total": 1}
        assert (await envoy.config_dump())["configs"]
    finally:
        envoy.stop()


def test_redis_is_real_and_keeps_its_address_through_an_outage(run_folder: Path) -> None:
    redis = Redis(run_folder).start()
    try:
        assert redis.command("SET", "a", "1") == b"+OK"
        redis.stop()
        with pytest.raises(OSError):
            redis.command("PING")
        redis.start()
        assert redis.command("GET", "a") == b"$-1"
    finally:
        redis.stop()
