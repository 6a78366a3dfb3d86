"""Regular expressions as Envoy reads them: RE2, over bytes.

Measured with Envoy 1.40: to its RE2 each byte is a character, so that `.` is one byte of several in a character that is
not ASCII, and classes are far smaller than over Unicode.
"""

from __future__ import annotations

import re2

_OPTIONS = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.log_errors = False


def program_size(expression: str) -> int:
    """Steps of what RE2 makes of it, which Envoy limits. Raises ValueError with RE2's reason where it is none."""
    try:
        return int(re2.compile(expression.encode(errors="surrogatepass"), _OPTIONS).programsize)
    except re2.error as problem:
        raise ValueError(problem.args[0].decode(errors="replace")) from None


def groups(expression: str) -> int:
    """How many groups an expression has."""
    return int(re2.compile(expression.encode(errors="surrogatepass"), _OPTIONS).groups)


def is_match(expression: str, text: str) -> bool:
    """Whether the whole text is one that the expression describes."""
    found = re2.fullmatch(expression.encode(), text.encode(errors="surrogateescape"), _OPTIONS)
    return found is not None
