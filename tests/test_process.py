"""The control plane between the watcher and what is served: what is read again, and what is known already."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from controlplane.manifests.watch import Change
from controlplane.observe.circuits import Circuit, State
from controlplane.observe.observer import Observer
from controlplane.process import Canary, Process
from controlplane.reconcile import Built
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.resource import EXTENSION, ROUTE
from controlplane.xds.controlplane import ControlPlane
from ratelimit.policy import RESOURCE_NAME as RATELIMIT

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


class Raising(Mapping[str, str]):
    """An environment that nobody expects: asked for a variable it fails with one."""

    def __getitem__(self, name: str) -> str:
        raise RuntimeError(f"the secret of {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


async def test_a_mistake_of_our_own_changes_nothing_and_is_told_without_what_it_says(tmp_path: Path) -> None:
    save(tmp_path, "/first")
    process = Process(tmp_path, Deployment(), ControlPlane(), Observer(()), Raising())
    await process.follow(Change(files=()))
    save(tmp_path, "/first", "/${SECOND}")
    await process.follow(Change(files=()))
    (problem,) = process.plane.problems
    assert "the manifests cannot be read: RuntimeError at " in problem
    assert "the secret" not in problem
    assert len(served(process)) == 1
    save(tmp_path, "/first", "/second")
    await process.follow(Change(files=()))
    assert process.plane.problems == ()
    assert len(served(process)) == 2


def early(*, holds: bool) -> Change:
    return Change(files=(), is_settled=False, holds=lambda: _answer(holds))


async def _answer(holds: bool) -> bool:
    return holds


async def test_an_edit_that_the_next_one_began_to_overtake_is_not_served_by_halves(process: Process) -> None:
    save(process.folder, "/half")
    await process.follow(Change(files=(), holds=lambda: _answer(False)))
    assert "/half" not in str(served(process))
    save(process.folder, "/half", "/other-half")
    await process.follow(Change(files=()))
    assert len(served(process)) == 2


class Editing(Mapping[str, str]):
    """An environment by which the folder is another as soon as it is read: the other half of an edit comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> str:
        (self._folder / "more.yaml").write_text("routes: [{path: /other-half, service: a, auth: public}]\n")
        return "half"

    def __iter__(self) -> Iterator[str]:
        return iter(("HALF",))

    def __len__(self) -> int:
        return 1


async def test_what_is_applied_while_it_is_written_is_served_as_a_whole(tmp_path: Path) -> None:
    process = Process(tmp_path, Deployment(), ControlPlane(), Observer(()), Editing(tmp_path))
    save(tmp_path, "/${HALF}")
    assert (await process.read()).outcome == "served"
    assert len(served(process)) == 2


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


async def test_a_deletion_held_while_another_edit_is_on_trial_stays_held_when_that_is_over(process: Process) -> None:
    process = Process(process.folder, Deployment(), ControlPlane(), Observer(()), {}, canary=Canary(size="1"))
    await edit(process, "/1", "/2", "/3", "/4", "/5")
    for is_good in (True, False):
        await edit(process, "/1", "/2", "/3", "/4", "/5", f"/tried-{is_good}")
        await edit(process, "/only")
        assert process.plane.held is not None
        assert process.plane.trial is not None, "it goes on"
        assert (process.rollout.promote() if is_good else process.rollout.abort()) is not None
        assert process.plane.held is not None
        assert process.status()["held"]
        assert process.reload is not None
        assert process.reload.outcome == "held"
    await process.plane.confirm()
    assert await routes(process) == 1
    assert process.status()["held"] is None
    await process.rollout.stop()


async def test_a_held_deletion_is_over_when_the_files_say_something_else(process: Process) -> None:
    many = [f"/{number}" for number in range(9)]
    process = Process(process.folder, Deployment(), ControlPlane(), Observer(()), {}, canary=Canary(size="1"))
    await edit(process, *many)
    await edit(process, *many, "/bad")
    process.rollout.abort()
    for paths, outcome in (([*many, "/bad"], "rolled back"), ([*many, "/more"], "canary"), (many, "unchanged")):
        await edit(process, "/only")
        assert process.plane.held is not None
        await edit(process, *paths)
        assert process.plane.held is None
        assert process.reload is not None
        assert process.reload.outcome == outcome
    await process.rollout.stop()


async def test_a_held_deletion_stays_held_when_limits_are_tightened_and_is_tightened_too(process: Process) -> None:
    limit = "limits: {spare: {rate: 8/hour, by: ip, tighten: {to: 25%, while_unhealthy: [a]}}}\n"
    (process.folder / "limits.yaml").write_text(limit)
    await edit(process, *(f"/{number}" for number in range(9)))
    await edit(process, "/only")
    await in_trouble(process, "a")
    assert tightened(process) == ["a"]
    assert process.plane.held is not None
    assert process.plane.snapshot is not None
    assert process.plane.revision == process.plane.snapshot.version, "clients are waited for anew"
    assert await routes(process) == 9
    await process.plane.confirm()
    assert await routes(process) == 1
    assert tightened(process) == ["a"]
    await in_trouble(process)
    assert tightened(process) == []
    assert await routes(process) == 1, "what was confirmed is what is served"


async def test_a_broken_edit_stays_told_when_the_one_before_it_has_been_tried(process: Process) -> None:
    process = Process(process.folder, Deployment(), ControlPlane(), Observer(()), {}, canary=Canary(size="1"))
    await edit(process, "/first")
    for is_good in (False, True):
        await edit(process, "/first", f"/tried-{is_good}")
        (process.folder / "broken.yaml").write_text("routes: [{path: /x, service: nobody, auth: public}]\n")
        await process.follow(Change(files=()))
        assert (process.rollout.promote() if is_good else process.rollout.abort()) is not None
        assert process.reload is not None
        assert process.reload.outcome == "refused"
        assert any("nobody" in problem for problem in process.plane.problems)
        (process.folder / "broken.yaml").unlink()
    await process.follow(Change(files=()))
    assert process.plane.problems == ()
    await process.rollout.stop()


async def edit(process: Process, *paths: str) -> None:
    save(process.folder, *paths)
    await process.follow(Change(files=()))


async def routes(process: Process) -> int:
    """How many are served, which is as many as the status says."""
    assert process.status()["routes"] == len(served(process))
    return len(served(process))


async def in_trouble(process: Process, *services: str) -> None:
    """What an observer does that sees these circuits open."""
    process.observer.circuits = tuple(
        Circuit(service=name, state=State.OPEN, since_s=0.0, endpoints=()) for name in services
    )
    assert process.observer.on_look is not None
    await process.observer.on_look()


def tightened(process: Process) -> list[str]:
    """For whom limits are tightened, as their service is told."""
    assert process.plane.snapshot is not None
    document = process.plane.snapshot.of_type(EXTENSION)[RATELIMIT]
    return [name for name in ("a",) if f'"troubled":["{name}"]'.encode() in document.body]


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
