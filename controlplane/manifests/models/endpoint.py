"""Where a service listens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

from controlplane.manifests.models.base import refuse
from controlplane.manifests.models.scalars import Written, shown
from controlplane.manifests.models.text import endpoint_host

LONGEST_SOCKET_PATH = 107
"""Bytes: what Linux has room for in an address."""


@dataclass(frozen=True, slots=True)
class Endpoint(Written):
    """Where a service listens: `host:port`, `[v6]:port`, `http://host:port`, `https://host:port` or `unix:/path`.

    `host` has no brackets. A `unix` endpoint has a `host` of "" and a `port` of 0.
    """

    scheme: Literal["http", "https", ""]
    host: str
    port: int
    unix: str = ""

    pattern = r"^(unix:/\S+|(https?://)?(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|[A-Za-z0-9._-]+)(:\d{1,5})?/?)$"
    examples = ("orders:3000", "http://orders:3000")
    what = "an endpoint"

    @classmethod
    def parse(cls, text: str) -> Self:
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/") or "\0" in path:
                raise refuse(f"{shown(text)} is not an absolute socket path", hint="unix:/run/x.sock", code="endpoint")
            size = len(path.encode(errors="surrogatepass"))
            if size > LONGEST_SOCKET_PATH:
                raise refuse(
                    f"a socket's path has at most {LONGEST_SOCKET_PATH} bytes, found {size}",
                    hint="a character that is not ASCII is several" if size > len(path) else "",
                    code="endpoint",
                )
            return cls("", "", 0, path)
        scheme, rest = cls._scheme(text)
        found = re.fullmatch(r"(\[[^\]]*\]|[^:/\[\]]*)(?::([0-9]*))?(/.*)?", rest)
        if found is None:
            raise cls.wrong(text)
        host, port, path = found[1], found[2], found[3]
        if path and path != "/":
            raise refuse(
                f"an endpoint has no path, found {shown(text)}",
                hint=f'write "{text[: -len(path)]}" here and `rewrite` on the route',
                code="endpoint",
            )
        if not port and not scheme:
            raise refuse(f"an endpoint needs a port, found {shown(text)}", hint=f'write "{text}:80"', code="endpoint")
        number = int(port) if port else {"http": 80, "https": 443, "": 0}[scheme]
        if not 1 <= number <= 65535:
            raise refuse(f"a port is from 1 to 65535, found {number}", code="endpoint")
        return cls(scheme, endpoint_host(host), number)

    @staticmethod
    def _scheme(text: str) -> tuple[Literal["http", "https", ""], str]:
        scheme, found, rest = text.partition("://")
        match scheme.lower() if found else "":
            case "http":
                return "http", rest
            case "https":
                return "https", rest
            case "":
                return "", text
            case _:
                raise refuse(
                    f'an endpoint has no scheme "{scheme}"',
                    hint="leave the scheme out and set `protocol` on the service",
                    code="endpoint",
                )

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.scheme else f"{host}:{self.port}"
