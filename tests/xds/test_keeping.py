"""What must survive a restart is kept on disk and brought back at the start; damage is told, not fatal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from controlplane.origin import Origin
from controlplane.snapshot import store
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.keeping import Keeper, read_notes, write_notes
from controlplane.xds.policy import Outcome
from controlplane.xds.quarantine import Held
from tests.support.waiting import until
from tests.xds.playbook import state
from tests.xds.rows import TYPES, Variant
from tests.xds.served import serving
from tests.xds.wire_client import connected, names

HELD = Held(
    kind="envoy/1.40.0",
    type_url=TYPES["CDS"],
    name="A",
    part=None,
    digest="d",
    replacement=b"\x00\xff",
    text="no",
    origins=(Origin(file="a.yaml", line=1, column=2),),
    since=1.0,
    client="e",
)


def unkept() -> float | None:
    return REGISTRY.get_sample_value("causeway_xds_unkept")


def kept_revision(folder: Path) -> str:
    file = folder / store.FILE_NAME
    return store.decode(file.read_bytes()).revision if file.exists() else ""


async def test_each_change_is_kept(tmp_path: Path) -> None:
    plane = ControlPlane()
    keeper = Keeper(plane, tmp_path)
    running = asyncio.create_task(keeper.run())
    for number in (1, 2):
        await plane.set_snapshot(state(CDS={"A": number}), revision=str(number))
        await until("kept", lambda: kept_revision(tmp_path) == plane.revision)
    running.cancel()
    again = ControlPlane()
    reader = Keeper(again, tmp_path)
    assert reader.restore()
    assert await reader.kept() is None
    assert reader.written == 0, "what is there is not written again: perhaps it cannot be"
    assert again.revision == "2"
    assert again.status().source == "last known good"
    assert await again.set_snapshot(state(CDS={"A": 2}), revision="2") is Outcome.UNCHANGED
    assert again.status().source == "manifests"


async def test_what_is_said_to_be_kept_is_on_disk(tmp_path: Path) -> None:
    """`causeway apply --wait` says it: a restart after that serves the change, whatever becomes of the files."""
    plane = ControlPlane()
    keeper = Keeper(plane, tmp_path)
    running = asyncio.create_task(keeper.run())
    for number in range(1, 4):
        await plane.set_snapshot(state(CDS={"A": number}), revision=str(number))
        await asyncio.sleep(0)
        assert await keeper.kept() is None
        assert kept_revision(tmp_path) == str(number)
    written = keeper.written
    assert await keeper.kept() is None
    assert keeper.written == written, "what is there is not written again"
    running.cancel()


async def test_what_cannot_be_kept_is_said_and_tried_again(tmp_path: Path) -> None:
    plane, folder = ControlPlane(), tmp_path / "state"
    folder.write_text("")
    keeper = Keeper(plane, folder)
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    assert "exists" in (await keeper.kept() or "")
    folder.unlink()
    assert await keeper.kept() is None
    assert kept_revision(folder) == "1"


async def test_what_cannot_be_kept_is_kept_as_soon_as_it_can_be(tmp_path: Path) -> None:
    """A disk that was full has room again, and nobody edits anything."""
    plane, folder = ControlPlane(), tmp_path / "state"
    (folder / store.FILE_NAME).mkdir(parents=True)
    keeper = Keeper(plane, folder, retry_s=0.01)
    running = asyncio.create_task(keeper.run())
    await plane.set_snapshot(state(CDS={"A": 1}), revision="1")
    await until("it is told", lambda: keeper.problem)
    assert "directory" in str(keeper.as_json()["problem"])
    assert unkept() == 1
    (folder / store.FILE_NAME).rmdir()
    await until("kept", lambda: kept_revision(folder) == "1")
    await until("it is told", lambda: keeper.problem is None)
    assert unkept() == 0
    running.cancel()


async def test_what_a_client_refused_is_remembered(tmp_path: Path) -> None:
    plane = ControlPlane()
    keeper = Keeper(plane, tmp_path)
    await plane.set_snapshot(state(CDS={"A": 1, "B": 1}))
    async with serving(plane) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A", "B")
        await client.hear()
        await plane.set_snapshot(state(CDS={"A": 2, "B": 1}))
        await client.answer(await client.hear(ack=False), "bad A")
        await until("a verdict", lambda: plane.status().kept_back)
    await keeper.keep()
    again = ControlPlane()
    assert Keeper(again, tmp_path).restore()
    assert [one.text for one in again.status().kept_back] == ["bad A"]
    async with serving(again) as port, connected(port, Variant.DELTA_EACH) as client:
        await client.ask("CDS", "A", "B")
        response = await client.hear()
        bodies = {one.name: one.resource.value for one in response.resources}
        assert bodies["A"] == state(CDS={"A": 1}).of_type(TYPES["CDS"])["A"].body, "its last accepted form"


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plane = ControlPlane()
    keeper = Keeper(plane, tmp_path / "file")
    await plane.set_snapshot(state(CDS={"A": 1}))
    await keeper.keep()
    assert keeper.problem is not None
    assert plane.snapshot is not None


@pytest.mark.parametrize("content", [b"", b"junk", b"causeway-snapshot 1 0\n{}\n"])
async def test_a_damaged_file_is_ignored_and_told_until_there_is_another(tmp_path: Path, content: bytes) -> None:
    (tmp_path / store.FILE_NAME).write_bytes(content)
    plane = ControlPlane()
    keeper = Keeper(plane, tmp_path)
    assert not keeper.restore()
    assert plane.snapshot is None
    await keeper.keep()
    assert "cannot be used" in (keeper.problem or "")
    await plane.set_snapshot(state(CDS={"A": 1}))
    await keeper.keep()
    assert keeper.problem is None


async def test_what_was_kept_of_another_folder_is_not_served_and_that_is_told(tmp_path: Path) -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    await Keeper(plane, tmp_path, made_of="/blue").keep()
    again = ControlPlane()
    red = Keeper(again, tmp_path, made_of="/red")
    assert not red.restore()
    assert again.snapshot is None
    assert "it is of /blue, not of /red" in (red.problem or "")
    assert Keeper(again, tmp_path, made_of="/blue").restore()


async def test_what_was_kept_before_it_was_noted_of_which_folder_is_served(tmp_path: Path) -> None:
    plane = ControlPlane()
    await plane.set_snapshot(state(CDS={"A": 1}))
    await Keeper(plane, tmp_path).keep()
    assert Keeper(ControlPlane(), tmp_path, made_of="/red").restore()


def test_nothing_kept_is_nothing_restored(tmp_path: Path) -> None:
    assert not Keeper(ControlPlane(), tmp_path).restore()


def test_verdicts_come_back_as_they_were() -> None:
    assert read_notes(write_notes([HELD])) == [HELD]


@pytest.mark.parametrize("text", ["{", "{}x", '[{"kind": 1}]', "[1]"])
def test_other_notes_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_notes(text)


async def test_names_are_heard_in_order() -> None:
    """A restored snapshot is a snapshot as any other."""
    plane = ControlPlane()
    plane.restore(state(CDS={"A": 1}), "r", [], {})
    async with serving(plane) as port, connected(port, Variant.SOTW_EACH) as client:
        await client.ask("CDS", "A")
        assert names(await client.hear()) == ["A"]
