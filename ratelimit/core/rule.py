"""One limit as a request meets it: what its counter may let through, and how the answer is told.

Both our own limits and the reference service's descriptors become rules. It must not know where a rule was written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

from ratelimit.core.budget import Budget, Take

NOT_LIMITED = 2**32 - 1


class Unit(IntEnum):
    """The protocol's units; UNKNOWN for windows it has no name for."""

    UNKNOWN = 0
    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7

    @property
    def seconds(self) -> int:
        """The window. Months have 30 days and years 365, as in the reference service."""
        return _SECONDS[self]


_SECONDS = {
    Unit.UNKNOWN: 0,
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3_600,
    Unit.DAY: 86_400,
    Unit.WEEK: 7 * 86_400,
    Unit.MONTH: 30 * 86_400,
    Unit.YEAR: 365 * 86_400,
}
UNIT_OF_US = {unit.seconds * 1_000_000: unit for unit in Unit if unit}


class OnStoreError(Enum):
    """What a rule answers while the store does not."""

    ALLOW = "allow"
    DENY = "deny"
    LOCAL = "local"
    FAIL = "fail"  # the call fails, and Envoy's failure mode decides: the reference service's way


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """`name` is what users see; `label` is what metrics are labelled with; two rules are never equal.

    `metadata` is a JSON object to pass on with answers that let the request through.
    """

    name: str
    label: str
    budget: Budget
    is_reference: bool
    is_unlimited: bool = False
    is_shadow: bool = False
    is_quota: bool = False
    on_store_error: OnStoreError
    cost: int = 1
    replaces: tuple[str, ...] = ()
    replaceable_name: str = ""
    metadata: str = ""
    unit: Unit = field(init=False)
    window_s: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", UNIT_OF_US.get(self.budget.window_us, Unit.UNKNOWN))
        object.__setattr__(self, "window_s", max(1, -(-self.budget.window_us // 1_000_000)))


class Planned(NamedTuple):
    """What becomes of one descriptor: the rule that matched, and what to ask of its counter.

    No rule: nothing matched, or another rule replaced it. A rule without a take: unlimited, or the caller is exempt.
    """

    rule: Rule | None
    take: Take | None
    route: str = ""
