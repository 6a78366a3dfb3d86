"""Curves of figures that grow with a size, as one SVG: both axes logarithmic, so a straight line is a power law."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from benchmarks.result import Result

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 300, 70, 30, 40
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")

Curves = dict[str, list[tuple[float, float]]]


def curves(results: Iterable[Result]) -> Curves:
    """The points of each curve, by size."""
    found: Curves = {}
    for one in results:
        if one.curve and one.size:
            found.setdefault(f"{one.curve} ({one.unit})", []).append((one.size, one.measured))
    return {name: sorted(points) for name, points in found.items()}


def svg(found: Curves) -> str:
    """The picture. Raises ValueError where there is nothing to draw."""
    points = [point for some in found.values() for point in some]
    if not points:
        raise ValueError("no figure has a size")
    across, up = _scale([x for x, _ in points]), _scale([y for _, y in points])
    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT + 20 * len(found)}" fill="white"/>']
    for low, high, place, is_across in ((*across, _x, True), (*up, _y, False)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        parts += (_tick(10.0**power, place(power, low, high), is_across=is_across) for power in powers)
    for number, (name, some) in enumerate(found.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [(_x(math.log10(x), *across), _y(math.log10(y), *up)) for x, y in some]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed)
        at = _HEIGHT + 20 * number + 8
        parts.append(f'<text x="{_LEFT}" y="{at}" fill="{colour}">{escape(name)}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT + 20 * len(found)}"'
    font = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{"".join(parts)}</svg>\n'


def _scale(values: list[float]) -> tuple[float, float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    return math.floor(low), max(math.ceil(high), math.floor(low) + 1)


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - 20)


def _y(value: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _tick(value: float, at: float, *, is_across: bool) -> str:
    text = f"{value:,g}"
    if is_across:
        line = f'x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        label = f'x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle"'
    else:
        line = f'x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}"'
        label = f'x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end"'
    return f'<line {line} stroke="#d0d7de"/><text {label} fill="#57606a">{text}</text>'
