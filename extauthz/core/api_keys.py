"""API keys: `cw_<id>_<secret>`, kept as an HMAC under a pepper, found by id and compared in constant time.

The prefix lets scanners recognise a leaked key and the id lets people name one without knowing it. A secret is 32
random bytes, so a plain keyed hash is enough: there is nothing to guess, and a slow hash on the hot path would be an
invitation. The look-up costs the same for one key as for a million.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from dataclasses import dataclass
from typing import Final

from extauthz.core.identity import Identity
from extauthz.policy import ApiKeys, Client, Method

PREFIX: Final = "cw"
ID_BYTES: Final = 10
SECRET_BYTES: Final = 32
_FORM: Final = re.compile(rf"{PREFIX}_([a-z0-9]{{8,32}})_([a-z2-7]{{52}})", re.ASCII)
_NOBODY: Final = bytes(32)


class ApiKeyRefused(Exception):  # noqa: N818
    """The key is not accepted. `reason` is a stable code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is given out, once, and what is kept of it."""

    id: str
    text: str
    digest: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def new_key(id_bytes: bytes, secret_bytes: bytes, pepper: str) -> NewKey:
    """A key made from random bytes: `ID_BYTES` and `SECRET_BYTES` of them."""
    key_id, secret = (b32encode(part).decode().rstrip("=").lower() for part in (id_bytes, secret_bytes))
    text = f"{PREFIX}_{key_id}_{secret}"
    return NewKey(key_id, text, digest(text, pepper))


def digest(text: str, pepper: str) -> str:
    """HMAC-SHA-256 of a whole key under the pepper, in hexadecimal."""
    return hmac.digest(pepper.encode(), text.encode(), "sha256").hex()


def verify(text: str, keys: ApiKeys, now: float) -> Identity:
    """The client a key stands for. Raises ApiKeyRefused."""
    form = _FORM.fullmatch(text)
    key = keys.keys.get(form[1]) if form is not None else None
    expected = bytes.fromhex(key.digest) if key is not None else _NOBODY
    matches = False
    for pepper in keys.peppers:  # an unknown id costs what a known one does
        found = hmac.digest(pepper.reveal().encode(), text.encode(), "sha256")
        matches |= hmac.compare_digest(found, expected)
    if form is None or key is None or not matches:
        raise ApiKeyRefused("api_key_invalid")
    if key.disabled:
        raise ApiKeyRefused("revoked")
    if key.expires_at is not None and now >= key.expires_at:
        raise ApiKeyRefused("api_key_expired")
    return client_identity(key, "api_key", api_key=form[1], not_after=key.expires_at)


def client_identity(
    client: Client, method: Method, *, api_key: str | None = None, not_after: int | None = None
) -> Identity:
    """The identity of a credential without claims."""
    return Identity(
        method=method,
        user=client.client,
        tenant=client.tenant,
        tier=client.tier,
        roles=client.roles,
        scopes=client.scopes,
        api_key=api_key,
        not_after=not_after,
    )
