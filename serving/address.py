"""Where a process listens or connects: `unix:/path` or `host:port`. Text in, value out; it opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

SUN_PATH_BYTES = 107  # sockaddr_un.sun_path is 108 bytes with its final NUL (unix(7))


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    @property
    def target(self) -> str:
        """What gRPC listens on or connects to."""
        return f"unix:{self.path}"

    @property
    def is_unix(self) -> bool:
        return True

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return True

    def __str__(self) -> str:
        return self.target


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    @property
    def target(self) -> str:
        return str(self)

    @property
    def is_unix(self) -> bool:
        return False

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:/path`, `host:port` or `[ipv6]:port`. Port 0 asks the system for a free one.

    Raises ValueError with what was found and what would be right.
    """
    if text.startswith("unix:"):
        return _unix(text)
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f'"{text}": expected host:port or unix:/path')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f'"{text}": an IPv6 address needs brackets: [{host}]:{port}')
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f'"{text}": "{port}" is not a port (0 to 65535)')
    if not host or any(c.isspace() or c in "/@[]" for c in host):
        raise ValueError(f'"{text}": "{host}" is not a host name or address')
    return TcpAddress(host, int(port))


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/"):
        raise ValueError(f'"{text}": a unix address needs an absolute path: unix:/run/causeway/xds.sock')
    if len(path.encode()) > SUN_PATH_BYTES:
        raise ValueError(f'"{text}": a socket path has at most {SUN_PATH_BYTES} bytes; choose a shorter folder')
    return UnixAddress(Path(path))
