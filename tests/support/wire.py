"""HTTP/1.1 messages exactly as they are on the wire, for both ends of a test.

The parser keeps every header line as it came: tests ask what crossed the wire, and a library that tidies up would
answer a different question.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

MAX_HEAD_BYTES = 1 << 20
Headers = tuple[tuple[str, str], ...]


class ClosedError(ConnectionError):
    """The other end closed the connection before a whole message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Start line and header lines, raw, without their line ends."""

    start_line: bytes
    header_lines: tuple[bytes, ...]

    @property
    def headers(self) -> Headers:
        """Names in lower case, values stripped, in order, duplicates kept."""
        pairs = (line.partition(b":") for line in self.header_lines)
        return tuple((name.decode("latin-1").lower(), value.strip().decode("latin-1")) for name, _, value in pairs)

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next message's head. Raises ClosedError at the end of the stream."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise ClosedError(f"closed after {error.partial[:200]!r}") from error
    start_line, *header_lines = block[:-4].split(b"\r\n")
    return Head(start_line=start_line, header_lines=tuple(header_lines))


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_close: bool = False) -> tuple[bytes, Headers]:
    """The message's body and its trailers. `until_close`: a response without a length ends with the connection."""
    try:
        if "chunked" in (head.value("transfer-encoding") or "").lower():
            return await _read_chunks(reader)
        if (length := head.value("content-length")) is not None:
            return await reader.readexactly(int(length)), ()
    except asyncio.IncompleteReadError as error:
        raise ClosedError(f"closed inside a body, after {len(error.partial)} bytes of the part") from error
    return (await reader.read() if until_close else b""), ()


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, Headers]:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    lines = []
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        lines.append(line[:-2])
    return bytes(body), Head(start_line=b"", header_lines=tuple(lines)).headers


def encode(start_line: str, headers: Headers, body: bytes = b"") -> bytes:
    """A message's bytes. Nothing is added: lengths and the rest are the caller's."""
    lines = [start_line, *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
