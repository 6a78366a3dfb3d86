"""`causeway bootstrap`: Envoy itself accepts the file, and starts with it while the control plane is away."""

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from controlplane.cli import bootstrap
from controlplane.cli.bootstrap import ENVOY_ARGUMENTS, OLDEST_ENVOY, RUNTIME
from controlplane.cli.up.envoy import find_envoy
from controlplane.expression import program_size
from controlplane.manifests.models.text import LARGEST_PROGRAM, LONGEST_PATH, path_pattern
from controlplane.resolve.paths import parse
from controlplane.xds import cohort
from controlplane.xds.controlplane import ControlPlane
from serving.address import TcpAddress
from serving.server import Server
from serving.tls import TlsFiles
from tests.serving.certificates import Authority
from tests.support.envoy import Envoy
from tests.support.waiting import free_port, until


def invoke(*arguments: str, **environ: str) -> Result:
    app = typer.Typer()
    bootstrap.register(app)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["bootstrap", *arguments], env=environ)


def run(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


ROOT = Path(__file__).parents[2]
TOLD = {
    "the help": lambda: " ".join(run("--help").split()),
    "the README": lambda: (ROOT / "README.md").read_text(),
    "Envoy's image": lambda: (ROOT / "deploy" / "Dockerfile.envoy").read_text().replace('", "', " "),
}


@pytest.mark.parametrize("where", TOLD)
def test_who_starts_an_envoy_is_told_with_which_arguments_and_which_one(where: str) -> None:
    text = TOLD[where]()
    assert " ".join(ENVOY_ARGUMENTS) in text
    assert where == "Envoy's image" or f"Envoy must be {'.'.join(map(str, OLDEST_ENVOY))}" in text


async def seen_by_control_plane(port: int, tls: TlsFiles) -> frozenset[str]:
    """The names in the certificate that Envoy shows to a control plane, which is gone afterwards."""
    plane = ControlPlane()
    server = Server(plane.services(), tls=tls)
    await server.start([TcpAddress("127.0.0.1", port)])
    try:
        await until("Envoy connected", lambda: cohort.connected(plane), within_s=30)
        (session,) = plane.sessions
        return session.identity
    finally:
        plane.end_all()
        await server.drain(grace_s=0.2)


async def has_certificate(envoy: Envoy, name: str) -> bool:
    return name in (await envoy.ask("/certs")).body.decode()


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
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


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/*" * (LONGEST_PATH // 2), id="most segments"),
        pytest.param("/*/**", id="the rest"),
        pytest.param("/" + "a" * (LONGEST_PATH - 3) + "/*", id="longest segment"),
    ],
)
def test_envoy_takes_the_largest_expressions_that_manifests_may_come_to(path: str) -> None:
    pattern = parse(path_pattern(path))
    largest = max(program_size(f"^{pattern.regex(captured=captured)}(?:/.*)?$") for captured in (range(9), ()))
    assert largest < RUNTIME["re2.max_program_size.error_level"]
    assert RUNTIME["re2.max_program_size.error_level"] > LARGEST_PROGRAM


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


@pytest.mark.parametrize("is_named", [True, False])
def test_certificates_are_named_in_files_of_their_own_so_that_they_can_be_replaced(
    tmp_path: Path, is_named: bool
) -> None:
    certificates = ("--xds-ca", "/pki/ca.crt", "--xds-certificate", "/pki/c.crt", "--xds-key", "/pki/c.key")
    where = ("--xds-secrets", str(tmp_path / "made")) if is_named else ("--output", str(tmp_path / "envoy.json"))
    run("--node-id", "n", *certificates, *where)
    before_name = tmp_path / "made" / "xds" if is_named else tmp_path / "envoy.json.xds"
    (certificate,) = json.loads(Path(f"{before_name}-certificate.json").read_text())["resources"]
    (authority,) = json.loads(Path(f"{before_name}-authority.json").read_text())["resources"]
    assert certificate["tls_certificate"]["watched_directory"] == {"path": "/pki"}
    assert authority["validation_context"]["trusted_ca"] == {"filename": "/pki/ca.crt"}
    assert "sds" not in run(*certificates), "printed alone it stands alone"


