"""How fast a saved edit is served, how fast a gateway starts, and what a thousand clients cost.

Propagation: from the moment a file has its new content to the first request answered by what it says now, with traffic
running; for a route that comes (in a file renamed to its place), one that is changed (its file written in place), and
a service whose endpoint moves (likewise). Cold start: from starting the processes to the first answered request.
Fan-out: one edit to simulated delta clients, each a stream that subscribes to everything and accepts what it is sent,
in a process of their own.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from benchmarks.result import Result
from controlplane.snapshot import resource as types
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from tests.support.client import Response, read_response
from tests.support.gateway import Gateway
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.wire import encode
from tests.xds import made
from tests.xds.served import serving

ROUTES = (100, 3_000, 10_000)
EDITS = 20
COLD_ROUTES = 5_000
CLIENTS = (100, 1_000)
CLUSTERS = 200
STREAMS_PER_CONNECTION = 20
PATIENCE_S = 30.0
_ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


async def run() -> list[Result]:
    """Every figure, smallest size first."""
    rows: list[Result] = []
    origins = Origin("first"), Origin("second")
    for origin in origins:
        origin.start()
    try:
        for count in ROUTES:
            rows += await _propagation(count, origins)
        rows.append(await _cold_start(origins[0]))
    finally:
        for origin in origins:
            origin.stop()
    for count in CLIENTS:
        rows += await _fan_out(count)
    return rows


# Propagation and cold start


def _manifests(count: int, origin: Origin) -> list[str]:
    """The gateway and its service, and the routes in files of 250, as teams would have them."""
    first = f"gateway: {{listeners: [{{port: ${{GATEWAY_PORT}}, address: 127.0.0.1}}]}}\n{_service(origin)}"
    files = [first + "routes:\n- {path: /steady, service: bench, auth: public}\n"]
    for start in range(0, count, 250):
        lines = [_route(f"/r/{number:05}/**") for number in range(start, min(start + 250, count))]
        files.append("routes:\n" + "".join(lines))
    return files


def _service(origin: Origin, name: str = "bench") -> str:
    return f'services: {{{name}: {{endpoints: ["{origin.address}"]}}}}\n'


def _route(path: str, more: str = "") -> str:
    return f"- {{path: {path}, service: bench, auth: public{more}}}\n"


@asynccontextmanager
async def _gateway() -> AsyncIterator[Gateway]:
    folder = Path(tempfile.mkdtemp(prefix="cw-bench-"))
    gateway = Gateway(folder)
    try:
        yield gateway
    finally:
        gateway.stop()
        shutil.rmtree(folder, ignore_errors=True)


Proof: TypeAlias = tuple[str, Callable[[Response], bool]]
"""Which path tells that an edit is live, and by what answer."""
Edit: TypeAlias = Callable[[Gateway, Sequence[Origin], int], Proof]
"""Saves the edit of that number; no two in a row are alike."""


def _new_route(gateway: Gateway, _: Sequence[Origin], number: int) -> Proof:
    draft = gateway.folder / "draft"
    draft.write_text("routes:\n" + _route(f"/new/{number}"))
    os.replace(draft, gateway.manifests / f"new-{number}.yaml")
    return f"/new/{number}", lambda response: response.status == 200


def _changed_route(gateway: Gateway, _: Sequence[Origin], number: int) -> Proof:
    edit = f", response_headers: {{set: {{x-edit: e{number}}}}}"
    (gateway.manifests / "changed.yaml").write_text("routes:\n" + _route("/changed", edit))
    return "/changed", lambda response: response.header("x-edit") == f"e{number}"


def _moved_endpoint(gateway: Gateway, origins: Sequence[Origin], number: int) -> Proof:
    origin = origins[number % len(origins)]
    (gateway.manifests / "moved.yaml").write_text(
        _service(origin, "moved") + "routes:\n- {path: /moved, service: moved, auth: public}\n"
    )
    return "/moved", lambda response: response.status == 200 and response.json()["origin"] == origin.name


EDIT_KINDS: dict[str, Edit] = {
    "a new route": _new_route,
    "a changed route, saved in place": _changed_route,
    "a moved endpoint, saved in place": _moved_endpoint,
}


async def _propagation(count: int, origins: Sequence[Origin]) -> list[Result]:
    rows: list[Result] = []
    async with _gateway() as gateway:
        await gateway.apply(*_manifests(count, origins[0]), within_s=60)
        async with Load(gateway.address, ["/steady"], connections=2) as load:
            await load.more(20)
            for kind, edit in EDIT_KINDS.items():
                await _until_live(gateway, edit, origins, EDITS + 1)  # what is edited exists
                before, failed = load.total, sum(load.failures.values())
                took = [await _until_live(gateway, edit, origins, number) for number in range(EDITS)]
                meanwhile, lost = load.total - before, sum(load.failures.values()) - failed
                name = f"saved file to first answer, {kind}, among {count:,} routes"
                rows += [
                    Result(
                        what=f"{name}, mean",
                        measured=statistics.mean(took) * 1000,
                        unit="ms",
                        note=f"{EDITS} edits; {meanwhile:,} requests meanwhile, {lost} failed",
                        curve=f"saved file to first answer, {kind}, by routes",
                        size=count,
                    ),
                    Result(what=f"{name}, median", measured=statistics.median(took) * 1000, unit="ms"),
                    Result(what=f"{name}, max", measured=max(took) * 1000, unit="ms"),
                ]
    return rows


async def _until_live(gateway: Gateway, edit: Edit, origins: Sequence[Origin], number: int) -> float:
    """Seconds from the file having its new content to the first answer that shows it."""
    reader, writer = await gateway.address.connect()
    path, is_new = edit(gateway, origins, number)
    began = time.perf_counter()
    message = encode(f"GET {path} HTTP/1.1", (("host", "gateway.test"),))
    try:
        while True:
            writer.write(message)
            response = await read_response(reader)
            took = time.perf_counter() - began
            if is_new(response):
                return took
            if took > PATIENCE_S:
                raise TimeoutError(f"{path} is not served as edited after {PATIENCE_S:g} s: {response.status}")
            if response.header("connection") == "close":
                writer.close()
                reader, writer = await gateway.address.connect()
    finally:
        writer.close()


async def _cold_start(origin: Origin) -> Result:
    async with _gateway() as gateway:
        gateway.write(*_manifests(COLD_ROUTES, origin))
        began = time.perf_counter()
        await gateway.start()
        while True:
            try:
                response = await gateway.request("GET", "/r/04999/x")
            except OSError:
                await asyncio.sleep(0.01)
                continue
            if response.status == 200:
                break
        return Result(
            what=f"cold start with {COLD_ROUTES:,} routes to the first answer",
            measured=time.perf_counter() - began,
            unit="s",
            note="control plane, both services and Envoy started from nothing",
        )


# Fan-out


async def _fan_out(count: int) -> list[Result]:
    plane = ControlPlane()

    def snapshot(edited: int) -> Snapshot:
        clusters = [made.cluster(f"c{n}", eds=False, port=1000 + n) for n in range(CLUSTERS)]
        changed = made.cluster(f"c{edited % CLUSTERS}", timeout_ms=2000 + edited, eds=False, port=1)
        return Snapshot.of([changed, *(one for one in clusters if one.name != changed.name)])

    await plane.set_snapshot(snapshot(0))
    before = _memory_bytes()
    async with serving(plane) as port:
        argv = [sys.executable, "-m", "benchmarks.xds", str(port), str(count)]
        clients = await asyncio.create_subprocess_exec(*argv)
        try:
            began = time.perf_counter()
            await _all_have(plane, count)
            joined = time.perf_counter() - began
            memory = (_memory_bytes() - before) / count
            took, sent = [], 0
            for number in range(1, 11):
                bytes_before = sum(session.bytes_sent for session in plane.sessions)
                began = time.perf_counter()
                await plane.set_snapshot(snapshot(number), revision=str(number))
                await _all_have(plane, count)
                took.append(time.perf_counter() - began)
                sent = sum(session.bytes_sent for session in plane.sessions) - bytes_before
        finally:
            clients.terminate()
            await clients.wait()
    hits, misses = plane.encoder.hits, plane.encoder.misses
    return [
        Result(
            what=f"one edit to {count:,} clients, to the last ACK",
            measured=statistics.mean(took) * 1000,
            unit="ms",
            curve="one edit to the last ACK, by clients",
            size=count,
            note=f"max {max(took) * 1000:.0f} ms; {sent / count:,.0f} bytes a client; "
            f"{misses} responses encoded, {hits:,} shared",
        ),
        Result(
            what=f"{count:,} clients connecting at once, to the last ACK",
            measured=joined,
            unit="s",
            note=f"{CLUSTERS} clusters each; the clients' own start included",
        ),
        Result(
            what=f"memory per client, of {count:,}",
            measured=memory / 1024,
            unit="KiB",
            curve="memory per client, by clients",
            size=count,
        ),
    ]


async def _all_have(plane: ControlPlane, count: int) -> None:
    while len(plane.sessions) < count or any(session.revision != plane.revision for session in plane.sessions):
        await plane.news()


def _memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _clients(port: int, count: int) -> None:
    """`count` streams that subscribe to every cluster and accept whatever comes."""
    connections = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(-(-count // STREAMS_PER_CONNECTION))
    ]
    await asyncio.gather(*(_client(connections[n // STREAMS_PER_CONNECTION], n) for n in range(count)))


async def _client(connection: grpc.aio.Channel, number: int) -> None:
    stream = connection.stream_stream(_ADS)()
    hello = discovery_pb2.DeltaDiscoveryRequest(
        node=base_pb2.Node(id=f"client-{number}", user_agent_name="simulated"), type_url=types.CLUSTER
    )
    listeners = discovery_pb2.DeltaDiscoveryRequest(type_url=types.LISTENER)
    await stream.write(hello.SerializeToString())
    await stream.write(listeners.SerializeToString())
    while (body := await stream.read()) is not grpc.aio.EOF:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        await stream.write(answer.SerializeToString())


if __name__ == "__main__":
    asyncio.run(_clients(int(sys.argv[1]), int(sys.argv[2])))
