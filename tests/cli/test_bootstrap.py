"""`causeway bootstrap`: Envoy itself accepts the file, and starts with it while the control plane is away."""

import asyncio
import json
import subprocess
from pathlib import Path

import aiohttp
import pytest
import typer
import yaml
from typer.testing import CliRunner

from controlplane.cli import bootstrap
from controlplane.cli.bootstrap import ENVOY_ARGUMENTS
from controlplane.cli.up.envoy import find_envoy
from tests.serving.certificates import Authority


def run(*arguments: str) -> str:
    app = typer.Typer()
    bootstrap.register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["bootstrap", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    app = typer.Typer()
    bootstrap.register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["bootstrap", *arguments])
    assert result.exit_code == 2
    return result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--admin", "0.0.0.0:9901"], "loopback or unix:/path only", id="admin on every interface"),
        pytest.param(["--xds-key", "k"], "go together", id="a key without its certificate"),
        pytest.param(["--xds-key", "k", "--xds-certificate", "c"], "needs --xds-ca", id="an unverified server"),
        pytest.param(["--max-heap-mb", "1"], "less than 64", id="less memory than Envoy needs"),
        pytest.param(["--xds", "nowhere"], "expected host:port", id="an address without a port"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(arguments: list[str], problem: str) -> None:
    assert problem in refused(*arguments)


def test_the_image_s_file_is_what_the_command_prints() -> None:
    kept = (Path(__file__).parents[2] / "envoy" / "bootstrap.yaml").read_text()
    printed = run("--xds", "control-plane:18000", "--node-id", "envoy")
    assert [line for line in kept.splitlines() if not line.startswith("#")] == printed.splitlines()


def test_it_can_be_written_to_a_file(tmp_path: Path) -> None:
    assert run("--node-id", "x", "--output", str(tmp_path / "envoy.yaml")) == ""
    assert (tmp_path / "envoy.yaml").read_text() == run("--node-id", "x")


def test_both_formats_say_the_same() -> None:
    assert yaml.safe_load(run("--node-id", "n")) == json.loads(run("--node-id", "n", "--format", "json"))


def test_the_node_is_named_after_the_host_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "edge-7")
    assert yaml.safe_load(run())["node"] == {"id": "edge-7", "cluster": "gateway"}
    assert yaml.safe_load(run("--node-id", "a", "--cluster", "b"))["node"] == {"id": "a", "cluster": "b"}


@pytest.mark.gateway
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--xds", "127.0.0.1:18000"], id="an IPv4 address"),
        pytest.param(["--xds", "[::1]:18000"], id="an IPv6 address"),
        pytest.param(["--xds", "localhost:18000", "--admin", "localhost:9901"], id="localhost"),
        pytest.param(["--xds", "control-plane:18000"], id="a DNS name"),
        pytest.param(["--xds", "unix:/tmp/x.sock", "--admin", "unix:/tmp/a.sock"], id="Unix sockets"),
        pytest.param(["--xds", "control-plane:18000", "--xds-ca", "{ca}"], id="TLS"),
        pytest.param(["--xds", "127.0.0.1:1", "--xds-ca", "{ca}", "--xds-name", "cp"], id="TLS by another name"),
        pytest.param(
            ["--xds", "127.0.0.1:1", "--xds-ca", "{ca}", "--xds-certificate", "{crt}", "--xds-key", "{key}"],
            id="mutual TLS to an IP address",
        ),
    ],
)
def test_envoy_accepts_the_file(tmp_path: Path, arguments: list[str]) -> None:
    authority = Authority(tmp_path / "pki")
    files = authority.issue("client", "client")
    names = {"ca": authority.ca, "crt": files.certificate, "key": files.key}
    file = tmp_path / "envoy.yaml"
    file.write_text(run(*(one.format(**names) for one in arguments)))
    checked = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", file, *ENVOY_ARGUMENTS],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "OK" in checked.stdout, checked.stderr
    assert "deprecated" not in checked.stderr.lower()


@pytest.mark.gateway
async def test_envoy_starts_while_the_control_plane_is_away(tmp_path: Path) -> None:
    # The node is called n: to Envoy's YAML parser a bare n is a boolean.
    admin = tmp_path / "a.sock"
    file = tmp_path / "envoy.yaml"
    file.write_text(run("--xds", f"unix:{tmp_path}/nobody.sock", "--admin", f"unix:{admin}", "--node-id", "n"))
    process = await asyncio.create_subprocess_exec(
        find_envoy(), "-c", file, "--disable-hot-restart", *ENVOY_ARGUMENTS, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as session:
            while True:
                try:
                    async with session.get("http://envoy/server_info") as response:
                        shown = await response.json()
                        break
                except aiohttp.ClientError:
                    assert process.returncode is None, "Envoy ended"
                    await asyncio.sleep(0.05)
        assert shown["node"]["id"] == "n"
        assert shown["state"] in ("PRE_INITIALIZING", "INITIALIZING", "LIVE")
    finally:
        process.kill()
        await process.wait()
