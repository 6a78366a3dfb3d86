"""Who may connect to the ADS port: an allow-list of certificate names, read again whenever the file changes.

One name a line: a subject alternative name or the common name of the client's certificate, `*.` for one label in front,
`#` for comments. A line `service NAME` lets the client have policy documents too, which hold secrets. A file that
cannot be read, or is no UTF-8, leaves the last list in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from serving.server import Call

_log = structlog.get_logger("controlplane.clients")
_ROLE = "service "


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The list's content."""

    clients: frozenset[str]
    services: frozenset[str]


class AllowList:
    """The list in `file`. Raises OSError when it cannot be read at first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._problem = ""
        self._stamp = self._look()
        self._names = self._read()

    def refresh(self) -> bool:
        """Reads the file again if it changed. True when the list is another one now."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            names = self._read()
        except OSError as failure:
            self._warn(str(failure))
            return False
        self._stamp, self._problem = stamp, ""
        is_other, self._names = names != self._names, names
        if is_other:
            _log.info("allow-list changed", clients=len(names.clients), services=len(names.services))
        return is_other

    def allows(self, identity: Iterable[str]) -> bool:
        return _matches(identity, self._names.clients | self._names.services)

    def is_service(self, identity: Iterable[str]) -> bool:
        return _matches(identity, self._names.services)

    def _read(self) -> Names:
        """Raises OSError, also for what is no text."""
        try:
            return parse(self._file.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as failure:
            line = failure.object.count(b"\n", 0, failure.start) + 1
            raise OSError(f"{self._file}:{line}: the list of clients is not UTF-8 ({failure.reason})") from failure

    def _warn(self, problem: str) -> None:
        """Once: the file is looked at every few seconds."""
        if problem != self._problem:
            _log.warning("allow-list unreadable, keeping the last one", file=str(self._file), error=problem)
        self._problem = problem

    def _look(self) -> tuple[int, int, int]:
        stat = self._file.stat()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def parse(text: str) -> Names:
    clients, services = set(), set()
    for line in text.splitlines():
        name = line.partition("#")[0].strip()
        if name.startswith(_ROLE):
            services.add(name.removeprefix(_ROLE).strip().lower())
        elif name:
            clients.add(name.lower())
    return Names(clients=frozenset(clients), services=frozenset(services))


def identity(auth_context: Mapping[str, Sequence[bytes]]) -> frozenset[str]:
    """The names in the client's certificate; empty without one. With alternative names the common name is no name."""
    alternative = auth_context.get("x509_subject_alternative_name", ())
    found = alternative or auth_context.get("x509_common_name", ())
    return frozenset(name.decode("utf-8", "replace").lower() for name in found)


def is_on_this_machine(peer: str) -> bool:
    """A peer on a Unix socket: who may open it is a matter of its permissions."""
    return peer.startswith("unix:")


async def admit(allowed: AllowList | None, call: Call) -> frozenset[str]:
    """The names in the caller's certificate. Ends the call with PERMISSION_DENIED when it may not connect."""
    names = identity(call.auth_context())
    if allowed is not None and not is_on_this_machine(call.peer()) and not allowed.allows(names):
        _log.warning("client not on the allow-list", peer=call.peer(), names=sorted(names))
        await call.abort(grpc.StatusCode.PERMISSION_DENIED, "not on the allow-list of clients")
    return names


def _matches(identity: Iterable[str], allowed: frozenset[str]) -> bool:
    return any(name in allowed or f"*.{name.partition('.')[2]}" in allowed for name in identity)
