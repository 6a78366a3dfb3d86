"""The control plane ends when it is told to, however early that is."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.cli.serve import Settings
from serving.address import TcpAddress
from serving.settings import SettingsError, load
from serving.tls import TlsFiles
from tests.serving.certificates import Authority
from tests.support.gateway import causeway


@pytest.mark.parametrize("after_s", [1.0, 2.0], ids=["while it starts", "as it begins to serve"])
async def test_a_signal_during_the_start_ends_it_within_seconds(tmp_path: Path, after_s: float) -> None:
    """A wait that had just been over once swallowed the cancellation."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text("routes: [{path: /, respond: {status: 200}, auth: public}]\n")
    argv = causeway("serve", folder, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state", tmp_path / "state")
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
    await asyncio.sleep(after_s)  # the point in its start is what the test is about
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await process.wait()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


async def refused(folder: Path, *flags: str | Path) -> str:
    """What the control plane says when it ends at once, without a traceback."""
    (folder / "a.yaml").write_text("routes: [{path: /, respond: {status: 200}, auth: public}]\n")
    where = ("--admin", "127.0.0.1:0", "--state", folder / "state")
    process = await asyncio.create_subprocess_exec(
        *causeway("serve", folder, *where, *flags), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 1
    assert b"Traceback" not in said
    return said.decode()


async def test_plain_text_for_other_machines_is_refused_in_a_line(tmp_path: Path) -> None:
    """Each process says what is wrong with its settings without a traceback."""
    assert "allow it (--allow-insecure yes)" in await refused(tmp_path, "--xds", "0.0.0.0:0")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        pytest.param({"xds": [""]}, "^--xds: expected at least one$", id="no address"),
        pytest.param({"admin": "0.0.0.0:1"}, "^--admin 0.0.0.0:1: whoever reaches it", id="an admin address for all"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(flags: dict[str, str | list[str]], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(Settings, flags=flags, environ={})
    allowed = load(Settings, flags={"admin": "0.0.0.0:1", "allow_insecure": "yes"}, environ={})
    assert allowed.admin == TcpAddress("0.0.0.0", 1)


def tls(files: TlsFiles) -> tuple[str | Path, ...]:
    assert files.ca is not None
    flags = {"--xds-certificate": files.certificate, "--xds-key": files.key, "--xds-ca": files.ca}
    return ("--xds", "127.0.0.1:0", *(part for pair in flags.items() for part in pair))


async def test_a_list_of_clients_that_is_no_text_is_refused_in_a_line(tmp_path: Path, authority: Authority) -> None:
    allowed = tmp_path / "clients"
    allowed.write_bytes("envoy.test # café\n".encode("latin-1"))
    said = await refused(tmp_path, *tls(authority.issue("server", "control.test")), "--xds-clients", allowed)
    assert f"{allowed}:1: the list of clients is not UTF-8" in said


async def test_a_key_of_another_certificate_is_refused_in_a_line(tmp_path: Path, authority: Authority) -> None:
    files, other = authority.issue("server", "control.test"), authority.issue("other", "control.test")
    said = await refused(tmp_path, *tls(replace(files, key=other.key)))
    assert f"--xds-key {other.key}: not the key of the certificate {files.certificate}" in said
