"""A folder of manifests to one `Manifest` with the place of everything in it, or every problem of every file.

All or nothing: one problem anywhere and there is no manifest. Nothing here knows what the manifest means.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml

from controlplane.manifests.file import ManifestFile, Place, Read, key_text, read_file
from controlplane.manifests.interpolation import Environment
from controlplane.manifests.models.document import Manifest, RouteGroup
from controlplane.manifests.models.gateway import Gateway
from controlplane.manifests.models.identity import ApiKey, Identity
from controlplane.manifests.models.limits import Limit
from controlplane.manifests.models.service import Service
from controlplane.manifests.problem import Problem, Steps, in_order
from controlplane.manifests.syntax import length_of
from controlplane.memo import by_identity
from controlplane.origin import Origin

SUFFIXES = (".yaml", ".yml")
MOST_FILES = 2000
LARGEST_FOLDER = 64 * 1024 * 1024
LARGEST_INCLUDED = 1 << 20

# One object each, so that what was made of it can be remembered by its identity.
_NO_GATEWAY, _NO_IDENTITY = Gateway(), Identity()

Environ = Mapping[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where everything was written: the files, and the place of each section's entries."""

    folder: Path
    files: Mapping[str, ManifestFile] = field(default_factory=dict)
    entries: Mapping[Steps, tuple[ManifestFile, Place]] = field(default_factory=dict)

    def position(self, path: Steps) -> Origin:
        """Where `path` of the merged manifest is written: `("routes", 3, "service")`, `("services", "orders")`.

        A path that is not written has the place of the nearest thing above it that is.
        """
        file, node = self._find(path)
        if file is None or node is None:
            return Origin(file=file.name if file is not None else ".", line=1, column=1)
        return file.origin(node)

    def problem(self, path: Steps, message: str, *, code: str, hint: str = "", subject: str = "") -> Problem:
        """A problem at `path` of the merged manifest."""
        file, node = self._find(path)
        return Problem(
            origin=self.position(path),
            message=message,
            code=code,
            hint=hint,
            subject=subject or self._subject(path),
            path=path,
            length=length_of(node) if file is not None and isinstance(node, yaml.ScalarNode) else 1,
        )

    def line(self, origin: Origin) -> str | None:
        """The line at `origin`, secrets covered; None where there is no such file."""
        file = self.files.get(origin.file)
        return file.line(origin.line) if file is not None else None

    @property
    def included(self) -> tuple[Path, ...]:
        """The files that `${file:...}` reads: a change of one of them is a change of the manifest."""
        names = {name.removeprefix("file:").strip() for f in self.files.values() for name in f.used if ":" in name}
        return tuple(self.folder / name for name in sorted(names))

    def _find(self, path: Steps) -> tuple[ManifestFile | None, yaml.Node | None]:
        for length in (2, 1):
            entry = self.entries.get(path[:length])
            if entry is None:
                continue
            file, place = entry
            rest = path[length:]
            if rest:
                below = file.place(place.node, rest)
                if below.node is not place.node:
                    return file, below.marked
            return file, place.marked
        return next(iter(self.files.values()), None), None

    def _subject(self, path: Steps) -> str:
        match path:
            case ("routes", int(), *_):
                file, place = self.entries.get(path[:2], (None, None))
                if file is not None and place is not None:
                    for key in ("name", "path"):
                        found = file.place(place.node, (key,))
                        if isinstance(found.node, yaml.ScalarNode):
                            return f'route "{key_text(found.node, file.expanded)}"'
                return "route"
            case ("services", name, *_):
                return f'service "{name}"'
            case ("limits", name, *_):
                return f'limit "{name}"'
            case ("api_keys", name, *_):
                return f'API key "{name}"'
            case ("gateway" | "identity" as section, *_):
                return section
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A folder without problems, as far as each file goes."""

    manifest: Manifest
    sources: Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Every problem of a folder, in the order of places."""

    problems: tuple[Problem, ...]
    sources: Sources
    files: tuple[Path, ...] = ()
    """What was read besides the manifests: putting one of these right may be what is needed."""
    rest: Manifest | None = None
    """What is left without what was refused, every name known: to find more problems in, never to be served."""


