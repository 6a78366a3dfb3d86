"""Who may speak to a control plane over the network: clients whose certificate has a name that is on the list now."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.cli.bootstrap import BootstrapSettings, bootstrap
from serving.address import TcpAddress, UnixAddress
from serving.tls import TlsFiles, channel_credentials
from tests.serving.certificates import Authority
from tests.support.gateway import Gateway, causeway
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.gateway
ALLOWED = "envoy.test\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def xds() -> TcpAddress:
    return TcpAddress("127.0.0.1", free_port())


@pytest.fixture
def gateway(run_folder: Path, authority: Authority, xds: TcpAddress) -> Iterator[Gateway]:
    """Our services connect by the Unix socket, Envoy by TCP with a certificate."""
    server, client = authority.issue("server", "control.test"), authority.issue("envoy", "envoy.test")
    (run_folder / "clients").write_text(ALLOWED)
    flags = {
        "--xds": xds,
        "--xds-certificate": server.certificate,
        "--xds-key": server.key,
        "--xds-ca": authority.ca,
        "--xds-clients": run_folder / "clients",
    }
    one = Gateway(run_folder, flags={"serve": tuple(str(part) for pair in flags.items() for part in pair)})
    settings = BootstrapSettings(
        xds=xds,
        admin=UnixAddress(run_folder / "envoy.sock"),
        node_id="far-away",
        xds_ca=authority.ca,
        xds_certificate=client.certificate,
        xds_key=client.key,
        xds_name="control.test",
    )
    (run_folder / "bootstrap.json").write_text(json.dumps(bootstrap(settings)))
    yield one
    one.stop()


def manifest(answer: str) -> dict[str, Any]:
    return {"routes": [{"path": "/", "respond": {"body": answer}, "auth": "public"}]}


async def test_the_list_of_clients_is_followed_without_a_restart(
    gateway: Gateway, authority: Authority, xds: TcpAddress
) -> None:
    allowed = gateway.folder / "clients"

    async def is_connected() -> bool:
        return (await gateway.envoy.stats(r"^control_plane\.connected_state$"))["control_plane.connected_state"] == 1

    async def is_refused() -> bool:
        return not await is_connected()

    await gateway.apply(manifest("first"))
    assert (await gateway.request("GET", "/")).body == b"first"
    process = gateway.control_plane.pid

    # Taken off the list: its open stream ends, and it hears nothing of what comes then. It serves on what it has.
    allowed.write_text("somebody-else.test\n")
    await until("Envoy's stream ended", is_refused)
    gateway.write(manifest("second"))
    assert (await gateway.tell("POST", "/apply", {"confirm": True}))["outcome"] in {"served", "unchanged"}
    await gateway.live()
    assert (await gateway.request("GET", "/")).body == b"first"
    assert await refusal(xds, authority.issue("other", "other.test")) is grpc.StatusCode.PERMISSION_DENIED

    # And back on it.
    allowed.write_text(ALLOWED)
    await until("Envoy connected", is_connected, within_s=30)

    async def is_second() -> bool:
        return (await gateway.request("GET", "/")).body == b"second"

    await until("the edit that it missed", is_second)
    assert gateway.control_plane.pid == process

    # Without a certificate, with one that a stranger signed, and in plain text there is no conversation at all.
    stranger = Authority(gateway.folder / "stranger").issue("envoy", "envoy.test")
    pretending = TlsFiles(certificate=stranger.certificate, key=stranger.key, ca=authority.ca)
    assert await refusal(xds, pretending) is grpc.StatusCode.UNAVAILABLE
    assert await refusal(xds, grpc.ssl_channel_credentials(authority.ca.read_bytes())) is grpc.StatusCode.UNAVAILABLE
    assert await refusal(xds, None) is grpc.StatusCode.UNAVAILABLE


async def refusal(xds: TcpAddress, who: TlsFiles | grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """How a stream of such a client ends."""
    options = [("grpc.ssl_target_name_override", "control.test")]
    credentials = channel_credentials(who) if isinstance(who, TlsFiles) else who
    async with (
        grpc.aio.secure_channel(str(xds), credentials, options=options)
        if credentials is not None
        else grpc.aio.insecure_channel(str(xds))
    ) as channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
        )()
        return await asyncio.wait_for(call.code(), 20)


def test_plain_text_is_for_this_machine_only_unless_asked(tmp_path: Path) -> None:
    where = ("--admin", f"unix:{tmp_path}/admin.sock", "--state", str(tmp_path / "state"))
    (tmp_path / "a.yaml").write_text("routes: [{path: /, respond: {body: x}, auth: public}]\n")
    refused = subprocess.run(
        causeway("serve", tmp_path, "--xds", f"0.0.0.0:{free_port()}", *where),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    assert "allow-insecure" in refused.stdout + refused.stderr
