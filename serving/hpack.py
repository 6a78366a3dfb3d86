"""HPACK (RFC 7541), the reading half, as much of it as finding a request's path takes.

Every field of a block is read, because blocks change the dynamic table; values other than the path's are skipped over
without being decoded. Peers are told that our table has no room, so that soon every block says the same by the same
bytes, and equal blocks are answered from memory.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final

MAX_BLOCK_BYTES: Final = 64 * 1024
MAX_TABLE_BYTES: Final = 4096
_ENTRY_OVERHEAD: Final = 32
_REMEMBERED: Final = 64

_PATH: Final = b":path"
_STATIC_PATHS: Final = {4: b"/", 5: b"/index.html"}
# The names of RFC 7541, appendix A, from index 1 on.
_STATIC_NAMES: Final = (
    b":authority :method :method :path :path :scheme :scheme :status :status :status :status :status "
    b":status :status accept-charset accept-encoding accept-language accept-ranges accept "
    b"access-control-allow-origin age allow authorization cache-control content-disposition "
    b"content-encoding content-language content-length content-location content-range content-type cookie "
    b"date etag expect expires from host if-match if-modified-since if-none-match if-range "
    b"if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization "
    b"range referer refresh retry-after server set-cookie strict-transport-security transfer-encoding "
    b"user-agent vary via www-authenticate "
).split()

# The lengths of the 257 codes of RFC 7541, appendix B. The codes are canonical: lengths say it all.
_CODE_LENGTHS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606"
    "060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605"
    "06070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616171715"
    "1716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_END_OF_STRING: Final = 256


class CompressionError(ValueError):
    """The block does not follow RFC 7541; the connection cannot go on (RFC 9113, 4.3)."""


class PathReader:
    """The state of one connection's table. `path(block)` is a block's `:path`, None where it has none."""

    __slots__ = ("_entries", "_known", "_limit", "_size")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._limit = MAX_TABLE_BYTES
        self._known: dict[bytes, bytes | None] = {}

    def path(self, block: bytes) -> bytes | None:
        """Raises CompressionError."""
        if self._limit == 0 and block in self._known:  # no table: a block means what it meant before
            return self._known[block]
        try:
            found = self._read(block)
        except IndexError:
            raise CompressionError("a block ends inside a field") from None
        if self._limit == 0:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = found
        return found

    def _read(self, block: bytes) -> bytes | None:
        at, end = 0, len(block)
        found: bytes | None = None
        may_resize = True
        while at < end:
            first = block[at]
            if first & 0xE0 == 0x20:  # table size update (6.3): only before the first field
                if not may_resize:
                    raise CompressionError("a table size update after a field")
                size, at = _integer(block, at, 5)
                self._resize(size)
                continue
            may_resize = False
            if first & 0x80:  # indexed field (6.1)
                index, at = _integer(block, at, 7)
                value = self._indexed_path(index)
                found = found if value is None else value
                continue
            is_kept = bool(first & 0x40)  # with incremental indexing (6.2.1), else without (6.2.2, 6.2.3)
            index, at = _integer(block, at, 6 if is_kept else 4)
            name, at = (self._name(index), at) if index else _text(block, at)
            is_coded, raw, at = _string(block, at)
            if name == _PATH:
                found = _huffman(raw) if is_coded else raw
            if is_kept:
                self._keep(name, _huffman(raw) if is_coded else raw)
        return found

    def _indexed_path(self, index: int) -> bytes | None:
        if index == 0:
            raise CompressionError("index 0")
        if index <= len(_STATIC_NAMES):
            return _STATIC_PATHS.get(index)
        name, value = self._entry(index)
        return value if name == _PATH else None

    def _name(self, index: int) -> bytes:
        return _STATIC_NAMES[index - 1] if index <= len(_STATIC_NAMES) else self._entry(index)[0]

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        place = index - len(_STATIC_NAMES) - 1
        if place >= len(self._entries):
            raise CompressionError(f"index {index} is beyond the table")
        return self._entries[place]

    def _keep(self, name: bytes, value: bytes) -> None:
        self._entries.appendleft((name, value))
        self._size += len(name) + len(value) + _ENTRY_OVERHEAD
        self._evict()

    def _resize(self, size: int) -> None:
        if size > MAX_TABLE_BYTES:
            raise CompressionError("a table larger than we offered")
        self._limit = size
        self._known.clear()
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """An integer (5.1), and where it ends. Raises CompressionError, and IndexError at the end of the block."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14, 21):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
    raise CompressionError("an integer that is too large")


def _string(block: bytes, at: int) -> tuple[bool, bytes, int]:
    """Whether a string is Huffman coded, its bytes as they stand, and where it ends (5.2)."""
    is_coded = block[at] >= 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise CompressionError("a string beyond its block")
    return is_coded, block[at:end], end


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    is_coded, raw, at = _string(block, at)
    return (_huffman(raw) if is_coded else raw), at


@lru_cache(1)
def _symbols() -> dict[tuple[int, int], int]:
    """Symbols by the length and the value of their codes."""
    symbols: dict[tuple[int, int], int] = {}
    code = length = 0
    for symbol in sorted(range(len(_CODE_LENGTHS)), key=lambda one: (_CODE_LENGTHS[one], one)):
        code <<= _CODE_LENGTHS[symbol] - length
        length = _CODE_LENGTHS[symbol]
        symbols[length, code] = symbol
        code += 1
    return symbols


@lru_cache(maxsize=1024)
def _huffman(coded: bytes) -> bytes:
    """A Huffman-coded string in clear (5.2). Raises CompressionError."""
    symbols = _symbols()
    out = bytearray()
    code = length = 0
    for octet in coded:
        for shift in range(7, -1, -1):
            code = code << 1 | (octet >> shift & 1)
            length += 1
            symbol = symbols.get((length, code))
            if symbol is None:
                continue
            if symbol == _END_OF_STRING:
                raise CompressionError("the end-of-string symbol inside a string")
            out.append(symbol)
            code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise CompressionError("padding that is not ones, or too long")
    return bytes(out)
