"""Throughput over callers, a line a system, as an SVG: both axes logarithmic, a panel for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from _rounds import median

from _brokers.systems import PIPEFLOW, System

if TYPE_CHECKING:
    from _brokers.results import Cell, Rounds

WIDTH, HEIGHT = 960, 430
LEFT, TOP, PANEL, GAP, TALL = 60, 48, 250, 240, 320
LINE = 13
"""Pixels that a name needs."""


def picture(found: Mapping[Cell, Mapping[System, Rounds]], kinds: Mapping[str, str]) -> str:
    """Single calls only: batches are in the table."""
    singles = {callers: cell for (callers, batch), cell in found.items() if batch == 1}
    rates = {
        callers: {system: median([each["per_second"] for each in rounds.values()]) for system, rounds in cell.items()}
        for callers, cell in singles.items()
    }
    values = [rate for cell in rates.values() for rate in cell.values() if rate > 0]
    if not values:
        return ""
    low = floor(log10(min(values)))
    high = max(low + 1, ceil(log10(max(values))))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        '<text x="14" y="18" font-size="13">Messages a second: send, receive and acknowledge 1 KiB, each caller'
        " awaiting its own calls, singly</text>",
    ]
    for number, (kind, words) in enumerate(kinds.items()):
        panel = _Panel(LEFT + number * (PANEL + GAP), sorted(rates), low, high)
        parts += [*panel.frame(words), *panel.lines(rates, kind)]
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Panel:
    def __init__(self, left: int, callers: list[int], low: int, high: int) -> None:
        self._left, self._callers, self._low, self._high = left, callers, low, high

    def _x(self, callers: int) -> float:
        last = log10(self._callers[-1]) - log10(self._callers[0]) or 1.0
        return self._left + PANEL * (log10(callers) - log10(self._callers[0])) / last

    def _y(self, rate: float) -> float:
        return TOP + TALL * (self._high - log10(rate)) / (self._high - self._low)

    def frame(self, words: str) -> list[str]:
        parts = [f'<text x="{self._left}" y="{TOP - 10}" font-weight="bold">{escape(words)}</text>']
        for power in range(self._low, self._high + 1):
            y = self._y(10**power)
            parts.append(f'<path d="M{self._left} {y:.1f}h{PANEL}" stroke="#dddddd"/>')
            parts.append(f'<text x="{self._left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
        for callers in self._callers:
            x = self._x(callers)
            parts.append(f'<path d="M{x:.1f} {TOP}v{TALL}" stroke="#dddddd"/>')
            parts.append(f'<text x="{x:.1f}" y="{TOP + TALL + 16}" text-anchor="middle">{callers:,}</text>')
        middle = self._left + PANEL / 2
        parts.append(f'<text x="{middle}" y="{TOP + TALL + 34}" text-anchor="middle">callers</text>')
        return parts

    def lines(self, rates: Mapping[int, Mapping[System, float]], kind: str) -> list[str]:
        points_of: dict[System, list[tuple[float, float]]] = {}
        for callers in self._callers:
            for system, rate in rates[callers].items():
                if system.kind == kind and rate > 0:
                    points_of.setdefault(system, []).append((self._x(callers), self._y(rate)))
        parts, free = [], 0.0
        # From above, by where each line ends.
        for system, points in sorted(points_of.items(), key=lambda each: each[1][-1][1]):
            thick = 3 if system.name == PIPEFLOW[kind] else 1.5
            drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{system.color}" stroke-width="{thick}"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{thick}" fill="{system.color}"/>' for x, y in points]
            # Names keep off each other; a thin line leads from where the name would be.
            x, y = points[-1]
            free = max(y, free + LINE)
            parts.append(
                f'<path d="M{x + 3:.1f} {y:.1f}L{x + 16:.1f} {free:.1f}" stroke="{system.color}" fill="none"/>'
            )
            weight = ' font-weight="bold"' if thick > 2 else ""
            parts.append(
                f'<text x="{x + 19:.1f}" y="{free + 4:.1f}" fill="{system.color}"{weight}>{escape(system.name)}</text>'
            )
        return parts