class Memory:
    """What the last load read, so that the next costs only the files that changed. It never changes a result."""

    def __init__(self) -> None:
        self._files: dict[str, ManifestFile] = {}

    def read(self, name: str, content: bytes, environment: Environment) -> ManifestFile:
        """The file, read again only where it or a variable in it changed."""
        known = self._files.get(name)
        if (
            known is not None
            and known.content == content
            and all(environment.get(variable) == value for variable, value in known.used.items())
        ):
            return known
        return read_file(name, content, environment)

    def keep(self, files: Mapping[str, ManifestFile]) -> None:
        """Forgets everything but these."""
        self._files = dict(files)


def load(folder: Path, environ: Environ, memory: Memory | None = None) -> Loaded | Refused:
    """Reads every `.yaml` and `.yml` file below `folder` (or the one file it names); hidden ones are left out."""
    memory = memory or Memory()
    problems: list[Problem] = []
    root = folder if folder.is_dir() else folder.parent
    environment = Environment(variables=environ, read=_reader(root))
    files: dict[str, ManifestFile] = {}
    contents = _contents(folder, problems)
    with _collector_paused():
        for name, content in contents:
            files[name] = memory.read(name, content, environment)
    memory.keep(files)
    is_known = not problems and all(file.is_known for file in files.values())
    for file in files.values():
        problems += file.problems
    manifest, entries = _merge(files.values(), problems)
    sources = Sources(folder=root, files=files, entries=entries)
    if problems:
        rest = manifest if is_known else None
        return Refused(problems=in_order(problems), sources=sources, files=sources.included, rest=rest)
    return Loaded(manifest=manifest, sources=sources)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Reading makes very many values and no cycles: the cyclic collector would take as long as the reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def manifest_files(folder: Path) -> list[Path]:
    """The manifest files of a folder, sorted. Raises OSError where it cannot be read."""
    return manifest_tree(folder)[0]


def manifest_tree(folder: Path) -> tuple[list[Path], list[Path]]:
    """The manifest files of a folder, sorted, and the folders where one may come or go: what is walked, or what holds
    the folder when it is none. Raises OSError where it cannot be read.
    """
    if not folder.is_dir():
        return [folder] if folder.exists() else [], [folder.parent]
    walked = list(_walk(folder))
    files = [Path(here) / name for here, names in walked for name in sorted(names) if is_manifest(name)]
    return files, [Path(here) for here, _ in walked]


