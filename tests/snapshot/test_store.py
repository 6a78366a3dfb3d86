"""The last known good on disk: what is written comes back, what is torn is refused, a kill leaves one or the other."""

from __future__ import annotations

import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.origin import Origin
from controlplane.snapshot import store
from controlplane.snapshot.resource import Audience, Nested, Part, Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.snapshot.store import Kept, UnreadableStateError

origins = st.builds(Origin, file=st.text(max_size=10), line=st.integers(1, 999), column=st.integers(1, 99))
parts = st.builds(
    Part,
    key=st.text(max_size=5),
    body=st.binary(max_size=9),
    alone=st.binary(max_size=9),
    fallback=st.binary(max_size=9),
    origin=st.none() | origins,
)
nodes = st.recursive(
    st.binary(max_size=9) | parts,
    lambda inner: st.builds(Nested, field=st.integers(1, 20), children=st.lists(inner, max_size=3).map(tuple)),
    max_leaves=8,
)
resources = st.builds(
    Resource,
    type_url=st.sampled_from(["a", "b"]),
    name=st.text(max_size=5),
    tree=st.lists(nodes, max_size=3).map(tuple),
    origins=st.lists(origins, max_size=2).map(tuple),
    audience=st.sampled_from(Audience),
    ttl_s=st.none() | st.floats(0.1, 100),
)
snapshots = st.lists(resources, max_size=5, unique_by=lambda one: (one.type_url, one.name)).map(Snapshot.of)


@given(snapshots, snapshots, st.text(max_size=20))
def test_what_is_written_comes_back(snapshot: Snapshot, variant: Snapshot, revision: str) -> None:
    kept = Kept(snapshot=snapshot, revision=revision, variants={"envoy/1": variant}, notes='["x"]', made_of="/m")
    back = store.decode(store.encode(kept))
    assert list(back.snapshot) == list(snapshot)
    assert list(back.variants["envoy/1"]) == list(variant)
    assert (back.revision, back.notes, back.made_of) == (revision, '["x"]', "/m")
    assert back.snapshot.version == snapshot.version


def test_a_file_of_the_first_format_is_read() -> None:
    """Its parts said everything themselves."""
    row = '["t","n","envoy",null,[],[["key",4,8,["f.yaml",1,2]]]]'
    head = f'{{"revision":"r","labels":{{}},"snapshot":[0],"variants":{{}},"notes":"[]","resources":[{row}]}}'
    body = head.encode() + b"\nbodyfallback"
    kept = store.decode(written(b"causeway-snapshot 1", body))
    assert kept.made_of == ""
    (resource,) = kept.snapshot
    place = Origin(file="f.yaml", line=1, column=2)
    assert resource.tree == (Part(key="key", body=b"body", fallback=b"fallback", origin=place),)


def test_a_file_of_the_second_format_is_read() -> None:
    """Its parts had one fallback."""
    row = '["t","n","envoy",null,[],[["key",4,5,8,["f.yaml",1,2]]]]'
    head = f'{{"revision":"r","labels":{{}},"snapshot":[0],"variants":{{}},"notes":"[]","resources":[{row}]}}'
    body = head.encode() + b"\nbodyalonefallback"
    (resource,) = store.decode(written(b"causeway-snapshot 2", body)).snapshot
    place = Origin(file="f.yaml", line=1, column=2)
    assert resource.tree == (Part(key="key", body=b"body", alone=b"alone", fallback=b"fallback", origin=place),)


def written(form: bytes, body: bytes) -> bytes:
    return form + b" " + blake2b(body, digest_size=16).hexdigest().encode() + b"\n" + body


def some(size: int = 3, fill: bytes = b"x", *, each_bytes: int = 100) -> Kept:
    return Kept(
        snapshot=Snapshot.of(Resource(type_url="t", name=str(n), tree=(fill * each_bytes,)) for n in range(size)),
        revision=fill.decode(),
    )


@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    content = bytearray(store.encode(some()))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnreadableStateError):
        store.decode(bytes(content))


def test_a_first_line_with_any_other_byte_is_noticed() -> None:
    """Also one that makes it another format's, which would be read otherwise."""
    content = store.encode(some())
    for at in range(content.index(b"\n") + 1):
        for other in set(range(256)) - {content[at]}:
            with pytest.raises(UnreadableStateError):
                store.decode(content[:at] + bytes([other]) + content[at + 1 :])


@given(st.integers(0, 300))
def test_any_torn_file_is_refused(length: int) -> None:
    with pytest.raises(UnreadableStateError):
        store.decode(store.encode(some())[:length])


def test_a_file_of_a_later_format_is_refused() -> None:
    content = store.encode(some()).replace(b"causeway-snapshot 3", b"causeway-snapshot 4", 1)
    with pytest.raises(UnreadableStateError, match="format"):
        store.decode(content)


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    store.write(folder, some())
    assert stat.S_IMODE((folder / store.FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nothing_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.read(tmp_path)


def test_a_folder_that_cannot_be_written_keeps_the_old_file(tmp_path: Path) -> None:
    store.write(tmp_path, some(fill=b"a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        store.write(tmp_path / "file", some(fill=b"b"))
    assert store.read(tmp_path).revision == "a"


def test_what_cannot_be_tidied_up_does_not_keep_the_file_from_being_read(tmp_path: Path) -> None:
    """As in a folder that is read-only: root writes there, but does not unlink a folder."""
    store.write(tmp_path, some(fill=b"a"))
    (tmp_path / f".{store.FILE_NAME}.abandoned").mkdir()
    assert store.read(tmp_path).revision == "a"


def _write_for_ever(folder: Path) -> NoReturn:
    for kept in itertools.cycle([some(4, b"a", each_bytes=2 << 20), some(4, b"b", each_bytes=2 << 20)]):
        store.write(folder, kept)
    raise AssertionError("for ever")


def _kill_writers(folder: Path, times: int) -> None:
    """In a process of its own, which forks: a new one for each writer would take a second."""
    chance = random.Random(times)
    for number in range(times):
        writer = os.fork()
        if writer == 0:
            _write_for_ever(folder)
        while not (folder / store.FILE_NAME).exists():
            pass
        if number % 2:
            while not any(folder.glob(".*")):  # it is writing
                pass
        else:
            ends = time.monotonic() + chance.uniform(0, 0.05)
            while time.monotonic() < ends:
                pass
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        left = len(list(folder.iterdir()))
        kept = store.read(folder)
        sys.stdout.write(f"{kept.revision} {len(kept.snapshot)} {left} {len(list(folder.iterdir()))}\n")


def test_kill_9_at_any_moment_leaves_a_readable_state(tmp_path: Path) -> None:
    code = "import sys, pathlib, tests.snapshot.test_store as t; t._kill_writers(pathlib.Path(sys.argv[1]), 40)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 40
    assert {revision for revision, _, _, _ in found} <= {"a", "b"}
    assert {size for _, size, _, _ in found} == {"4"}
    assert any(left == "2" for _, _, left, _ in found), "some were killed while they wrote"
    assert {files for _, _, _, files in found} == {"1"}, "what was abandoned is cleared away"
