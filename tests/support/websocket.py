"""The server half of a WebSocket that echoes every message: RFC 6455, sections 4.2.2 and 5.2."""

from __future__ import annotations

import asyncio
import base64
import hashlib

from tests.support.wire import Head, encode

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA


async def echo_websocket(head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the upgrade, then send every data frame back until a close frame comes."""
    key = (head.value("sec-websocket-key") or "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
    headers = (("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept))
    writer.write(encode("HTTP/1.1 101 Switching Protocols", headers))
    while True:
        first, payload = await _read_frame(reader)
        opcode = first & 0x0F
        if opcode == _PING:
            first = first & 0xF0 | _PONG
        writer.write(_frame(first, payload))
        await writer.drain()
        if opcode == _CLOSE:
            return


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length >= 126:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    mask = await reader.readexactly(4) if second & 0x80 else bytes(4)
    masked = await reader.readexactly(length)
    return first, bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 1 << 16:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload
