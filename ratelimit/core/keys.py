"""A counter's identity as bytes: no two counters share one, whatever bytes their keys and values hold.

Every part is written with its length before it (`3:abc`), so nothing in a value can be taken for the end of it. What is
longer than `LONGEST` is cut and completed by a hash, which keeps stores' keys small. An identity can be read again, for
listing who is blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

LONGEST = 200
_DIGEST_BYTES = 24
_KEPT = 96
ABSENT = "\0"
"""Stands for the value of an entry that the request has not got. No header, claim or address is a NUL."""


def identity(parts: Iterable[str]) -> bytes:
    """The identity of a counter with these parts, in this order."""
    encoded = b"".join([b"%d:%b" % (len(part), part) for part in [p.encode("utf-8", "surrogateescape") for p in parts]])
    if len(encoded) <= LONGEST:
        return encoded
    digest = blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest().encode()
    return b"#%b#%b" % (digest, encoded[:_KEPT])  # never equal to an uncut one, which begins with a digit


def parts(identity: bytes) -> tuple[str, ...]:
    """The parts of an identity; of one that was cut, those that are left, the last ending in an ellipsis."""
    return tuple(_parts(identity[2 * _DIGEST_BYTES + 2 :] if identity.startswith(b"#") else identity))


def _parts(encoded: bytes) -> Iterator[str]:
    position = 0
    while (colon := encoded.find(b":", position)) >= 0 and encoded[position:colon].isdigit():
        end = colon + 1 + int(encoded[position:colon])
        part = encoded[colon + 1 : end].decode("utf-8", "replace")
        yield part if end <= len(encoded) else part + "…"
        position = end
