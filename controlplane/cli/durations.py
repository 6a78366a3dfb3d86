"""Durations on the command line, as in manifests: `250ms`, `10s`, `5m`. A bare number is seconds."""

from __future__ import annotations


def seconds(text: str) -> float:
    """Raises ValueError saying what would be right."""
    from pydantic import TypeAdapter, ValidationError

    from controlplane.manifests.models.scalars import Duration

    try:
        number = float(text)
    except ValueError:
        try:
            return TypeAdapter(Duration).validate_python(text) / 1000
        except ValidationError:
            raise ValueError(f'"{text}": expected a duration such as 10s or 5m') from None
    if not 0 <= number < float("inf"):
        raise ValueError(f'"{text}": expected a duration such as 10s or 5m')
    return number
