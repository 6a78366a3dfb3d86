"""The last known good on disk: what was served, so that a restart without usable manifests serves it again.

One file: a line with the format's name, its version and a checksum; a line of JSON that says what follows; the bytes.
It is replaced as a whole (temporary file, fsync, rename, fsync of the folder): whoever dies at any moment leaves
the old or the new one. It holds secrets: mode 0600 in a folder of mode 0700. A torn, edited or foreign file is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from controlplane.origin import Origin
from controlplane.snapshot.resource import Audience, Nested, Node, Part, Resource
from controlplane.snapshot.snapshot import Snapshot

_FORMAT = b"causeway-snapshot 3"
_EARLIER = (b"causeway-snapshot 2", b"causeway-snapshot 1")
FILE_NAME = "last-known-good"


class UnreadableStateError(ValueError):
    """The file is not what was written: torn, edited, or of another format."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept: the snapshot, what clients of some kinds are served instead, and the owner's notes (JSON).

    `made_of` says what it was made of: another gateway's is of no use. Empty: not known, as in files of before.
    """

    snapshot: Snapshot
    revision: str
    variants: Mapping[str, Snapshot] = field(default_factory=dict)
    notes: str = "[]"
    made_of: str = ""


def write(folder: Path, kept: Kept) -> None:
    """Replaces the file in the folder, which is made if it is not there. Raises OSError and leaves the old one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = encode(kept)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, folder / FILE_NAME)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(folder: Path) -> Kept:
    """What was written. Raises FileNotFoundError, OSError, or UnreadableStateError saying what is wrong."""
    for abandoned in folder.glob(f".{FILE_NAME}.*"):  # of a process that was killed while it wrote
        with suppress(OSError):  # a folder that cannot be written can be read
            abandoned.unlink()
    return decode((folder / FILE_NAME).read_bytes())


def encode(kept: Kept) -> bytes:
    blobs: list[bytes] = []
    rows: list[object] = []
    index: dict[int, int] = {}

    def number(resource: Resource) -> int:
        if id(resource) not in index:  # what snapshots share is the same object
            index[id(resource)] = len(rows)
            rows.append(_row(resource, blobs))
        return index[id(resource)]

    head = {
        "revision": kept.revision,
        "made_of": kept.made_of,
        "labels": dict(kept.snapshot.labels),
        "snapshot": [number(resource) for resource in kept.snapshot],
        "variants": {kind: [number(one) for one in snapshot] for kind, snapshot in kept.variants.items()},
        "notes": kept.notes,
        "resources": rows,
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    body = b"".join((text, b"\n", *blobs))
    return b"".join((_FORMAT, b" ", _checksum(_FORMAT, body), b"\n", body))


def decode(content: bytes) -> Kept:
    """Raises UnreadableStateError."""
    first, _, body = content.partition(b"\n")
    form, _, checksum = first.rpartition(b" ")
    if form not in (_FORMAT, *_EARLIER):
        raise UnreadableStateError("not a file of this format")
    if checksum != _checksum(form, body):
        raise UnreadableStateError("checksum differs: the file is damaged")
    text, _, blob = body.partition(b"\n")
    try:
        head = json.loads(text)
        reader = _Reader(blob)
        resources = [_resource(row, reader) for row in head["resources"]]
        return Kept(
            snapshot=Snapshot.of((resources[n] for n in head["snapshot"]), labels=head["labels"]),
            revision=str(head["revision"]),
            variants={
                str(kind): Snapshot.of(resources[n] for n in numbers) for kind, numbers in head["variants"].items()
            },
            notes=str(head["notes"]),
            made_of=str(head.get("made_of", "")),
        )
    except (KeyError, TypeError, ValueError, IndexError) as failure:
        raise UnreadableStateError(f"unexpected content: {failure!r}") from failure


class _Reader:
    """The bytes behind the JSON, read in the order in which they were written."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def take(self, length: int) -> bytes:
        piece = self._blob[self._at : self._at + length]
        if len(piece) != length:
            raise ValueError("too short")
        self._at += length
        return piece


def _checksum(form: bytes, body: bytes) -> bytes:
    """Of the format and what follows; of earlier formats it did not cover the first line."""
    before = b"" if form in _EARLIER else form
    return blake2b(before + body, digest_size=16).hexdigest().encode()


def _row(resource: Resource, blobs: list[bytes]) -> list[object]:
    return [
        resource.type_url,
        resource.name,
        resource.audience.value,
        resource.ttl_s,
        [_place(origin) for origin in resource.origins],
        [_node(node, blobs) for node in resource.tree],
    ]


def _node(node: Node, blobs: list[bytes]) -> object:
    match node:
        case bytes():
            blobs.append(node)
            return len(node)
        case Part():
            bodies = (node.body, node.alone, node.fallback, node.last_resort)
            blobs.extend(bodies)
            return [node.key, *map(len, bodies), _place(node.origin) if node.origin else None]
        case Nested():
            return {"field": node.field, "children": [_node(child, blobs) for child in node.children]}


def _place(origin: Origin) -> list[object]:
    return [origin.file, origin.line, origin.column]


def _resource(row: list[object], reader: _Reader) -> Resource:
    type_url, name, audience, ttl_s, origins, tree = row
    if not (isinstance(origins, list) and isinstance(tree, list) and isinstance(ttl_s, float | int | None)):
        raise TypeError("a resource's row")
    return Resource(
        type_url=str(type_url),
        name=str(name),
        tree=tuple(_read_node(node, reader) for node in tree),
        origins=tuple(_origin(place) for place in origins),
        audience=Audience(audience),
        ttl_s=ttl_s,
    )


def _read_node(node: object, reader: _Reader) -> Node:
    match node:
        case int():
            return reader.take(node)
        case [str(key), int(body), int(alone), int(fallback), int(last_resort), place]:
            return Part(
                key=key,
                body=reader.take(body),
                alone=reader.take(alone),
                fallback=reader.take(fallback),
                last_resort=reader.take(last_resort),
                origin=_origin(place) if place else None,
            )
        case [str(key), int(body), int(alone), int(fallback), place]:  # as written by format 2
            return Part(
                key=key,
                body=reader.take(body),
                alone=reader.take(alone),
                fallback=reader.take(fallback),
                origin=_origin(place) if place else None,
            )
        case [str(key), int(body), int(fallback), place]:  # as written by format 1
            return Part(
                key=key,
                body=reader.take(body),
                fallback=reader.take(fallback),
                origin=_origin(place) if place else None,
            )
        case {"field": int(number), "children": list(children)}:
            return Nested(field=number, children=tuple(_read_node(child, reader) for child in children))
        case _:
            raise TypeError(f"a node of a resource: {node!r}")


def _origin(place: object) -> Origin:
    match place:
        case [str(file), int(line), int(column)]:
            return Origin(file=file, line=line, column=column)
        case _:
            raise TypeError(f"a place: {place!r}")
