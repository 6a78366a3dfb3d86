"""A crowd of simulated delta clients, in a process of their own: each has a connection, asks, and accepts what it gets.

    async with crowd(target, 1000, types.CLUSTER) as clients:
        await clients.all_served()
        await clients.reconnect()     # all drop their connections, then all come back at once, saying what they have

`clients.answers` is what each was sent since it last connected: for each response the versions by name.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.xds.methods import METHODS
from controlplane.xds.protocol import Variant
from tests.support.waiting import until

_ROOT = Path(__file__).parents[2]
AGENT = "crowd"


class Crowd:
    """The test's side: what the process reports."""

    def __init__(self, process: asyncio.subprocess.Process, size: int) -> None:
        self.size = size
        self.answers: dict[int, list[dict[str, str]]] = {}
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @property
    def served(self) -> int:
        """Clients that have had an answer since they last connected."""
        return len(self.answers)

    async def all_served(self, *, within_s: float = 60.0) -> None:
        await until(f"all {self.size} served", lambda: self.served == self.size, within_s=within_s)

    async def reconnect(self) -> None:
        """Returns when all have dropped their connections and begin to come back."""
        assert self._process.stdin is not None
        self.answers = {}
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    def freeze(self) -> None:
        """From now on none of them reads, or says anything."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            number, versions = json.loads(line)
            self.answers.setdefault(number, []).append(versions)

    async def end(self) -> None:
        self._reading.cancel()
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def crowd(target: str, size: int, type_url: str, *names: str) -> AsyncIterator[Crowd]:
    """`size` clients of the control plane at the gRPC target, asking for these names; for everything without any."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.xds.crowd", target, str(size), type_url, *names),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        cwd=_ROOT,
    )
    one = Crowd(process, size)
    try:
        yield one
    finally:
        await one.end()


# The process


class _Client:
    def __init__(self, target: str, number: int, type_url: str, names: list[str]) -> None:
        self._target = target
        self._number = number
        self._type_url = type_url
        self._names = names
        self._versions: dict[str, str] = {}

    async def connect(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._conversation = asyncio.create_task(self._converse())

    async def drop(self) -> None:
        self._conversation.cancel()
        await self._channel.close()

    async def _converse(self) -> None:
        method = next(one for one in METHODS if (one.variant, one.type_url) == (Variant.DELTA, self._type_url))
        stream = self._channel.stream_stream(method.path)(wait_for_ready=True)
        hello = discovery_pb2.DeltaDiscoveryRequest(
            node=base_pb2.Node(id=f"{AGENT}-{self._number}", user_agent_name=AGENT),
            type_url=self._type_url,
            resource_names_subscribe=self._names,
            initial_resource_versions=self._versions,
        )
        await stream.write(hello.SerializeToString())
        while (body := await stream.read()) is not grpc.aio.EOF:
            response = discovery_pb2.DeltaDiscoveryResponse.FromString(body)
            versions = {one.name: one.version for one in response.resources}
            self._versions |= versions
            sys.stdout.write(json.dumps([self._number, versions]) + "\n")
            sys.stdout.flush()
            answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            await stream.write(answer.SerializeToString())


async def _run(target: str, size: int, type_url: str, names: list[str]) -> None:
    clients = [_Client(target, number, type_url, names) for number in range(size)]
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while True:
        await asyncio.gather(*(client.connect() for client in clients))
        if not await orders.readline():
            return
        await asyncio.gather(*(client.drop() for client in clients))


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
