"""JSON Web Signatures, compact serialisation (RFC 7515), and nothing more of it than a gateway should accept.

`parse` refuses whatever is unusual before any cryptography; `verify` checks the signature with the one key of the set
that the token's `kid` means, under the one algorithm that key is bound to. The header chooses neither. Signatures are
checked by the `cryptography` library directly; PyJWT, which wraps the same calls, is the second opinion in the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from extauthz.core.jwk import MAX_KID, Key, KeySet
from extauthz.core.strict import base64url_of_alphabet, json_object

MAX_TOKEN_BYTES: Final = 8 * 1024
MAX_HEADER_CHARACTERS: Final = 2048

_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")

REFUSED_HEADER_MEMBERS: Final = frozenset(("crit", "b64", "zip", "cty", "enc", "jku", "jwk", "x5u", "x5c"))
"""Extensions we would have to understand (`crit`, `b64`), encryption or compression, and keys chosen by the sender."""


class TokenRefused(Exception):  # noqa: N818 - a decision, not a failure
    """The token is not accepted. `reason` is a stable code."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        """For logs and the offline explanation; never for the client."""


@dataclass(frozen=True, slots=True)
class Header:
    """What of a JOSE header is looked at. `typ` is in lower case and without `application/`, "" when there is none."""

    algorithm: str
    kid: str | None
    typ: str


@dataclass(frozen=True, slots=True)
class Jws:
    """A well-formed token whose signature has not been checked."""

    header: Header
    payload: bytes
    message: bytes
    """The signing input."""
    signature: bytes


def parse(token: str | bytes) -> Jws:
    """The parts of a compact JWS. Raises TokenRefused, with no other exception for any input."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused("token_too_large")
    if isinstance(token, str):
        try:
            token = token.encode("ascii")
        except UnicodeEncodeError:
            raise TokenRefused("token_malformed", "not ASCII") from None
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise TokenRefused("token_malformed", "not three segments of base64url")
    header, payload, signature = found.groups()
    if len(header) > MAX_HEADER_CHARACTERS:
        raise TokenRefused("token_malformed", "header too long")
    parsed = _header(header)
    if isinstance(parsed, str):
        raise TokenRefused("token_malformed", parsed)
    try:
        return Jws(parsed, base64url_of_alphabet(payload), token[: found.end(2)], base64url_of_alphabet(signature))
    except ValueError:
        raise TokenRefused("token_malformed", "not base64url") from None


def verify(token: str | bytes, keys: KeySet) -> bytes:
    """The payload of a token signed by one of `keys`. Raises TokenRefused."""
    jws = parse(token)
    check_signature(jws, find_key(jws.header, keys))
    return jws.payload


def find_key(header: Header, keys: KeySet) -> Key:
    """The key a header means, if it is for the header's algorithm. Raises TokenRefused."""
    key = keys.find(header.kid)
    if key is None:
        raise TokenRefused("key_unknown", "no such key id" if header.kid is not None else "no key id")
    if key.algorithm != header.algorithm:
        raise TokenRefused("algorithm_mismatch", f"the key is for {key.algorithm}, the token says {header.algorithm}")
    return key


def check_signature(jws: Jws, key: Key) -> None:
    """Raises TokenRefused unless `key` signed the token."""
    if key.algorithm != jws.header.algorithm:
        raise TokenRefused("algorithm_mismatch")
    if not key.verify(jws.signature, jws.message):
        raise TokenRefused("signature_invalid")


@lru_cache(maxsize=1024)
def _header(encoded: bytes) -> Header | str:
    """The header, or why it is refused. Tokens of one key share theirs, so it is remembered."""
    try:
        header = json_object(base64url_of_alphabet(encoded))
    except ValueError as error:
        return f"header: {error}"
    refused = REFUSED_HEADER_MEMBERS.intersection(header)
    if refused:
        return f"header member {min(refused)!r} is not accepted"
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str):
        return "header has no alg"
    if "kid" in header and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        return "header kid is not text of a sensible length"
    if not isinstance(typ, str):
        return "header typ is not text"
    return Header(algorithm, kid if isinstance(kid, str) else None, typ.lower().removeprefix("application/"))
