"""The reference service's configuration from files: every `*.yaml` in a folder, read again when anything changes.

Files may be replaced in place or by swapping a symbolic link anywhere in their path (as Kubernetes does with a
ConfigMap), so what is compared is what the paths lead to. A configuration with a mistake changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
import yaml

from ratelimit.core.reference import Config, ConfigError, build

POLL_S = 0.25
MOST_BYTES = 16 << 20

_log = structlog.get_logger("ratelimit.config")
_Signature = tuple[tuple[str, int, int, int], ...]


def load(folder: Path, *, merges_domains: bool = False) -> Config:
    """The configuration in `folder`. Raises ConfigError, or OSError."""
    return build([(_name(folder, file), _read(folder, file)) for file in _files(folder)], merges_domains=merges_domains)


class Watcher:
    """Calls `on_config` with every new configuration of `folder`, and `on_problem` for one that is refused."""

    def __init__(
        self,
        folder: Path,
        on_config: Callable[[Config], None],
        on_problem: Callable[[str], None],
        *,
        merges_domains: bool = False,
    ) -> None:
        self._folder = folder
        self._on_config = on_config
        self._on_problem = on_problem
        self._merges_domains = merges_domains
        self._seen: _Signature | None = None

    def look(self) -> None:
        """Reads the folder if anything in it changed since the last look."""
        signature = _signature(self._folder)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            config = load(self._folder, merges_domains=self._merges_domains)
        except (ConfigError, OSError) as problem:
            _log.error("configuration refused, the last one stays", error=str(problem))
            self._on_problem(str(problem))
            return
        self._on_config(config)
        _log.info("configuration in effect", files=[name for name, _ in config.files])

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.look()


def _files(folder: Path) -> list[Path]:
    """In the order of their names; what begins with a dot is left out, such as the folders behind a ConfigMap's
    links.
    """
    found = [file for pattern in ("*.yaml", "*.yml") for file in folder.rglob(pattern)]
    visible = (file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in visible if file.is_file())


def _name(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder))


def _read(folder: Path, file: Path) -> object:
    name = _name(folder, file)
    if file.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{name}: larger than {MOST_BYTES} bytes")
    try:
        content: object = yaml.load(file.read_text("utf-8"), Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
        raise ConfigError(f"{name}: error loading config file: {problem}") from None
    return content


class _Loader(yaml.SafeLoader):
    """YAML without dates: a value such as 2026-01-01 is text to the reference service."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _signature(folder: Path) -> _Signature:
    signature = []
    for file in _files(folder):
        try:
            stat = file.stat()
        except OSError:
            continue
        signature.append((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(signature)
