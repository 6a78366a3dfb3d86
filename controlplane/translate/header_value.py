"""Header values that users write, as Envoy reads them."""

from __future__ import annotations


def literal(value: str) -> str:
    """A value as it stands: Envoy would read `%` as the beginning of a command, and commands could show secrets."""
    return value.replace("%", "%%")
