"""`demo.toml` beside the manifests: services to run with the gateway, and requests to try.

    [services.hello]
    run = ["python", "demo/hello.py"]   # `python` is the one that runs causeway; paths are relative to the folder
    port = 7001                         # taken if free; the service finds its own in $PORT

    [[try]]
    text = "a public route"
    command = "curl -s {gateway}/hello"

The manifests and the services themselves find each service at `<NAME>_ADDR` (`HELLO_ADDR=127.0.0.1:7001`). A folder
without the file runs the gateway alone.
"""

from __future__ import annotations

import re
import socket
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "demo.toml"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,20}")


class DemoError(ValueError):
    """The file says something that cannot be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoService:
    name: str
    run: tuple[str, ...]
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def variable(self) -> str:
        return self.name.upper().replace("-", "_") + "_ADDR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    text: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    services: tuple[DemoService, ...] = ()
    tries: tuple[Try, ...] = ()


def read_demo(folder: Path) -> Demo:
    """What `folder` declares, with a free port for each service; nothing when there is no file. Raises DemoError."""
    try:
        content = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Demo()
    except (OSError, ValueError) as failure:
        raise DemoError(f"{folder / FILE}: {failure}") from failure
    try:
        _refuse_unknown(content)
        services = [_service(name, row) for name, row in content.get("services", {}).items()]
        tries = tuple(Try(text=_text(row["text"]), command=_text(row["command"])) for row in content.get("try", []))
    except DemoError as problem:
        raise DemoError(f"{folder / FILE}: {problem}") from None
    except (KeyError, TypeError, AttributeError) as failure:
        raise DemoError(
            f"{folder / FILE}: expected [services.NAME] with run and port, and [[try]]: {failure}"
        ) from None
    return Demo(services=_on_free_ports(services), tries=tries)


def _refuse_unknown(content: Mapping[str, object]) -> None:
    if unknown := content.keys() - {"services", "try"}:
        raise DemoError(f"unknown: {', '.join(sorted(unknown))}; expected services and try")


def _service(name: str, row: dict[str, object]) -> DemoService:
    if not _NAME.fullmatch(name):
        raise DemoError(f'service "{name}": a name is lower-case letters, digits and dashes')
    run, port = row.get("run"), row.get("port", 0)
    if not isinstance(run, list) or not run or not isinstance(port, int) or not 0 <= port <= 65535:
        raise DemoError(f'service "{name}": expected run = ["program", "argument"] and port = NUMBER')
    words = [_text(word) for word in run]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return DemoService(name=name, run=tuple(words), port=port)


def _on_free_ports(services: Iterable[DemoService]) -> tuple[DemoService, ...]:
    """All ports are held until every one is chosen, so that no two services get the same."""
    held: list[socket.socket] = []
    try:
        chosen = []
        for service in services:
            one = socket.socket()
            held.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", service.port))
            except OSError:
                one.bind(("127.0.0.1", 0))
            chosen.append(DemoService(name=service.name, run=service.run, port=one.getsockname()[1]))
        return tuple(chosen)
    finally:
        for one in held:
            one.close()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DemoError(f"expected text, found {value!r}")
    return value
