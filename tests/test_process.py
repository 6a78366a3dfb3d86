"""The control plane between the watcher and what is served: what is read again, and what is known already."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.manifests.watch import Change
from controlplane.observe.observer import Observer
from controlplane.process import Process
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import ROUTE
from controlplane.xds.controlplane import ControlPlane

HEAD = "gateway: {listeners: [8080]}\nservices: {a: {endpoints: [127.0.0.1:9]}}\n"


@pytest.fixture
async def process(tmp_path: Path) -> Process:
    save(tmp_path, "/first")
    process = Process(tmp_path, Deployment(), ControlPlane(), Observer(()), {})
    await process.follow(Change(files=()))
    return process


def save(folder: Path, *paths: str) -> None:
    routes = "".join(f"- {{path: {path}, service: a, auth: public}}\n" for path in paths)
    (folder / "all.yaml").write_text(f"{HEAD}routes:\n{routes}")


def served(process: Process) -> set[str]:
    assert process.plane.snapshot is not None
    (table,) = process.plane.snapshot.of_type(ROUTE).values()
    return {part.key for part in table.parts}


def early(*, holds: bool) -> Change:
    return Change(files=(), is_settled=False, holds=lambda: holds)


async def test_an_early_edit_is_served_and_not_read_again_when_it_has_settled(process: Process) -> None:
    save(process.folder, "/first", "/second")
    await process.follow(early(holds=True))
    assert len(served(process)) == 2
    save(process.folder, "/unsaid")  # nobody has been told: what is known counts
    await process.follow(Change(files=(), is_told=True))
    assert len(served(process)) == 2
    assert process.reload is not None
    assert process.reload.outcome == "unchanged"


async def test_what_was_known_of_an_earlier_edit_is_not_taken_for_the_next(process: Process) -> None:
    save(process.folder, "/first", "/second")
    await process.follow(early(holds=True))
    save(process.folder, "/first", "/second", "/third")
    await process.follow(early(holds=False))
    await process.follow(Change(files=(), is_told=True))
    assert len(served(process)) == 3


async def test_what_an_early_edit_would_remove_waits_until_it_has_settled(process: Process) -> None:
    save(process.folder, "/other")
    before = served(process)
    await process.follow(early(holds=True))
    assert served(process) == before
    await process.follow(Change(files=(), is_told=True))
    assert served(process) != before


async def test_an_early_edit_that_is_wrong_is_told_when_it_has_settled(process: Process) -> None:
    (process.folder / "all.yaml").write_text(f"{HEAD}routes:\n- {{path: /x, service: nobody, auth: public}}\n")
    before = served(process)
    await process.follow(early(holds=True))
    assert process.reload is not None
    assert not process.reload.problems
    await process.follow(Change(files=(), is_told=True))
    assert process.reload.problems
    assert served(process) == before
