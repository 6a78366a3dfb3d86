"""What a control plane is told about its own behaviour, and what becomes of a snapshot that it is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the control plane behaves towards its clients."""

    identifier: str = "causeway"
    deletion_share: float = 0.5
    """A change that removes more than this share of the routes or services at once waits for a confirmation."""
    policy_patience_s: float = 5.0
    """How long routes wait for the services to accept the policy documents they name."""
    patience_s: float = 1.0
    max_streams: int = 10_000
    silent_after_s: float = 4.0
    oldest_envoy: tuple[int, int] | None = None
    """An Envoy of an earlier release is turned away: it would ignore fields that it does not know."""


class Outcome(Enum):
    SERVED = "served"
    UNCHANGED = "unchanged"
    HELD = "held"
    """It removes too much at once: confirm it."""
    CANARY = "canary"
    """It is on trial with some clients."""


class Inconsistent(ValueError):  # noqa: N818  # reads as the sentence it is raised with
    """The snapshot names what it does not hold. `problems` are sentences with their places."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems[:3]))
