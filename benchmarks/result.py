"""What a benchmark returns: a figure, what it stands beside, and their ratio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row. `reference` was measured in the same run; None where there is nothing fair to stand beside.

    Rows of one `curve` at several sizes are drawn as well.
    """

    what: str
    measured: float
    unit: str
    beside: str = ""
    reference: float | None = None
    note: str = ""
    curve: str = ""
    size: float | None = None

    @property
    def ratio(self) -> float | None:
        """measured / reference."""
        return self.measured / self.reference if self.reference else None
