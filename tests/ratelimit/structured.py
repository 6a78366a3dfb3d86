"""A strict reader of RFC 9651 Lists, as far as rate limit fields use them: Strings with integer parameters."""

from __future__ import annotations

import re

Item = tuple[str, dict[str, int]]
_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_PARAMETER = re.compile(r"; *([a-z*][a-z0-9_\-.*]*)=(-?\d{1,15})")


def parse_list(text: str) -> list[Item]:
    """The items in order. Raises ValueError where RFC 9651's algorithm fails."""
    items: list[Item] = []
    position = 0
    while True:
        found = _STRING.match(text, position)
        if found is None:
            raise ValueError(f"no String at {position} of {text!r}")
        position = found.end()
        parameters: dict[str, int] = {}
        while parameter := _PARAMETER.match(text, position):
            parameters[parameter[1]] = int(parameter[2])
            position = parameter.end()
        items.append((re.sub(r"\\(.)", r"\1", found[1]), parameters))
        if position == len(text):
            return items
        comma = re.compile(r"[ \t]*,[ \t]*").match(text, position)
        if comma is None or comma.end() == len(text):
            raise ValueError(f"no next item at {position} of {text!r}")
        position = comma.end()
