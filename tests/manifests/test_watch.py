"""The folder is watched as real folders change: renames, writes in place, swung symlinks, deletions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controlplane.manifests.events import FolderEvents
from controlplane.manifests.load import is_draft, is_manifest
from controlplane.manifests.watch import QUIET_S, Change, at_rest, watch

PATIENCE_S = 10.0
POLL_S = 30.0  # so long that only events can be what woke the watcher


@asynccontextmanager
async def watching(
    folder: Path,
    included: tuple[Path, ...] = (),
    *,
    poll_s: float = POLL_S,
    events: bool = True,
    early: bool = False,
) -> AsyncIterator[Callable[[], asyncio.Future[Change]]]:
    """A function that returns the next change. The first one, which tells what is there, has been taken."""
    changes = watch(folder, lambda: included, poll_s=poll_s, events=events, early=early)
    await asyncio.wait_for(anext(changes), PATIENCE_S)

    def following() -> asyncio.Future[Change]:
        return asyncio.ensure_future(asyncio.wait_for(anext(changes), PATIENCE_S))

    try:
        yield following
    finally:
        await changes.aclose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text("routes: []\n")
    return folder


async def test_the_first_change_names_every_file_at_once(folder: Path) -> None:
    changes = watch(folder, poll_s=POLL_S)
    assert await anext(changes) == Change(files=(str(folder / "a.yaml"),))
    await changes.aclose()


def write_in_place(folder: Path) -> None:
    (folder / "a.yaml").write_text("routes: [] # other\n")


def rename_over(folder: Path) -> None:
    """How editors save."""
    (folder / ".a.yaml.swp").write_text("routes: [] # other\n")
    (folder / ".a.yaml.swp").rename(folder / "a.yaml")


def delete(folder: Path) -> None:
    (folder / "a.yaml").unlink()


def create(folder: Path) -> None:
    (folder / "b.yml").write_text("services: {}\n")


def create_below(folder: Path) -> None:
    (folder / "team").mkdir()
    (folder / "team" / "c.yaml").write_text("services: {}\n")


EDITS = [
    pytest.param(write_in_place, "a.yaml", id="a write in place"),
    pytest.param(rename_over, "a.yaml", id="a rename over the file, as editors save"),
    pytest.param(delete, "a.yaml", id="a deletion"),
    pytest.param(create, "b.yml", id="a new file"),
    pytest.param(create_below, "team/c.yaml", id="a new file in a new folder"),
]


@pytest.mark.parametrize(("edit", "file"), EDITS)
async def test_is_told_by_events(folder: Path, edit: Callable[[Path], None], file: str) -> None:
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        edit(folder)
        assert (await change).files == (str(folder / file),)


@pytest.mark.parametrize(("edit", "file"), EDITS)
async def test_is_told_by_polling_where_events_are_missing(
    folder: Path, edit: Callable[[Path], None], file: str
) -> None:
    async with watching(folder, poll_s=0.05, events=False) as following:
        change = following()
        await asyncio.sleep(0)
        edit(folder)
        assert (await change).files == (str(folder / file),)


async def test_many_writes_are_one_change(folder: Path) -> None:
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        for number in range(20):
            (folder / f"{number:02}.yaml").write_text("services: {}\n")
        assert len((await change).files) == 20


async def test_the_same_content_again_is_no_change(folder: Path) -> None:
    async with watching(folder, poll_s=0.05) as following:
        change = following()
        await asyncio.sleep(0)
        (folder / "a.yaml").write_text("routes: []\n")
        (folder / ".hidden.yaml").write_text("x: 1\n")
        (folder / "notes.txt").write_text("x\n")
        done, _ = await asyncio.wait([change], timeout=0.5)
        assert not done
        write_in_place(folder)
        assert (await change).files == (str(folder / "a.yaml"),)


async def test_what_changes_while_the_caller_is_busy_is_told_next(folder: Path) -> None:
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        await change
        create(folder)
        assert (await following()).files == (str(folder / "b.yml"),)


def beside(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "jwt"


def up_from_a_symlink(tmp_path: Path) -> Path:
    """The folder above is that of the place where the symlink leads."""
    (tmp_path / "deep").mkdir(exist_ok=True)
    if not (tmp_path / "deep" / "link").exists():
        (tmp_path / "deep" / "link").symlink_to(tmp_path / "manifests")
    return tmp_path / "deep" / "link" / ".." / "secrets" / "jwt"


@pytest.mark.parametrize("way", [beside, up_from_a_symlink])
async def test_an_included_file_elsewhere_counts(folder: Path, tmp_path: Path, way: Callable[[Path], Path]) -> None:
    secret = tmp_path / "secrets" / "jwt"
    secret.parent.mkdir()
    secret.write_text("one")
    async with watching(folder, (way(tmp_path),)) as following:
        change = following()
        await asyncio.sleep(0)
        secret.write_text("two")
        assert (await change).files == (str(way(tmp_path)),)


def take_away(folder: Path) -> None:
    folder.rename(folder.parent / "old")


def bring_back(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.yaml").write_text("routes: [] # new\n")


@pytest.mark.parametrize("events", [True, False], ids=["with events", "by polling"])
async def test_a_folder_that_is_replaced_as_a_whole_is_followed(folder: Path, events: bool) -> None:
    async with watching(folder, poll_s=0.1, events=events) as following:
        change = following()
        await asyncio.sleep(0)
        take_away(folder)
        assert (await change).files == (str(folder / "a.yaml"),)
        change = following()
        bring_back(folder)
        assert (await change).files == (str(folder / "a.yaml"),)
        change = following()
        write_in_place(folder)
        assert (await change).files == (str(folder / "a.yaml"),)


def releases(tmp_path: Path) -> Path:
    """A folder of manifests in each of two releases, and the symlink to one of them, as deployments swing it."""
    for release in ("1", "2"):
        (tmp_path / "releases" / release / "manifests").mkdir(parents=True)
        (tmp_path / "releases" / release / "manifests" / "a.yaml").write_text(f"routes: [] # {release}\n")
    (tmp_path / "current").symlink_to("releases/1")
    return tmp_path / "current" / "manifests"


def swing_release(tmp_path: Path) -> None:
    (tmp_path / "next").symlink_to("releases/2")
    (tmp_path / "next").replace(tmp_path / "current")


def rename_releases(tmp_path: Path) -> None:
    (tmp_path / "releases").rename(tmp_path / "old")
    (tmp_path / "old" / "1").rename(tmp_path / "old" / "0")
    (tmp_path / "old" / "2").rename(tmp_path / "old" / "1")
    (tmp_path / "old").rename(tmp_path / "releases")


@pytest.mark.parametrize("replace", [swing_release, rename_releases])
async def test_a_folder_above_the_manifests_that_is_replaced_is_told_by_events_and_overtakes(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    folder = releases(tmp_path)
    async with watching(folder) as following:
        told = following()
        await asyncio.sleep(0)
        create(folder)
        change = await told
        replace(tmp_path)
        assert not await change.holds()
        again = await following()
        assert again.files == (str(folder / "a.yaml"), str(folder / "b.yml"))
        assert await again.holds()


async def test_a_symlink_swung_away_and_back_while_the_files_were_read_overtakes_them(tmp_path: Path) -> None:
    changes = watch(releases(tmp_path), poll_s=POLL_S)
    first = await anext(changes)
    swing_release(tmp_path)
    (tmp_path / "next").symlink_to("releases/1")
    (tmp_path / "next").replace(tmp_path / "current")
    assert not await first.holds()
    await changes.aclose()


async def test_who_reads_without_having_been_told_reads_what_stays(folder: Path) -> None:
    reads = iter([write_in_place, create, lambda _: None])
    read: list[set[str]] = []

    async def reading() -> int:
        read.append(set(await asyncio.to_thread(os.listdir, folder)))
        next(reads)(folder)
        return len(read)

    assert await at_rest(folder, tuple, reading) == 3
    assert read[-1] == {"a.yaml", "b.yml"}


async def test_who_reads_what_never_rests_reads_it_in_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.manifests.watch.INSISTS_S", 0.1)
    number = 0

    async def reading() -> int:
        nonlocal number
        number += 1
        (folder / "a.yaml").write_text(f"routes: [] # {number}\n")
        return number

    assert await at_rest(folder, tuple, reading) == number


async def test_the_folder_that_the_process_was_started_in_may_be_gone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        assert (await change).files == (str(folder / "a.yaml"),)
    monkeypatch.chdir(tmp_path)


async def test_a_folder_may_be_named_from_the_one_that_the_process_was_started_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    async with watching(Path(folder.name)) as following:
        change = following()
        await asyncio.sleep(0)
        rename_over(folder)
        assert (await change).files == (f"{folder.name}/a.yaml",)


async def test_a_single_file_can_be_watched(folder: Path) -> None:
    async with watching(folder / "a.yaml") as following:
        change = following()
        await asyncio.sleep(0)
        rename_over(folder)
        assert (await change).files == (str(folder / "a.yaml"),)


async def test_who_wants_to_be_early_is_told_at_once_of_files_put_in_place_whole_and_again_when_all_is_quiet(
    folder: Path,
) -> None:
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        rename_over(folder)
        seen = [await told, await following()]
    assert [(change.files, change.is_settled) for change in seen] == [
        ((str(folder / "a.yaml"),), False),
        ((str(folder / "a.yaml"),), True),
    ]


async def test_a_file_written_in_place_is_early_once_its_writer_has_closed_it(folder: Path) -> None:
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        with (folder / "a.yaml").open("w") as half:
            half.write("routes: [] # half")
            half.flush()
            done, _ = await asyncio.wait([told], timeout=QUIET_S / 2)
            assert not done, "half a file is not believed"
            half.write(" and half\n")
        assert not (await told).is_settled
        assert (await following()).is_settled


async def test_a_file_that_is_emptied_before_its_new_content_is_there_is_told_when_its_writer_has_closed_it(
    folder: Path,
) -> None:
    """As a shell does with `generate > a.yaml`."""
    async with watching(folder) as following:
        told = following()
        await asyncio.sleep(0)
        with (folder / "a.yaml").open("w") as generated:
            create(folder)
            done, _ = await asyncio.wait([told], timeout=5 * QUIET_S)
            assert not done, "nothing of a file is not believed"
            generated.write("routes: [] # other\n")
        change = await told
        assert change.files == (str(folder / "a.yaml"), str(folder / "b.yml"))
        assert await change.holds()


async def test_a_file_that_is_never_closed_is_told_in_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.manifests.watch.INSISTS_S", 0.1)
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        with (folder / "a.yaml").open("w") as never_closed:
            never_closed.write("routes: [] # other\n")
            never_closed.flush()
            assert (await told).is_settled


def write_anew(folder: Path) -> None:
    (folder / "new.yaml").write_text("services: {}\n")


def rename_anew(folder: Path) -> None:
    (folder / ".draft").write_text("services: {}\n")
    (folder / ".draft").replace(folder / "new.yaml")


@pytest.mark.parametrize("create", [write_anew, rename_anew])
async def test_a_new_file_is_early_however_it_came(folder: Path, create: Callable[[Path], None]) -> None:
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        create(folder)
        seen = [await told, await following()]
    assert [(change.files, change.is_settled) for change in seen] == [
        ((str(folder / "new.yaml"),), False),
        ((str(folder / "new.yaml"),), True),
    ]


async def test_what_has_settled_says_whether_it_was_told_before(folder: Path) -> None:
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        seen = [await told, await following()]
        told = following()
        await asyncio.sleep(0)
        (folder / "a.yaml").write_text("routes: [] # a third\n")
        seen.append(await told)
        with (folder / "a.yaml").open("w") as open_still:
            open_still.write("routes: [] # a fourth\n")
            open_still.flush()
            seen.append(await following())
    told_how = [(change.is_settled, change.is_told) for change in seen]
    assert told_how == [(False, False), (True, True), (False, False), (True, False)]


async def test_an_edit_taken_back_before_it_has_settled_is_told(folder: Path) -> None:
    """The files are as they were before it, but who was told early has served something else since."""
    before = (folder / "a.yaml").read_text()
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        assert not (await told).is_settled
        (folder / "a.yaml").write_text(before)
        seen = [await following(), await following()]
    assert [(change.files, change.is_settled) for change in seen] == [
        ((str(folder / "a.yaml"),), False),
        ((str(folder / "a.yaml"),), True),
    ]


async def test_what_moves_after_it_was_told_early_does_not_hold(folder: Path) -> None:
    """Who has read the folder meanwhile may have read another half."""
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        change = await told
        assert await change.holds()
        with (folder / "a.yaml").open("w"):
            assert not await change.holds()


@pytest.mark.parametrize("events", [True, False], ids=["with events", "by polling"])
async def test_an_edit_overtaken_while_it_was_read_is_told_again_even_if_the_other_is_taken_back(
    folder: Path, events: bool
) -> None:
    before = (folder / "a.yaml").read_text()
    async with watching(folder, poll_s=POLL_S if events else 0.05, events=events) as following:
        told = following()
        await asyncio.sleep(0)
        (folder / "b.yaml").write_text("services: {}\n")
        change = await told
        assert await change.holds()
        write_in_place(folder)
        assert not await change.holds()
        (folder / "a.yaml").write_text(before)
        again = await following()
        assert again.files == change.files
        assert await again.holds()


@pytest.mark.parametrize("events", [True, False], ids=["with events", "by polling"])
async def test_a_file_that_was_another_while_it_was_read_is_told_again_though_it_is_the_same_now(
    folder: Path, events: bool
) -> None:
    """What was read is neither what was told nor what is there: nobody would ever read it again."""
    async with watching(folder, poll_s=POLL_S if events else 0.05, events=events) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        change = await told
        text = (folder / "a.yaml").read_text()
        (folder / "a.yaml").write_text("routes: [] # for a moment\n")
        (folder / "a.yaml").write_text(text)
        assert not await change.holds()
        again = await following()
        assert again.files == change.files
        assert await again.holds()


async def test_a_file_that_came_and_went_while_the_others_were_read_overtakes_them(folder: Path) -> None:
    async with watching(folder) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        change = await told
        create(folder)
        (folder / "b.yml").unlink()
        assert not await change.holds()
        assert await (await following()).holds()


async def test_what_no_event_tells_of_overtakes_too(folder: Path, tmp_path: Path) -> None:
    """As on a network file system, where somebody else writes: here by another name of the file."""
    (tmp_path / "elsewhere").hardlink_to(folder / "a.yaml")
    async with watching(folder) as following:
        told = following()
        await asyncio.sleep(0)
        create(folder)
        change = await told
        assert await change.holds()
        (tmp_path / "elsewhere").write_text("routes: [] # other\n")
        assert not await change.holds()


async def test_what_moves_beside_the_manifests_overtakes_nothing(folder: Path) -> None:
    async with watching(folder) as following:
        told = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        change = await told
        (folder / "notes.txt").write_text("seen\n")
        (folder / ".b.yaml.draft").write_text("routes: []\n")
        assert await change.holds()


async def test_an_empty_folder_that_fills_while_it_is_read_first_is_told_again(tmp_path: Path) -> None:
    changes = watch(tmp_path, poll_s=POLL_S)
    first = await anext(changes)
    (tmp_path / "a.yaml").write_text("routes: []\n")
    assert not await first.holds()
    (tmp_path / "a.yaml").unlink()
    again = await asyncio.wait_for(anext(changes), PATIENCE_S)
    assert again.files == ()
    assert await again.holds()
    await changes.aclose()


async def test_where_every_reading_is_overtaken_one_counts_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.manifests.watch.INSISTS_S", 0.3)
    async with watching(folder) as following:
        for number in range(100):
            told = following()
            await asyncio.sleep(0)
            (folder / "b.yaml").write_text(f"services: {{}} # {number}\n")
            change = await told
            (folder / "b.yaml").write_text(f"services: {{}} # {number}, and on\n")
            if await change.holds():
                break
        assert 0 < number < 99
        (folder / "b.yaml").write_text(f"services: {{}} # {number}\n")
        again = await following()
        assert again.files == change.files, "what counted is not what had been told, and is again"
        assert await again.holds()


async def test_a_file_unlinked_and_written_anew_is_not_believed_before_it_is_closed(folder: Path) -> None:
    """How some editors save: the file has another identity at once, and its content only later."""
    async with watching(folder, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        (folder / "a.yaml").rename(folder / "a.yaml~")
        with (folder / "a.yaml").open("w") as anew:
            anew.write("routes: [] # half\n")
            anew.flush()
            assert (await told).is_settled


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume as Kubernetes makes it of a ConfigMap: files are symlinks through a symlink."""
    volume = tmp_path / "volume"
    for version in ("..v1", "..v2"):
        (volume / version).mkdir(parents=True)
        (volume / version / "a.yaml").write_text(f"routes: [] # {version}\n")
    (volume / "..data").symlink_to("..v1")
    (volume / "a.yaml").symlink_to("..data/a.yaml")
    return volume


