"""What resolve finds wrong: where in the manifest's values, what, and what would be right. Places come later."""

from __future__ import annotations

from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem at a path of the merged manifest, for example `("routes", 3, "service")`.

    `other` is a second place that belongs to it: the route that this one cannot be told from.
    """

    path: Path
    message: str
    hint: str = ""
    code: str = "reference"
    other: Path | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Collects findings: resolve goes on after a problem, to report every one."""

    all: list[Finding] = field(default_factory=list)

    def add(
        self, path: Path, message: str, *, hint: str = "", code: str = "reference", other: Path | None = None
    ) -> None:
        """Add one."""
        self.all.append(Finding(path=path, message=message, hint=hint, code=code, other=other))
