"""The control plane between the watcher and what is served: what is read again, and what is known already."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from controlplane.manifests.watch import Change
from controlplane.observe.observer import Observer
from controlplane.process import Process
from controlplane.reconcile import Built
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


async def test_edits_that_were_held_and_never_confirmed_are_forgotten(process: Process) -> None:
    save(process.folder, *(f"/{number}" for number in range(20)))
    await process.follow(Change(files=()))
    for number in range(10):
        save(process.folder, f"/only-{number}")
        await process.follow(Change(files=()))
        assert process.plane.held is not None
    assert sum(isinstance(one, Built) for one in gc.get_objects()) <= 3
    await process.plane.confirm()
    (route,) = served(process)
    assert "/only-9" in route


BASE = {
    "gateway": "gateway: {listeners: [8080], defaults: {auth: public}}\n",
    "services": "services: {a: {endpoints: [127.0.0.1:9]}}\n",
    "identity": "identity: {issuers: {i: {issuer: x, audiences: [y], secret: 01234567890123456789012345678901}}}\n",
    "routes": "routes:\n- {path: /one, service: a}\n- {path: /two, service: a}\n- {path: /three, service: a}\n",
}


@pytest.mark.parametrize(
    ("edited", "to", "is_early"),
    [
        pytest.param("routes", BASE["routes"] + "- {path: /four, service: a}\n", True, id="a new route"),
        pytest.param(
            "routes",
            BASE["routes"] + "".join(f"- {{path: /{n}, service: a, auth: required, timeout: 1s}}\n" for n in range(9)),
            True,
            id="new routes, so many that others stand on their host now",
        ),
        pytest.param(
            "services",
            "services: {a: {endpoints: [127.0.0.1:9]}, b: {endpoints: [127.0.0.1:8]}}\n",
            True,
            id="a new service",
        ),
        pytest.param("services", "services: {a: {endpoints: [127.0.0.1:7]}}\n", True, id="other endpoints"),
        pytest.param("routes", BASE["routes"].replace("- {path: /two, service: a}\n", ""), False, id="a route less"),
        pytest.param(
            "routes",
            BASE["routes"].replace("/two, service: a", "/two, service: a, auth: required"),
            False,
            id="another policy on a route",
        ),
        pytest.param(
            "gateway", BASE["gateway"].replace("auth: public", "auth: required"), False, id="another default policy"
        ),
        pytest.param("gateway", BASE["gateway"].replace("8080", "8081"), False, id="another port"),
        pytest.param(
            "services", "services: {a: {endpoints: [127.0.0.1:9], timeout: 3s}}\n", False, id="another time-out"
        ),
        pytest.param(
            "services",
            "services: {a: {endpoints: [127.0.0.1:9], connect_timeout: 3s}}\n",
            False,
            id="other settings of a service",
        ),
        pytest.param("identity", BASE["identity"].replace("issuer: x", "issuer: z"), False, id="another issuer"),
        pytest.param("identity", BASE["identity"] + "limits: {l: {rate: 1/s, by: ip}}\n", False, id="another limit"),
    ],
)
async def test_before_an_edit_is_complete_only_what_it_adds_is_served(
    tmp_path: Path, edited: str, to: str, is_early: bool
) -> None:
    """Another file of the same edit may make strict what this one loosens."""
    for name, text in BASE.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    process = Process(tmp_path, Deployment(), ControlPlane(), Observer(()), {})
    await process.follow(Change(files=()))
    before = process.plane.snapshot
    assert before is not None
    (tmp_path / f"{edited}.yaml").write_text(to)
    await process.follow(early(holds=True))
    assert (process.plane.snapshot is not before) == is_early
    await process.follow(Change(files=(), is_told=True))
    assert process.plane.snapshot is not None
    assert process.plane.snapshot.version != before.version
    assert process.reload is not None
    assert not process.reload.problems


async def test_an_early_edit_that_is_wrong_is_told_when_it_has_settled(process: Process) -> None:
    (process.folder / "all.yaml").write_text(f"{HEAD}routes:\n- {{path: /x, service: nobody, auth: public}}\n")
    before = served(process)
    await process.follow(early(holds=True))
    assert process.reload is not None
    assert not process.reload.problems
    await process.follow(Change(files=(), is_told=True))
    assert process.reload.problems
    assert served(process) == before