def swing(volume: Path) -> None:
    (volume / "..data_tmp").symlink_to("..v2")
    os.replace(volume / "..data_tmp", volume / "..data")


@pytest.mark.parametrize("events", [True, False], ids=["with events", "by polling"])
async def test_a_swung_symlink_is_told_as_kubernetes_swings_it(volume: Path, events: bool) -> None:
    async with watching(volume, poll_s=POLL_S if events else 0.05, events=events) as following:
        change = following()
        await asyncio.sleep(0)
        swing(volume)
        assert (await change).files == (str(volume / "a.yaml"),)


async def test_a_swung_symlink_is_early(volume: Path) -> None:
    async with watching(volume, early=True) as following:
        told = following()
        await asyncio.sleep(0)
        swing(volume)
        assert not (await told).is_settled


async def test_a_file_behind_a_symlink_is_followed_where_it_lives(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.yaml").write_text("services: {}\n")
    (folder / "linked.yaml").symlink_to(elsewhere / "real.yaml")
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        (elsewhere / "real.yaml").write_text("services: {} # other\n")
        assert (await change).files == (str(folder / "linked.yaml"),)


async def test_a_folder_that_never_gets_quiet_is_told_all_the_same(folder: Path) -> None:
    async with watching(folder) as following:
        change = following()
        await asyncio.sleep(0)
        write_in_place(folder)
        while not change.done():
            (folder / ".b.yaml.new").touch()
            (folder / ".b.yaml.new").unlink()
            await asyncio.sleep(QUIET_S / 5)
        assert (await change).files == (str(folder / "a.yaml"),)


def log(folder: Path) -> None:
    (folder / "access.log").write_text("GET /\n")


def lock(folder: Path) -> None:
    (folder / "lock").touch()
    (folder / "lock").unlink()


def draft(folder: Path) -> None:
    """As rsync does, which renames it when it is complete."""
    (folder / ".b.yaml.x2Hf").write_text("services: {}\n")


def link_folder(folder: Path) -> None:
    (folder / "team").symlink_to(folder.parent)


@pytest.mark.parametrize(
    ("happens", "moves"), [(log, False), (lock, False), (draft, True), (link_folder, True), (write_in_place, True)]
)
async def test_what_becomes_of_files_that_are_no_manifests_is_no_move(
    folder: Path, happens: Callable[[Path], None], moves: bool
) -> None:
    events = FolderEvents(is_manifest, is_draft)
    events.open()
    events.listen([str(folder)], [])
    assert await events.moved(within_s=PATIENCE_S), "what is new counts"
    happens(folder)
    assert await events.moved(within_s=QUIET_S) == moves
    events.close()
