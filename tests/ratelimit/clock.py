"""A clock that only moves when it is told to."""

from __future__ import annotations

SECOND_US = 1_000_000.0
START_US = 1_699_999_200 * SECOND_US  # the beginning of an hour


class Clock:
    """Call it for microseconds since the epoch."""

    def __init__(self, now_us: float = START_US) -> None:
        self.now_us = now_us

    def __call__(self) -> float:
        return self.now_us

    def forward(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)