def files_named(value: object) -> set[str]:
    """Every file and folder that a bootstrap, or a file beside it, names."""
    match value:
        case dict():
            own = {one for key, one in value.items() if key in ("filename", "path") and isinstance(one, str)}
            return own.union(*map(files_named, value.values()))
        case list():
            return set().union(*map(files_named, value))
        case _:
            return set()


def test_paths_are_absolute_since_envoy_may_start_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swung").symlink_to("pki")
    certificates = ("--xds-ca", "ca.crt", "--xds-certificate", "swung/c.crt", "--xds-key", "swung/c.key")
    pems = {f"{tmp_path}/{name}" for name in ("ca.crt", "swung/c.crt", "swung/c.key")}
    assert files_named(yaml.safe_load(run(*certificates))) == pems
    run(*certificates, "--output", "envoy.yaml")
    beside = {f"{tmp_path}/envoy.yaml.xds-{what}.json" for what in ("certificate", "authority")}
    assert files_named(yaml.safe_load((tmp_path / "envoy.yaml").read_text())) == beside
    assert files_named([json.loads(Path(file).read_text()) for file in beside]) == {
        *pems,
        str(tmp_path),
        f"{tmp_path}/swung",
    }


def test_two_envoys_beside_each_other_have_files_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("--xds-ca", f"/pki/{name}.crt", "--output", str(tmp_path / f"{name}.yaml"))
    for name in ("one", "two"):
        named = files_named(json.loads((tmp_path / f"{name}.yaml.xds-authority.json").read_text()))
        assert named == {f"/pki/{name}.crt", "/pki"}


def test_a_certificate_that_is_not_here_is_told_and_may_be_there_later(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    done = invoke("--xds-ca", f"{tmp_path}/ca.crt", "--xds-certificate", f"{tmp_path}/c.crt", "--xds-key", "/c.key")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        f"warning: --xds-certificate: there is no {tmp_path}/c.crt here; Envoy needs it where it starts",
        "warning: --xds-key: there is no /c.key here; Envoy needs it where it starts",
    ]


@pytest.mark.parametrize("where", ["nowhere/envoy.yaml", "."])
def test_a_file_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, where: str) -> None:
    done = invoke("--output", str(tmp_path / where))
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: cannot write {tmp_path / where}: ")
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_environment_s_admin_address_of_other_commands_is_not_envoy_s() -> None:
    done = invoke(CAUSEWAY_ADMIN="127.0.0.1:1", CAUSEWAY_BOOTSTRAP_ADMIN="127.0.0.1:2")
    assert yaml.safe_load(done.stdout)["admin"]["address"]["socket_address"]["port_value"] == 2


@pytest.mark.gateway
async def test_a_replaced_certificate_is_shown_at_the_next_connection(tmp_path: Path) -> None:
    """Two control planes, one after the other; the certificate and then the authority are replaced in between."""
    first = Authority(tmp_path / "pki")
    server = first.issue("server", "control-plane")
    client = first.issue("client", "edge-1.old")
    port, file, admin = free_port(), tmp_path / "envoy.json", f"unix:{tmp_path}/a.sock"
    tls = ("--xds-ca", first.ca, "--xds-certificate", client.certificate, "--xds-key", client.key)
    where = ("--xds", f"127.0.0.1:{port}", "--xds-name", "control-plane", "--admin", admin, "--node-id", "edge-1")
    run(*map(str, (*where, *tls, "--format", "json", "--output", file)))
    envoy = Envoy(file, *ENVOY_ARGUMENTS, folder=tmp_path).start()
    try:
        assert await seen_by_control_plane(port, server) == {"edge-1.old"}

        renewed = first.issue("renewed", "edge-1.new")
        renewed.key.replace(client.key)
        renewed.certificate.replace(client.certificate)
        await until("Envoy has read it", lambda: has_certificate(envoy, "edge-1.new"))
        assert await seen_by_control_plane(port, server) == {"edge-1.new"}

        second = Authority(tmp_path / "other")
        second.ca.replace(first.ca)
        other = second.issue("server", "control-plane")
        assert await seen_by_control_plane(port, replace(other, ca=None)) == frozenset(), (
            "the new authority is believed"
        )
    finally:
        envoy.stop()


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
