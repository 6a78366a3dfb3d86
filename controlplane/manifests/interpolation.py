"""`${VAR}`, `${VAR:-default}` and `${file:path}` inside scalars; `$${` for a literal `${`.

Braces mean something to YAML, so that `{secret: ${JWT_SECRET}}` would not parse. Before YAML sees a text, every
variable in it is hidden: each character with a meaning moves to a private-use code point, one for one, so lines and
columns stay as they were. A scalar's text is shown again when it is read.

This module decides nothing about types: what a variable's text becomes is typed afterwards, as if it had been written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.manifests.models.base import nearest

_SHIFT = 0xE000
HIDDEN = re.compile("[\ue000-\ue07f]")
# Quotes and backslashes stay: inside a quoted scalar they are YAML's.
_MOVED = {code: _SHIFT + code for code in range(0x20, 0x7F) if chr(code) not in "\"'\\"}
_BACK = {there: here for here, there in _MOVED.items()}
_WRITTEN = re.compile(r"\$\$\{|\$\{[^}\n]*\}")
_EXPRESSION = re.compile(r"\$\$\{|\$\{([^}\n]*)(\}?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+=]")

LARGEST_VALUE = 1 << 20


def hide(text: str) -> str:
    """The text with its variables hidden from YAML; of the same length."""
    return _WRITTEN.sub(lambda found: found[0].translate(_MOVED), text)


def show(text: str) -> str:
    """The text as it was written."""
    return text.translate(_BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where variables come from. `read` returns the text of a file, or raises OSError or UnicodeDecodeError."""

    variables: Mapping[str, str]
    read: Callable[[str], str]

    def get(self, name: str) -> str | None:
        """A variable's value, or the content of `file:path`; None where there is none."""
        if not name.startswith("file:"):
            return self.variables.get(name)
        try:
            return self.read(name.removeprefix("file:").strip()).removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an expression, `at` so many characters into the scalar."""

    at: int
    length: int
    message: str
    hint: str
    code: str = "variable"


class Interpolation:
    """Replaces variables, remembers which were used, and collects what is wrong."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.used: dict[str, str | None] = {}

    def expand(self, text: str) -> tuple[str, list[Fault]]:
        """The text with its variables replaced. What is wrong stays as it was written."""
        faults: list[Fault] = []

        def replace(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            fault_or_value = self._value(found)
            if isinstance(fault_or_value, Fault):
                faults.append(fault_or_value)
                return found[0]
            return fault_or_value

        return _EXPRESSION.sub(replace, text), faults

    def _value(self, found: re.Match[str]) -> str | Fault:
        expression = found[1]

        def fault(message: str, hint: str = "", code: str = "variable") -> Fault:
            return Fault(found.start(), len(found[0]), message, hint, code)

        if not found[2]:
            return fault("a variable begins with ${ and does not end", "write ${NAME}, or $${ for the characters ${")
        if "${" in expression:
            return fault("a variable inside a variable", "give a plain default: ${NAME:-default}")
        name, has_default, default = expression.partition(":-")
        if name.startswith("file:"):
            if not name.removeprefix("file:").strip():
                return fault("which file?", "write ${file:path/of/the/file}")
        elif not _VARIABLE.fullmatch(name):
            operator = _OPERATOR.search(name)
            known = f"${{{name[: operator.start()]}:-default}}" if operator else "${NAME} or ${NAME:-default}"
            return fault(f'"${{{expression}}}" is not a variable', f"write {known}")
        value = self._environment.get(name)
        self.used[name] = value
        if value is None or (value == "" and has_default):
            return default if has_default else self._unset(name, fault)
        if len(value) > LARGEST_VALUE:
            return fault(f"the value of ${{{name}}} is longer than {LARGEST_VALUE} characters")
        return value

    def _unset(self, name: str, fault: Callable[[str, str, str], Fault]) -> Fault:
        if name.startswith("file:"):
            path = name.removeprefix("file:").strip()
            return fault(
                f'the file "{path}" cannot be read as text',
                "a path is absolute or from the manifests' folder",
                "variable-file",
            )
        guess = nearest(name, self._environment.variables)
        return fault(
            f"the variable {name} is not set",
            f"did you mean {guess}?" if guess else f"set it, or write a default: ${{{name}:-default}}",
            "variable-unset",
        )
