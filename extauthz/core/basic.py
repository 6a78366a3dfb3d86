"""HTTP Basic authentication (RFC 7617) against scrypt hashes.

Checking a password costs tens of milliseconds on purpose, so it is not done where requests are decided: `read` takes
the header apart, the shell has `check` run elsewhere, at most a few at once, and remembers the outcome.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass
from typing import Final

from extauthz.core.strict import base64url
from extauthz.policy import Basic

MAX_CREDENTIALS: Final = 1024
LOG2_N: Final = 14
BLOCK: Final = 8
PARALLEL: Final = 1
SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_MAX_LOG2_N: Final = 17
_MEMORY: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Password:
    """A user name and a password that somebody sent."""

    user: str
    password: bytes

    def __repr__(self) -> str:
        return f"Password(user={self.user!r})"


def read(encoded: str) -> Password | None:
    """The credentials after `Basic `, or None where they are not well formed."""
    if len(encoded) > MAX_CREDENTIALS:
        return None
    try:
        user, colon, password = a2b_base64(encoded, strict_mode=True).partition(b":")
        name = user.decode("utf-8")
    except (Base64Error, UnicodeDecodeError, ValueError):
        return None
    return Password(name, password) if colon else None


def hash_password(password: str, salt: bytes, *, log2_n: int = LOG2_N) -> str:
    """`scrypt$<log2 n>$<r>$<p>$<salt>$<key>`. The salt is random, 16 bytes."""
    key = _scrypt(password.encode(), salt, log2_n, BLOCK, PARALLEL, _KEY_BYTES)
    return f"scrypt${log2_n:02}${BLOCK}${PARALLEL}${_text(salt)}${_text(key)}"


def check(sent: Password, basic: Basic) -> bool:
    """Whether the password is the user's. Slow, equally so for a user who does not exist."""
    user = basic.users.get(sent.user)
    stored = user.hash if user is not None else _NOBODY
    _, log2_n, block, parallel, salt, key = stored.split("$")
    expected = base64url(key)
    if int(log2_n) > _MAX_LOG2_N:
        return False
    found = _scrypt(sent.password, base64url(salt), int(log2_n), int(block), int(parallel), len(expected))
    return hmac.compare_digest(found, expected) and user is not None


def _scrypt(password: bytes, salt: bytes, log2_n: int, block: int, parallel: int, length: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << log2_n, r=block, p=parallel, dklen=length, maxmem=_MEMORY)


def _text(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


_NOBODY: Final = f"scrypt${LOG2_N:02}${BLOCK}${PARALLEL}${_text(bytes(SALT_BYTES))}${_text(bytes(_KEY_BYTES))}"
