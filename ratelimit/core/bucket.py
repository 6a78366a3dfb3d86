"""The three ways of counting: pure arithmetic on a counter's state, with the time passed in.

Time is in microseconds since the epoch, as a float. A token bucket's level is kept in units of tokens times
microseconds (one request costs `window_us` units, `requests` units drain each microsecond), so that every step is a
whole number and doubles are exact up to 2^53: the Lua script in `store/take.lua` does the same arithmetic and reaches
the same bits. Beyond that the error is below one part in 10^12, which `_SLACK` forgives.

A state is a tuple of floats: (level, time, capacity) for a token bucket, (count, window number, requests) for a fixed
window, (count, count before, window number, requests) for a sliding one. None is a counter nobody asked yet.
"""

from __future__ import annotations

from math import floor
from typing import NamedTuple

from ratelimit.core.budget import FORCED, GREEDY, RESCALES, Budget, Kind

State = tuple[float, ...]
_SLACK = 1 + 1e-12


class Step(NamedTuple):
    """What a take did: the new state (the old one where nothing changed), and how long it matters."""

    is_over: bool
    remaining: int
    wait_us: float
    reset_us: float
    state: State | None
    lifetime_us: float


def take(budget: Budget, state: State | None, hits: int, now_us: float, *, forced: bool = False) -> Step:
    """Asks for `hits`; 0 only looks, less than 0 gives back."""
    flags = budget.flags | FORCED if forced else budget.flags
    match budget.kind:
        case Kind.TOKEN_BUCKET:
            return _token_bucket(budget, state, hits, now_us, flags)
        case Kind.FIXED_WINDOW:
            return _fixed_window(budget, state, hits, now_us, flags)
        case Kind.SLIDING_WINDOW:
            return _sliding_window(budget, state, hits, now_us, flags)


def _token_bucket(budget: Budget, state: State | None, hits: int, now_us: float, flags: int) -> Step:
    rate, cost = float(budget.requests), float(budget.window_us)
    capacity = budget.burst * cost
    level = 0.0
    if state is not None:
        level, then, held = state
        if held != capacity and flags & RESCALES:
            level = level * capacity / held
        if now_us > then:
            level = max(0.0, level - (now_us - then) * rate)
        else:
            now_us = then  # a clock that steps back gives nothing
    asked = hits * cost
    is_over = level + (asked if hits else cost) > capacity * _SLACK
    if hits < 0:
        is_over, level = False, max(0.0, level + asked)
    elif hits and (not is_over or flags & FORCED):
        level += asked
    left = max(0, floor((capacity * _SLACK - level) / cost))
    if is_over:
        beyond = level + (cost if flags & FORCED else max(asked, cost)) - capacity
        wait_us = min(beyond, level) / rate if rate else cost
    else:
        wait_us = (level % cost) / rate if level % cost else (cost / rate if level else 0.0)
    reset_us = level / rate if rate else cost
    return Step(is_over, left, wait_us, reset_us, (level, now_us, capacity) if level else None, reset_us)


def _fixed_window(budget: Budget, state: State | None, hits: int, now_us: float, flags: int) -> Step:
    window, requests = float(budget.window_us), float(budget.requests)
    number = now_us // window
    count = 0.0
    if state is not None and state[1] >= number:
        count, number, held = state
        if held != requests and flags & RESCALES and held:
            count = count * requests / held
    is_over = count + hits > requests
    if hits == 0 and not flags & GREEDY:
        is_over = count + 1 > requests
    if hits < 0:
        is_over, count = False, max(0.0, count + hits)
    elif hits and (not is_over or flags & (GREEDY | FORCED)):
        count += hits
    left = max(0, floor(requests - count))
    end_us = (number + 1) * window - now_us
    return Step(is_over, left, end_us, end_us, (count, number, requests) if count else None, end_us)


def _sliding_window(budget: Budget, state: State | None, hits: int, now_us: float, flags: int) -> Step:
    window, requests = float(budget.window_us), float(budget.requests)
    number = now_us // window
    count = before = 0.0
    if state is not None:
        count, before, then, held = state
        if then < number:
            before = count if then == number - 1 else 0.0
            count = 0.0
        else:
            number = then
        if held != requests and flags & RESCALES and held:
            count, before = count * requests / held, before * requests / held
    elapsed = max(0.0, now_us - number * window)
    carried = before * (window - elapsed) / window
    used = count + carried
    is_over = used + (hits or 1) > requests * _SLACK
    if hits < 0:
        is_over, count = False, max(0.0, count + hits)
    elif hits and (not is_over or flags & (GREEDY | FORCED)):
        count += hits
    used = count + carried
    left = max(0, floor(requests * _SLACK - used))
    wait_us = _sliding_wait_us(count, before, elapsed, window, requests, max(hits, 1)) if is_over else window - elapsed
    reset_us = 2 * window - elapsed if count else window - elapsed
    new = (count, before, number, requests) if count or before else None
    return Step(is_over, left, wait_us, reset_us, new, reset_us)


def _sliding_wait_us(count: float, before: float, elapsed: float, window: float, requests: float, hits: int) -> float:
    """The time until `hits` more fit: while the window before fades, or else while this one does."""
    room = requests - hits
    if room < 0:
        return 2 * window - elapsed
    if count <= room:
        return max(0.0, window * (1 - (room - count) / before) - elapsed) if before else 0.0
    return window - elapsed + window * (1 - room / count)
