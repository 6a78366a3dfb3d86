"""What may become a header's value.

A verified claim is still text somebody chose: a user name with a line break in it would write headers of its own. Only
visible ASCII passes, and a comma only where no list would form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from extauthz.core.strict import Json

MAX_VALUE: Final = 256
MAX_LIST: Final = 64
MAX_JOINED: Final = 4096

# A comma would make two values of one; a space or tab around it would be trimmed by some and not by others.
_ELEMENT: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,256}", re.ASCII)
_LINE: Final = re.compile(r"[\x21-\x2b\x2d-\x7e](?:[\x20-\x2b\x2d-\x7e]{0,254}[\x21-\x2b\x2d-\x7e])?", re.ASCII)
_SEPARATORS: Final = re.compile(r"[ ,]+")


class ValueRefused(ValueError):  # noqa: N818
    """A claim whose value must not reach a header."""


def element(value: object) -> str:
    """`value` as one header value: text of 1 to 256 visible ASCII characters without a comma. Raises ValueRefused."""
    if isinstance(value, str) and _ELEMENT.fullmatch(value):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    raise ValueRefused("not visible ASCII without commas and spaces")


def elements(value: Json) -> tuple[str, ...]:
    """A list of values, or text with spaces or commas between them, as a tuple in order without repetitions."""
    if value is None:
        return ()
    found = [one for one in _SEPARATORS.split(value) if one] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > MAX_LIST:
        raise ValueRefused(f"not a list of at most {MAX_LIST}")
    kept: dict[str, None] = {}
    for one in found:
        if not isinstance(one, str):
            raise ValueRefused("a list holds something else than text")
        kept[element(one)] = None
    return tuple(kept)


def joined(values: tuple[str, ...]) -> str:
    """The values with commas between them. Raises ValueRefused when that is too long for a header."""
    text = ",".join(values)
    if len(text) > MAX_JOINED:
        raise ValueRefused(f"longer than {MAX_JOINED} characters")
    return text


def header_value(value: Json) -> str:
    """Any claim as a header's value: a scalar (text may have spaces inside), or a list joined with commas. Raises
    ValueRefused."""
    if isinstance(value, list):
        return joined(elements(value))
    if isinstance(value, str) and _LINE.fullmatch(value):
        return value
    return element(value)


def claim(claims: Mapping[str, Json], name: str) -> Json:
    """A claim by its name, or by a path with dots into nested objects; None when it is not there."""
    if name in claims:
        return claims[name]
    if "." not in name:
        return None
    found: Json = dict(claims)
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found
