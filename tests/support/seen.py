"""A request as it reached an origin."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.support.wire import Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as it reached the origin. `header_lines` is raw, and empty for HTTP/2, which has no lines."""

    protocol: str
    request_line: bytes
    header_lines: tuple[bytes, ...]
    method: str
    path: str
    headers: Headers
    body: bytes
    trailers: Headers
    connection: int

    def values(self, name: str) -> list[str]:
        """Every value of the header (name in lower case), in order."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str | None:
        """The header's only value. Raises AssertionError where it came more than once."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


def echo(seen: Seen, name: str) -> bytes:
    """The request as the JSON that an untold origin answers with."""
    return json.dumps(
        {
            "origin": name,
            "method": seen.method,
            "path": seen.path,
            "protocol": seen.protocol,
            "headers": seen.headers,
            "body": seen.body.decode("latin-1"),
        }
    ).encode()
