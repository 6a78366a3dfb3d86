"""What the manifests and included files are at one moment: which there are, what they hold, and where they lie.

What counts for an edit is content, and digests tell it. Whether files stayed as they were while somebody read them is
another question: a file may have been another in between and be the same again. Marks tell that: they are other ones
when a file was written or replaced, or when a symlink on the way to it was. It must not wait, and knows no events.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from controlplane.manifests.load import LARGEST_FOLDER, manifest_tree

YOUNG_S = 2.0  # a file changed so recently may change again within its time stamp's resolution

_MISSING = b"missing"
_MOST_LINKS = 40  # as Linux: path_resolution(7)

Marks = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there was. `digests` by the path that a file is asked for by; `marks` by that, and by the entries of
    folders on the way to it.
    """

    digests: Mapping[str, bytes]
    marks: Marks
    folders: frozenset[str]
    """Where a manifest may come or go, or a file that is read lies: real paths."""
    ways: frozenset[str]
    """The entries of folders that lead there: the folder's real path and the entry's name, symlinks included."""
    real: Mapping[str, str]
    """Where each file lies."""


class Look:
    """Looks at files; reads again only those whose status is another."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def at(self, folder: Path, included: Iterable[Path]) -> Seen:
        """What there is now."""
        survey = _survey(folder, included)
        digests = {path: self._digest(path, status) for path, status in survey.statuses.items()}
        self._known = {path: known for path, known in self._known.items() if path in digests}
        return Seen(
            digests=digests,
            marks=survey.marks,
            folders=frozenset(survey.folders),
            ways=frozenset(survey.links),
            real=survey.real,
        )

    def _digest(self, path: str, status: os.stat_result | None) -> bytes:
        if status is None or not stat.S_ISREG(status.st_mode):
            return _MISSING
        mark, known = _mark(status), self._known.get(path)
        if known is not None and known[0] == mark and time.time() - max(status.st_mtime, status.st_ctime) > YOUNG_S:
            return known[1]
        try:
            with open(path, "rb") as stream:
                digest = blake2b(stream.read(LARGEST_FOLDER), digest_size=16).digest()
        except OSError:
            return _MISSING
        self._known[path] = (mark, digest)
        return digest


def marks(folder: Path, included: Iterable[Path]) -> Marks:
    """As `Look.at` says them, without reading any file."""
    return _survey(folder, included).marks


@dataclass(slots=True)
class _Survey:
    """What there is, without the content of anything."""

    statuses: dict[str, os.stat_result | None] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """What was found on the way: its mark, and where it points if it is a symlink."""

    @property
    def marks(self) -> Marks:
        files = {path: _mark(status) if status is not None else () for path, status in self.statuses.items()}
        return {**{f"{way}/": mark for way, (mark, _) in self.links.items()}, **files}

    def follow(self, path: str) -> str:
        """The real path, as `os.path.realpath` finds it; what it depends on is kept."""
        here, rest, followed = "/", path.split("/")[::-1], 0
        while rest:
            name = rest.pop()
            if name == "..":
                here = os.path.dirname(here)
            elif name not in ("", "."):
                way = os.path.join(here, name)
                _, target = self.links.get(way) or self.links.setdefault(way, _link(way))
                followed += bool(target)
                if not target or followed > _MOST_LINKS:
                    here = way
                else:
                    here = "/" if target.startswith("/") else here
                    rest += target.split("/")[::-1]
        return here


def _survey(folder: Path, included: Iterable[Path]) -> _Survey:
    survey = _Survey()
    try:
        files, folders = manifest_tree(folder)
    except OSError:
        files, folders = [], [folder]
    here = "" if folder.is_absolute() else os.getcwd()  # which may be gone
    survey.follow(os.path.join(here, folder))
    parents: dict[str, str] = {}
    own = len(files)
    for number, path in enumerate(map(str, (*files, *included))):
        if path in survey.statuses:
            continue
        parent, name = os.path.split(os.path.join(here, path))
        within = parents.get(parent) or parents.setdefault(parent, survey.follow(parent))
        status, is_link = _status(path)
        if is_link or number >= own:
            survey.real[path] = real = survey.follow(os.path.join(parent, name))
            survey.folders.add(os.path.dirname(real))
        else:
            survey.real[path] = os.path.join(within, name)
        survey.statuses[path] = status
    survey.folders |= {survey.follow(os.path.join(here, one)) for one in folders}
    return survey


def _status(path: str) -> tuple[os.stat_result | None, bool]:
    """The file's, and whether it is reached by a symlink in its place."""
    try:
        status = os.lstat(path)
        is_link = stat.S_ISLNK(status.st_mode)
        return (os.stat(path) if is_link else status), is_link
    except OSError:
        return None, os.path.islink(path)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _link(path: str) -> tuple[tuple[int, ...], str]:
    """Of a folder only which one it is: files that come and go in it change nothing of it."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return _mark(status), os.readlink(path)
    except OSError:
        return (), ""
    return (status.st_dev, status.st_ino), ""
