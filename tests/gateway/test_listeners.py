"""What holds for a listener as a whole: TLS with certificates that rotate, and how many connections it takes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.serving.certificates import Authority
from tests.support.client import Address, request
from tests.support.gateway import Gateway
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.gateway

HELLO = {"path": "/", "respond": {"body": "hello"}, "auth": "public"}


async def _peer_serial(port: int, authority: Path) -> int:
    context = ssl.create_default_context(cafile=str(authority))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    writer.close()
    return serial


async def test_a_certificate_is_replaced_without_a_restart_or_a_listener_drained(
    gateway: Gateway, tmp_path: Path
) -> None:
    authority, port = Authority(tmp_path / "authority"), free_port()
    first = authority.issue("edge", "localhost")
    tls = {"certificate": str(first.certificate), "key": str(first.key)}
    await gateway.apply(
        {
            "gateway": {"listeners": [{"port": port, "address": "127.0.0.1", "tls": tls}]},
            "routes": [HELLO],
        }
    )
    await until("the TLS listener", lambda: _answers(port, authority.ca))
    before = await _peer_serial(port, authority.ca)
    second = authority.issue("edge", "localhost")
    assert second.certificate == first.certificate  # the same files, written anew

    async def has_changed() -> bool:
        return await _peer_serial(port, authority.ca) != before

    await until("the new certificate", has_changed)
    stats = (await gateway.envoy.ask("/stats?filter=total_listeners_draining")).body.decode()
    assert stats.strip().endswith(": 0")


async def _answers(port: int, authority: Path) -> bool:
    try:
        await _peer_serial(port, authority)
    except OSError:
        return False
    return True


async def test_a_port_that_is_taken_is_told_and_tried_again(gateway: Gateway) -> None:
    port = free_port()
    manifest = {"gateway": {"listeners": [{"port": port, "address": "127.0.0.1"}]}, "routes": [HELLO]}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        gateway.write(manifest)
        await gateway.start()

        async def refused() -> list[dict[str, Any]]:
            clients = (await gateway.status())["clients"]
            types = [one for client in clients if client["verdict"] == "rejected" for one in client["types"]]
            return [one for one in types if "in use" in (one["nack"] or "")]

        (listeners,) = await until("the refused listener", refused)
        assert [place.partition(":")[0] for place in listeners["nack_origins"]] == ["00.yaml"]
        assert (await gateway.status())["kept_back"] == [], "from other Envoys"
    await gateway.tell("POST", "/apply")
    await until("an answer on the port that is free by now", lambda: _is_answered(port))
    await gateway.live()


async def _is_answered(port: int) -> bool:
    try:
        return (await request(Address(port=port), "GET", "/")).status == 200
    except OSError:
        return False


async def test_connections_beyond_the_limit_are_closed(gateway: Gateway) -> None:
    port = free_port()
    listener = {"port": port, "address": "127.0.0.1"}
    await gateway.apply({"gateway": {"listeners": [listener], "clients": {"max_connections": 2}}, "routes": [HELLO]})

    async def is_served(writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> bool:
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            return b"200 OK" in await asyncio.wait_for(reader.readline(), 10)
        except ConnectionError:
            return False

    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    assert [await is_served(writer, reader) for reader, writer in opened] == [True, True]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert not await is_served(writer, reader)
    for _, one in (*opened, (reader, writer)):
        one.close()
