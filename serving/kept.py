"""The last known good of named resources in one file: written whole or not at all, checked when read.

The file is a line with the format's name, its version and a checksum, then JSON. A torn, edited or foreign file raises
ValueError; the caller goes on without it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

_FORMAT = "causeway-kept 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A resource as it was accepted: the server's version and the bytes."""

    version: str
    body: bytes


def write(file: Path, type_url: str, resources: Mapping[str, Held]) -> None:
    """Replaces `file` atomically, mode 0600, in a folder of mode 0700. Raises OSError and leaves the old file."""
    rows = {
        name: {"version": held.version, "body": base64.b64encode(held.body).decode()}
        for name, held in sorted(resources.items())
    }
    text = json.dumps({"type_url": type_url, "resources": rows}, sort_keys=True, separators=(",", ":"))
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(f"{_FORMAT} {_checksum(text)}\n{text}")
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(file: Path, type_url: str) -> dict[str, Held]:
    """What was written. Raises FileNotFoundError, OSError, or ValueError saying what is wrong with the file."""
    head, _, text = file.read_text(encoding="utf-8").partition("\n")
    form, _, checksum = head.rpartition(" ")
    if form != _FORMAT:
        raise ValueError("not a file of this format")
    if checksum != _checksum(text):
        raise ValueError("checksum differs: the file is damaged")
    content = json.loads(text)
    try:
        if content["type_url"] != type_url:
            raise ValueError(f"holds {content['type_url']}, expected {type_url}")
        return {
            str(name): Held(version=str(row["version"]), body=base64.b64decode(row["body"], validate=True))
            for name, row in content["resources"].items()
        }
    except (KeyError, TypeError, AttributeError, binascii.Error) as failure:
        raise ValueError(f"unexpected content: {failure!r}") from failure


def _checksum(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
