"""JSON and base64url, read as strictly as the JOSE specifications allow.

One value has one spelling here: no padding, no stray bits, no duplicate members, no numbers that JSON does not have, no
text that is not Unicode. A token that can be spelled in two ways evades every cache and deny-list keyed by its bytes.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from typing import Final, NoReturn, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_TO_BASE64: Final = str.maketrans("-_", "+/")
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# The last character of a final group of 2 (3) characters carries 4 (2) unused bits, which must be zero (RFC 4648, 3.5).
_LAST: Final = {2: frozenset(_ALPHABET[::16]), 3: frozenset(_ALPHABET[::4])}
_LAST_OCTET: Final = {rest: frozenset(map(ord, last)) for rest, last in _LAST.items()}
_OCTETS_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_PADDING_OCTETS: Final = (b"", b"", b"==", b"=")
_PADDING: Final = {0: "", 2: "==", 3: "="}
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def base64url(text: str) -> bytes:
    """The bytes of unpadded base64url (RFC 7515, 2). Raises ValueError for every other spelling."""
    rest = len(text) & 3
    if not _BASE64URL.fullmatch(text) or rest == 1 or (rest and text[-1] not in _LAST[rest]):
        raise ValueError("not base64url")
    return a2b_base64(text.translate(_TO_BASE64) + _PADDING[rest])


def base64url_of_alphabet(octets: bytes) -> bytes:
    """As `base64url`, for what is known to be of its alphabet. Raises ValueError for stray bits and lengths."""
    rest = len(octets) & 3
    if rest == 1 or (rest and octets[-1] not in _LAST_OCTET[rest]):
        raise ValueError("not base64url")
    return a2b_base64(octets.translate(_OCTETS_TO_BASE64) + _PADDING_OCTETS[rest])


def json_object(octets: bytes) -> dict[str, Json]:
    """The object in UTF-8 JSON. Raises ValueError where it is not one, is not well formed, or repeats a member."""
    text = octets.decode("utf-8")
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one error for everything that is not right
    if "\\u" in text and _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except (UnicodeEncodeError, RecursionError) as error:
            raise ValueError("text that is not Unicode") from error
    return value


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_not_json)
