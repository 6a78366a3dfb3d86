"""The state folder of a control plane is of one process and of one folder of manifests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

from serving.lock import lock
from tests.support.gateway import causeway
from tests.support.process import Process
from tests.support.waiting import until

GOOD = "routes: [{path: /, respond: {status: 200}, auth: public}]\n"


async def test_two_control_planes_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """Each would take the other's last known good for its own."""
    (tmp_path / "a.yaml").write_text(GOOD)
    state = tmp_path / "state"
    state.mkdir()
    held = lock(state / "lock")
    try:
        argv = causeway("serve", tmp_path, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state", state)
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    finally:
        os.close(held)
    assert process.returncode == 1
    assert f"a control plane that runs (process {os.getpid()})".encode() in said
    assert b"Traceback" not in said


async def test_a_gateway_does_not_serve_what_was_kept_of_another(run_folder: Path) -> None:
    """Both were started in the same folder, one after the other, and keep their state there."""
    admin = f"unix:{run_folder}/admin.sock"

    async def status() -> dict[str, object]:
        """Once the manifests have been read."""
        asked = causeway("status", "--json", "--admin", admin)
        shown = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=False)
        found = json.loads(shown.stdout) if shown.stdout else {}
        return found if found.get("reload") else {}

    found: dict[str, dict[str, object]] = {}
    for name, manifest in (("blue", GOOD), ("red", "routes: [")):
        (run_folder / name).mkdir()
        (run_folder / name / "a.yaml").write_text(manifest)
        argv = causeway("serve", name, "--xds", f"unix:{run_folder}/xds.sock", "--admin", admin)
        serve = Process(name, argv, folder=run_folder)
        serve.start()
        try:
            found[name] = await until(f"{name} read", status, within_s=30) or {}
        finally:
            serve.stop()  # and keeps what it serves
    assert found["blue"]["revision"]
    assert not found["red"]["revision"]
    assert f"it is of {run_folder}/blue, not of {run_folder}/red" in str(found["red"]["state"])
