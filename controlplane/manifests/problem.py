"""A problem: where, what was found, what would be right. Every reader of manifests returns all of them.

A problem never holds the value of a secret or of a variable: what makes it sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.origin import Origin

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that must be put right before a change goes live.

    `path` is where it is in the manifest as a whole, `subject` the same for people (`route "/orders/**"`). `length`
    counts the characters from `origin` that are meant. `code` is stable.
    """

    origin: Origin
    message: str
    code: str
    hint: str = ""
    subject: str = ""
    path: Steps = ()
    length: int = 1

    @property
    def text(self) -> str:
        """Subject, message and hint on one line."""
        subject = f"{self.subject}: " if self.subject else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{subject}{self.message}{hint}"

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sorted by place, each once."""
    unique = {(p.origin, p.message): p for p in problems}
    return tuple(unique[key] for key in sorted(unique))


def dotted(path: Steps) -> str:
    """A path for people: `routes[3].service`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
