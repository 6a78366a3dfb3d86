"""The way of a manifest in one function: a folder becomes a snapshot, or every problem of it.

All or nothing: with one problem anywhere there is no snapshot, and whoever serves one goes on serving what it has. An
authentication rule dropped beside a route that is kept would be an open door.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from controlplane.ir.cluster import Endpoint
from controlplane.ir.gateway import Gateway
from controlplane.manifests.load import Memory, Refused, Sources, load
from controlplane.manifests.models.document import Manifest
from controlplane.manifests.problem import Problem, in_order
from controlplane.memo import begin_build
from controlplane.origin import Origin
from controlplane.resolve.findings import Finding
from controlplane.resolve.resolve import Deployment, resolve
from controlplane.resolve.services import is_ip
from controlplane.snapshot.snapshot import Snapshot
from controlplane.translate.translate import translate
from serving.address import Address, UnixAddress

_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A folder without problems and what became of it. `files` are those it reads besides the manifests."""

    manifest: Manifest
    gateway: Gateway
    snapshot: Snapshot
    sources: Sources
    files: tuple[FilePath, ...]


def build(
    folder: FilePath, environ: Mapping[str, str], deployment: Deployment, memory: Memory | None = None
) -> Built | Refused:
    """Reads, resolves and translates the folder. `memory` makes the next call cost what changed.

    A mistake of our own is a problem like others: what is served stays, and a start serves the last known good.
    """
    begin_build()
    files: list[FilePath] = []
    try:
        return _build(folder, environ, deployment, memory, files)
    except Exception as failure:
        nothing = Sources(folder=folder if folder.is_dir() else folder.parent, files={}, entries={})
        return Refused(problems=(_own_mistake(folder, failure),), sources=nothing, files=tuple(dict.fromkeys(files)))


def _build(
    folder: FilePath,
    environ: Mapping[str, str],
    deployment: Deployment,
    memory: Memory | None,
    files: list[FilePath],
) -> Built | Refused:
    loaded = load(folder, environ, memory)
    if isinstance(loaded, Refused):
        return _with_references(loaded, deployment)
    sources = loaded.sources
    files += sources.included
    resolved = resolve(loaded.manifest, deployment, sources.position, _reader(sources.folder, files))
    if resolved.findings:
        problems = in_order(_problem(finding, sources) for finding in resolved.findings)
        return Refused(problems=problems, sources=sources, files=tuple(dict.fromkeys(files)))
    return Built(
        manifest=loaded.manifest,
        gateway=resolved.gateway,
        snapshot=Snapshot.of(translate(resolved.gateway)),
        sources=sources,
        files=tuple(dict.fromkeys(files)),
    )


def _own_mistake(folder: FilePath, failure: Exception) -> Problem:
    """Says where in the program, not what the failure says: that may be a secret."""
    frames = traceback.extract_tb(failure.__traceback__)
    where = next((frame for frame in reversed(frames) if "controlplane" in frame.filename), frames[-1])
    place = f"{FilePath(where.filename).name}:{where.lineno}"
    return Problem(
        origin=Origin(file=folder.name, line=1, column=1),
        message=f"the manifests cannot be read: {type(failure).__name__} at {place}",
        hint="a mistake in Causeway: please report it; an edit that was just made may be what it cannot read",
        code="internal",
    )


def _with_references(refused: Refused, deployment: Deployment) -> Refused:
    """The same problems and those of references, so that one run tells all."""
    if refused.rest is None:
        return refused
    sources = refused.sources
    files: list[FilePath] = list(refused.files)
    found = resolve(refused.rest, deployment, sources.position, _reader(sources.folder, files)).findings
    problems = in_order((*refused.problems, *(_problem(finding, sources) for finding in found)))
    return replace(refused, problems=problems, files=tuple(dict.fromkeys(files)))


def endpoint(address: Address) -> Endpoint:
    """Where one of our own services listens, as an endpoint of its cluster."""
    if isinstance(address, UnixAddress):
        return Endpoint(address=str(address.path), port=None)
    return Endpoint(address=address.host, port=address.port, is_ip=is_ip(address.host))


def _problem(finding: Finding, sources: Sources) -> Problem:
    return sources.problem(finding.path, finding.message, code=finding.code, hint=finding.hint)


def _reader(folder: FilePath, read: list[FilePath]) -> Callable[[str], str]:
    def read_file(name: str) -> str:
        path = folder / name
        read.append(path)
        try:
            with path.open("rb") as stream:
                content = stream.read(_LARGEST_FILE + 1)
        except OSError as problem:
            raise OSError(f'the file "{name}" cannot be read: {problem.strerror}') from None
        if len(content) > _LARGEST_FILE:
            raise OSError(f'the file "{name}" has more than {_LARGEST_FILE} bytes')
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise OSError(f'the file "{name}" is not text') from None

    return read_file