def is_manifest(name: str) -> bool:
    """Whether a file of a folder of manifests is one, by its name."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def is_draft(name: str) -> bool:
    """Whether a file may be about to become a manifest, or its backup: editors and rsync add to the manifest's name."""
    return any(suffix in name for suffix in SUFFIXES)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder once, with the names of its files. Symlinks are followed, hidden folders are not looked into."""

    def failed(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, names


def _contents(folder: Path, problems: list[Problem]) -> list[tuple[str, bytes]]:
    """Name and content of every file that can be read."""

    def refuse(name: str, message: str, hint: str, code: str) -> None:
        problems.append(
            Problem(origin=Origin(file=name, line=1, column=1), message=message, hint=hint, code=code),
        )

    try:
        if not folder.exists():
            refuse(str(folder), "there is no such folder", "name the folder that holds the manifests", "folder-missing")
            return []
        paths = manifest_files(folder)
    except OSError as error:
        refuse(str(folder), f"the folder cannot be read: {error.strerror}", "", "unreadable")
        return []
    if not paths:
        refuse(str(folder), "no manifests in this folder", "a manifest ends in .yaml or .yml", "folder-empty")
    if len(paths) > MOST_FILES:
        refuse(str(folder), f"more than {MOST_FILES} files", "name a folder with manifests only", "folder-too-large")
        return []
    contents: list[tuple[str, bytes]] = []
    total = 0
    for path in paths:
        name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                refuse(name, "this is not a file", "a pipe or device cannot be a manifest", "unreadable")
                continue
            with path.open("rb") as stream:
                content = stream.read(LARGEST_FOLDER + 1)
        except OSError as error:
            refuse(name, f"the file cannot be read: {error.strerror}", "", "unreadable")
            continue
        total += len(content)
        if total > LARGEST_FOLDER:
            refuse(name, f"more than {LARGEST_FOLDER >> 20}MiB of manifests", "", "folder-too-large")
            break
        contents.append((name, content))
    return contents


def _reader(root: Path) -> Callable[[str], str]:
    def read(name: str) -> str:
        if not (root / name).is_file():  # a pipe would keep us waiting
            raise FileNotFoundError(name)
        with (root / name).open("rb") as stream:
            content = stream.read(LARGEST_INCLUDED + 1)
        if len(content) > LARGEST_INCLUDED:
            raise ValueError(f"{name} has more than {LARGEST_INCLUDED} bytes")
        return content.decode("utf-8")

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    """The routes of one document, where each is, and the names that some have."""

    group: RouteGroup
    entries: tuple[tuple[ManifestFile, Place], ...]
    names: tuple[tuple[int, str], ...]


@by_identity(4096)
def _routes_of(read: Read, file: ManifestFile) -> _Routes:
    items = file.place(read.root, ("routes",)).node.value
    places = tuple(Place(items[number]) for number in read.routes)
    routes = read.document.routes
    return _Routes(
        group=RouteGroup(routes=routes, origins=tuple(file.origin(place.marked) for place in places)),
        entries=tuple((file, place) for place in places),
        names=tuple((index, route.name) for index, route in enumerate(routes) if route.name is not None),
    )


@dataclass(slots=True)
class _Merge:
    """The sections as they come together."""

    problems: list[Problem]
    entries: dict[Steps, tuple[ManifestFile, Place]] = field(default_factory=dict)
    gateway: Gateway | None = None
    identity: Identity | None = None
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    groups: list[RouteGroup] = field(default_factory=list)
    count: int = 0
    names: dict[str, Steps] = field(default_factory=dict)

    def add(self, file: ManifestFile, read: Read) -> None:
        """One document more."""
        document, root = read.document, read.root
        for section, value in (("gateway", document.gateway), ("identity", document.identity)):
            if value is not None and self._place((section,), file, file.place(root, (section,)), f"`{section}`"):
                if isinstance(value, Gateway):
                    self.gateway = value
                else:
                    self.identity = value
        self._named("api_keys", "API key", document.api_keys, self.api_keys, file, root)
        self._named("limits", "limit", document.limits, self.limits, file, root)
        self._named("services", "service", document.services, self.services, file, root)
        self._routes(read, file)

    def _routes(self, read: Read, file: ManifestFile) -> None:
        if not read.document.routes:
            return
        written = _routes_of(read, file)
        self.groups.append(written.group)
        numbers = range(self.count, self.count + len(written.entries))
        self.count = numbers.stop
        self.entries.update(zip((("routes", number) for number in numbers), written.entries, strict=True))
        for index, name in written.names:
            path: Steps = ("routes", numbers[index])
            first = self.names.setdefault(name, path)
            if first != path:
                where = file.place(written.entries[index][1].node, ("name",)).node
                self._twice(f'a route named "{name}"', file, where, first, ("name",), path)

    def _named(
        self,
        section: str,
        what: str,
        found: Mapping[str, _T],
        merged: dict[str, _T],
        file: ManifestFile,
        root: yaml.Node,
    ) -> None:
        merged.update(
            (name, value)
            for name, value in found.items()
            if self._place((section, name), file, file.place(root, (section, name)), f'{what} "{name}"')
        )

    def _place(self, path: Steps, file: ManifestFile, place: Place, what: str) -> bool:
        """Whether this is the first of its name."""
        if path not in self.entries:
            self.entries[path] = (file, place)
            return True
        self._twice(what, file, place.key or place.node, path, (), path)
        return False

    def _twice(self, what: str, file: ManifestFile, node: yaml.Node, first: Steps, below: Steps, path: Steps) -> None:
        other, place = self.entries[first]
        there = other.place(place.node, below).node if below else (place.key or place.node)
        self.problems.append(
            Problem(
                origin=file.origin(node),
                message=f"{what} is there twice",
                hint=f"the first is at {other.origin(there)}",
                code="duplicate-name",
                path=path,
                length=length_of(node),
            )
        )


def _merge(
    files: Iterable[ManifestFile], problems: list[Problem]
) -> tuple[Manifest, dict[Steps, tuple[ManifestFile, Place]]]:
    merge = _Merge(problems)
    for file in files:
        for read in file.documents:
            merge.add(file, read)
    manifest = Manifest(
        gateway=merge.gateway or _NO_GATEWAY,
        identity=merge.identity or _NO_IDENTITY,
        api_keys=merge.api_keys,
        limits=merge.limits,
        services=merge.services,
        route_groups=tuple(merge.groups),
    )
    return manifest, merge.entries
