"""Text that users write, as Envoy reads it in header values and formatted bodies."""

from __future__ import annotations


def literal(value: str) -> str:
    """A text as it stands: Envoy would read `%` as the beginning of a command, and commands could show secrets."""
    return value.replace("%", "%%")
