"""What one edit leaves behind: nothing, once a few have followed. A control plane reads edits for months."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

from controlplane.manifests.load import Memory
from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.consistency import check

ROUTES = 200


def test_edits_leave_nothing_behind(tmp_path: Path) -> None:
    head = "gateway: {listeners: [8080]}\nservices: {a: {endpoints: [127.0.0.1:9]}}\nroutes:\n"
    many = "".join(f"- {{path: /{number}/**, service: a, auth: public}}\n" for number in range(ROUTES))
    memory, alive = Memory(), []
    for number in range(12):
        last = f"- {{path: /live, respond: {{body: '{number}'}}, auth: public}}\n"
        (tmp_path / "routes.yaml").write_text(head + many + last)
        built = build(tmp_path, {}, Deployment(), memory)
        assert isinstance(built, Built)
        assert check(built.snapshot) == ()
        gc.collect()
        alive.append(Counter(map(type, gc.get_objects())))
    grown = {kind.__qualname__: count for kind, count in (alive[-1] - alive[5]).items() if count > ROUTES}
    assert grown == {}, "objects more than six edits before"
