"""What one edit leaves behind: nothing, once a few have followed. A control plane reads edits for months."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from controlplane.manifests.load import Memory
from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.consistency import check

ROUTES = 200
EDITS = 12


def test_edits_leave_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own: how much is kept before it is sorted out depends on what was built there before."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_reconcile_memory", str(tmp_path)], capture_output=True, check=True, text=True
    )
    grown = {kind: count for kind, count in json.loads(done.stdout).items() if count > ROUTES}
    assert grown == {}


def _grown(folder: Path) -> dict[str, int]:
    """How many more values of each type are alive after many edits than after some."""
    head = "gateway: {listeners: [8080]}\nservices: {a: {endpoints: [127.0.0.1:9]}}\nroutes:\n"
    many = "".join(f"- {{path: /{number}/**, service: a, auth: public}}\n" for number in range(ROUTES))
    memory = Memory()
    alive: list[Counter[type]] = []
    for number in range(2 * EDITS):
        last = f"- {{path: /live, respond: {{body: '{number}'}}, auth: public}}\n"
        (folder / "routes.yaml").write_text(head + many + last)
        built = build(folder, {}, Deployment(), memory)
        assert isinstance(built, Built)
        assert check(built.snapshot) == ()
        gc.collect()
        alive.append(Counter(map(type, gc.get_objects())))
    before, after = (_most(some) for some in (alive[:EDITS], alive[EDITS:]))
    return {kind.__qualname__: count for kind, count in (after - before).items()}


def _most(counted: list[Counter[type]]) -> Counter[type]:
    """How many there were of each when there were most."""
    found: Counter[type] = Counter()
    for one in counted:
        found |= one
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_grown(Path(sys.argv[1]))))
