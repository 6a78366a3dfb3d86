"""Header decompression (RFC 7541), as a server that must keep in step with its clients' tables needs it.

Decoding in Python costs more than everything else a small call needs, and clients that send the same call again send
the same few bytes: what a block decoded to is remembered while the table does not change. It must not know frames.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

Header = tuple[bytes, bytes]

TABLE_BYTES = 4096  # SETTINGS_HEADER_TABLE_SIZE where nothing else was agreed (RFC 9113 section 6.5.2)
LARGEST_LIST = 64 << 10
_ENTRY_OVERHEAD = 32
_MOST_REMEMBERED = 256

_STATIC_ROWS = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|"
    ":status=204|:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|"
    "accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|"
    "authorization|cache-control|content-disposition|content-encoding|content-language|content-length|"
    "content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|"
    "if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|"
    "proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    "strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
_STATIC: tuple[Header, ...] = tuple(
    (name, value) for name, _, value in (row.partition(b"=") for row in _STATIC_ROWS.encode().split(b"|"))
)
# The lengths of the codes of the 256 octets and of EOS (appendix B), in hexadecimal. The code is canonical: that is all
# there is to know of it.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505"
    "050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605"
    "06050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817"
    "1717171516171617171816151416161717151716161815161717151516151716171714161616171616171a1a141316171619"
    "1a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c"
    "1b1b1b1b1b1a1e"
)


class HpackError(ValueError):
    """A block that cannot be decoded: the connection cannot go on (COMPRESSION_ERROR)."""


class Decoder:
    """The decoding side of one connection."""

    def __init__(self) -> None:
        self._dynamic: deque[Header] = deque()
        self._size = 0
        self._most = TABLE_BYTES
        self._remembered: dict[bytes, tuple[Header, ...]] = {}

    def decode(self, block: bytes) -> tuple[Header, ...]:
        """The headers of a block, in order. Raises HpackError."""
        known = self._remembered.get(block)
        if known is not None:
            return known
        headers: list[Header] = []
        position = total = 0
        is_changed = False
        while position < len(block):
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 7)
                header = self._at(index)
            elif first & 0xE0 == 0x20:
                most, position = _integer(block, position, 5)
                self._resize(most)
                is_changed = True
                continue
            else:
                is_indexed = bool(first & 0x40)
                index, position = _integer(block, position, 6 if is_indexed else 4)
                name, position = (self._at(index)[0], position) if index else _string(block, position)
                value, position = _string(block, position)
                header = (name, value)
                if is_indexed:
                    self._add(header)
                    is_changed = True
            total += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
            if total > LARGEST_LIST:
                raise HpackError(f"headers of more than {LARGEST_LIST} bytes")
            headers.append(header)
        if is_changed or len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        if not is_changed:
            self._remembered[block] = tuple(headers)
        return tuple(headers)

    def _at(self, index: int) -> Header:
        if 1 <= index <= len(_STATIC):
            return _STATIC[index - 1]
        if index == 0 or index - len(_STATIC) > len(self._dynamic):
            raise HpackError(f"no header at index {index}")
        return self._dynamic[index - len(_STATIC) - 1]

    def _add(self, header: Header) -> None:
        self._size += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
        self._dynamic.appendleft(header)
        self._evict()

    def _resize(self, most: int) -> None:
        if most > TABLE_BYTES:
            raise HpackError(f"a table of {most} bytes was never agreed")
        self._most = most
        self._evict()

    def _evict(self) -> None:
        while self._size > self._most:
            name, value = self._dynamic.pop()
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of `bits`, and where it ends (section 5.1)."""
    most = (1 << bits) - 1
    value = block[position] & most
    position += 1
    if value < most:
        return value, position
    for shift in range(0, 28, 7):
        if position >= len(block):
            break
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise HpackError("an integer without an end, or too large")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    if position >= len(block):
        raise HpackError("a string is missing")
    is_huffman = bool(block[position] & 0x80)
    length, position = _integer(block, position, 7)
    end = position + length
    if end > len(block):
        raise HpackError("a string is cut short")
    octets = block[position:end]
    return (_unhuffman(octets) if is_huffman else octets), end


@lru_cache(maxsize=1024)
def _unhuffman(octets: bytes) -> bytes:
    """Huffman-coded octets (section 5.2)."""
    out = bytearray()
    code = length = 0
    for octet in octets:
        for shift in range(7, -1, -1):
            code = code << 1 | octet >> shift & 1
            length += 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is not None:
                if symbol == 256:
                    raise HpackError("EOS inside a string")
                out.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("a string is padded with something else than EOS")
    return bytes(out)


def _symbols() -> dict[tuple[int, int], int]:
    """Symbols by length and code: within a length in the order of the symbols, each length after the shorter ones."""
    symbols = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - before
        symbols[length, code] = symbol
        code, before = code + 1, length
    return symbols


_SYMBOLS = _symbols()
