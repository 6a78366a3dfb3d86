"""The service as a process of its own: configuration from files or over ADS, gRPC, /json, health, a graceful end."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from grpc_health.v1 import health_pb2

from ratelimit.messages import RateLimitConfig
from serving.tls import channel_credentials
from tests.ratelimit.requests import OK, OVER, descriptor, request, response
from tests.serving.certificates import Authority
from tests.support import client
from tests.support.client import Address
from tests.support.gateway import causeway
from tests.support.process import Process
from tests.support.waiting import free_port, until

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"


def config(requests: int, domain: str = "d") -> str:
    return yaml.safe_dump(
        {
            "domain": domain,
            "descriptors": [{"key": "k", "rate_limit": {"unit": "hour", "requests_per_unit": requests}}],
        }
    )


class Running:
    """The process, and ways to ask it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.admin = Address(path=f"{folder}/admin.sock")
        where = ("--listen", f"unix:{folder}/rls.sock", "--admin", f"unix:{folder}/admin.sock")
        self.process = Process("ratelimit", causeway("ratelimit", *where, *arguments), folder=folder)
        self.channel = grpc.aio.insecure_channel(f"unix:{folder}/rls.sock")

    async def start(self) -> Running:
        self.process.start()
        await until("the service being started", self._is_started)
        return self

    async def _is_started(self) -> bool:
        assert self.process.is_alive, self.process.tail()
        try:
            return (await self.http("GET", "/health/startup")).status == 200
        except OSError:
            return False

    async def http(self, method: str, target: str, wish: Any = None) -> client.Response:
        body = json.dumps(wish).encode() if wish is not None else b""
        return await client.request(self.admin, method, target, body=body, host="localhost")

    async def ask(self, domain: str, *descriptors: Any) -> Any:
        call = self.channel.unary_unary(METHOD)
        return response(await call(request(domain, *descriptors), timeout=5))

    async def limit(self, domain: str = "d") -> int:
        """The requests per unit that are in force; 0 for none."""
        answer = await self.ask(domain, descriptor(("k", "v"), hits=0))
        return int(answer.statuses[0].current_limit.requests_per_unit)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(run_folder: Path) -> AsyncIterator[Start]:
    made: list[Running] = []

    async def started(*arguments: str) -> Running:
        folder = run_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        made.append(Running(folder, *arguments))
        return await made[-1].start()

    yield started
    for one in made:
        await one.channel.close()
        one.process.stop()


async def test_it_starts_alone_and_answers_in_every_way(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config(1))
    one = await start("--config", str(tmp_path))

    codes = [(await one.ask("d", descriptor(("k", "v")))).overall_code for _ in range(2)]
    assert codes == [OK, OVER]
    asked = {"domain": "d", "descriptors": [{"entries": [{"key": "k", "value": "w"}]}]}
    first, second = [await one.http("POST", "/json", asked) for _ in range(2)]
    assert (first.status, first.json()["overallCode"]) == (200, "OK")
    assert (second.status, second.json()["statuses"][0]["code"]) == (429, "OVER_LIMIT")
    assert (await one.http("POST", "/json", {"nonsense": 1})).status == 400
    assert (await one.http("GET", "/healthcheck")).body == b"OK"
    assert b"d.k: unit=HOUR requests_per_unit=1" in (await one.http("GET", "/rlconfig")).body
    explained = (await one.http("POST", "/limits/explain", asked)).json()["descriptors"]
    assert (explained[0]["remaining"], explained[0]["requests"]) == (0, 1)
    metrics = (await one.http("GET", "/metrics")).body
    assert b'ratelimit_service_rate_limit_over_limit{domain="d",key1="k",key2=""} 2.0' in metrics
    for name in ("", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"):
        asking = health_pb2.HealthCheckRequest(service=name).SerializeToString()
        told = await one.channel.unary_unary("/grpc.health.v1.Health/Check")(asking)
        assert health_pb2.HealthCheckResponse.FromString(told).status == health_pb2.HealthCheckResponse.SERVING


async def test_tags_are_added_to_the_reference_services_metrics(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config(1))
    one = await start("--config", str(tmp_path), "--extra-tags", "foo=bar,a=b")
    await one.ask("d", descriptor(("k", "v")))

    metrics = (await one.http("GET", "/metrics")).body

    assert b'ratelimit_service_rate_limit_total_hits{a="b",domain="d",foo="bar",key1="k",key2=""} 1.0' in metrics
    assert b'ratelimit_service_config_load_success_total{a="b",foo="bar"} 1.0' in metrics


async def test_with_tls_nobody_is_heard_without_a_certificate(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "a.yaml").write_text(config(1))
    authority = Authority(tmp_path / "authority")
    own, client_files = authority.issue("service", "localhost"), authority.issue("client", "client")
    port = free_port()
    tls = ("--tls-cert", str(own.certificate), "--tls-key", str(own.key), "--tls-ca", str(authority.ca))
    await start("--config", str(tmp_path / "config"), "--listen", f"127.0.0.1:{port}", *tls)
    asked = request("d", descriptor(("k", "v")))
    options = (("grpc.ssl_target_name_override", "localhost"),)

    credentials = channel_credentials(client_files)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as known:
        assert response(await known.unary_unary(METHOD)(asked, timeout=5)).overall_code == OK
    stranger = grpc.ssl_channel_credentials(authority.ca.read_bytes())
    for channel in (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
        grpc.aio.secure_channel(f"127.0.0.1:{port}", stranger, options=options),
    ):
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(METHOD)(asked, timeout=5)


async def test_an_error_of_the_callers_has_the_reference_services_status(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config(1))
    one = await start("--config", str(tmp_path))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await one.ask("", descriptor(("k", "v")))

    assert refused.value.code() is grpc.StatusCode.UNKNOWN
    assert refused.value.details() == "rate limit domain must not be empty"


async def test_an_edit_is_in_effect_soon_and_a_mistake_changes_nothing(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(config(1))
    one = await start("--config", str(tmp_path))

    file.write_text(config(2))
    await until("the edit in effect", _is_limit(one, 2))
    file.write_text("domain: d\nnonsense: 1")
    await until("the mistake noticed", lambda: "configuration refused" in one.process.log)
    assert await one.limit() == 2
    assert b"ratelimit_service_config_load_error_total 1.0" in (await one.http("GET", "/metrics")).body
    (tmp_path / "b.yaml").write_text(config(7, "other"))
    file.unlink()
    await until("the other file in effect", _is_limit(one, 7, "other"))
    assert await one.limit() == 0


async def test_a_swapped_link_is_an_edit(start: Start, tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: files are links through a link that is swapped."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.yaml").write_text(config(number))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    one = await start("--config", str(tmp_path))
    assert await one.limit() == 1

    (tmp_path / "..next").symlink_to("..2")
    os.replace(tmp_path / "..next", tmp_path / "..data")

    await until("the swap in effect", _is_limit(one, 2))


async def test_calls_in_flight_are_finished_at_the_end(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config(1_000_000))
    one = await start("--config", str(tmp_path))
    calls = [asyncio.ensure_future(one.ask("d", descriptor(("k", "v")))) for _ in range(50)]
    await asyncio.gather(*calls[:5])

    await asyncio.to_thread(one.process.stop)

    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [d for d in done if isinstance(d, BaseException) and "Cancelled" in str(d)] == []
    assert one.process.exit_code == 0


async def test_settings_that_make_no_sense_are_named(run_folder: Path) -> None:
    process = Process("refused", causeway("ratelimit"), folder=run_folder).start()

    await until("the process ending", lambda: not process.is_alive)

    assert process.exit_code == 2
    assert "--config or --xds is required" in process.log


class ControlPlane:
    """A state-of-the-world ADS server that says what it is told to, and remembers what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._say: asyncio.Queue[Any] = asyncio.Queue()
        self._server = grpc.aio.server()

    async def start(self, folder: Path) -> str:
        async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async def listen() -> None:
                async for each in requests:
                    self.heard.append(discovery_pb2.DiscoveryRequest.FromString(each))

            listening = asyncio.ensure_future(listen())
            while True:
                yield await self._say.get()
            listening.cancel()

        handler = grpc.method_handlers_generic_handler(
            "envoy.service.discovery.v3.AggregatedDiscoveryService",
            {"StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(stream)},
        )
        self._server.add_generic_rpc_handlers([handler])
        self._server.add_insecure_port(f"unix:{folder}/ads.sock")
        await self._server.start()
        return f"unix:{folder}/ads.sock"

    async def say(self, version: str, *configs: Any) -> Any:
        """Sends a response; the answer to it."""
        message = discovery_pb2.DiscoveryResponse(version_info=version, type_url=TYPE_URL, nonce=version)
        for each in configs:
            resource = message.resources.add(type_url=TYPE_URL)
            resource.value = json_format.ParseDict(each, RateLimitConfig()).SerializeToString()
        await self._say.put(message.SerializeToString())
        return await until(f"the answer to {version}", lambda: self._answer(version))

    def _answer(self, nonce: str) -> Any:
        return next((each for each in self.heard if each.response_nonce == nonce), None)

    async def stop(self) -> None:
        await self._server.stop(0)


async def test_the_reference_configuration_comes_over_ads(start: Start, run_folder: Path) -> None:
    control = ControlPlane()
    where = await control.start(run_folder)
    one = await start("--xds", where, "--xds-reference", "yes", "--node", "n1")

    def made(requests: int) -> dict[str, Any]:
        limit = {"unit": "HOUR", "requests_per_unit": requests}
        return {"name": "c", "domain": "d", "descriptors": [{"key": "k", "rate_limit": limit}]}

    with pytest.raises(grpc.aio.AioRpcError) as early:
        await one.limit()
    assert early.value.code() is grpc.StatusCode.UNAVAILABLE  # another replica may know more

    acked = await control.say("v1", made(3))
    assert (acked.version_info, acked.HasField("error_detail")) == ("v1", False)
    assert (control.heard[0].type_url, control.heard[0].node.id) == (TYPE_URL, "n1")
    assert await one.limit() == 3

    wrong = made(4)
    wrong["descriptors"].append(wrong["descriptors"][0])
    nacked = await control.say("v2", wrong)
    assert (nacked.version_info, nacked.error_detail.message) == ("v1", "c: duplicate descriptor composite key 'd.k'")
    assert await one.limit() == 3

    await control.say("v3", made(5))
    assert await one.limit() == 5
    await control.say("v4")
    assert await one.limit() == 0
    await control.stop()


def _is_limit(one: Running, requests: int, domain: str = "d") -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return await one.limit(domain) == requests

    return is_so
