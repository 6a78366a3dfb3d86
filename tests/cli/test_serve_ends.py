"""The control plane ends when it is told to, however early that is."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

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


async def test_plain_text_for_other_machines_is_refused_in_a_line(tmp_path: Path) -> None:
    """Each process says what is wrong with its settings without a traceback."""
    (tmp_path / "a.yaml").write_text("routes: [{path: /, respond: {status: 200}, auth: public}]\n")
    argv = causeway("serve", tmp_path, "--xds", "0.0.0.0:0", "--admin", "127.0.0.1:0", "--state", tmp_path / "state")
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    assert process.returncode == 1
    assert b"allow it (--allow-insecure yes)" in said
    assert b"Traceback" not in said
