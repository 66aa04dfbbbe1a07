"""Where the boxes of a graph go: in columns from left to right, each as near as it can be to what it is joined to.

A column is a longest path's length from the beginning; an edge that goes back is left out of that count. Edges over
several columns pass through points of their own in between, so that they do not run across boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

GAP_X = 118.0
GAP_Y = 22.0
SWEEPS = 12
"""Passes over the columns; drawings of twenty boxes stop moving after six."""


class Spot(Struct):
    """One box, or a point that an edge passes through (width 0)."""

    key: str
    column: int
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    """Of its middle."""


class Layout(Struct, frozen=True):
    """Every spot by key, the points each edge passes through, and the edges that go back."""

    spots: dict[str, Spot]
    passes: dict[int, list[str]]
    back: set[int]
    width: float
    height: float


def laid_out(sizes: Mapping[str, tuple[float, float]], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place boxes of these sizes (width, height); edges by their number in the sequence."""
    back = _back_edges(list(sizes), edges)
    columns = _columns(sizes, edges, back)
    spots = {key: Spot(key, columns[key], *size) for key, size in sizes.items()}
    passes = _passing(spots, edges, back)
    links = _links(edges, passes, back)
    rows = _ordered(spots, links)
    _place_columns(rows)
    _place_rows(rows, links, spots)
    top = min((spot.y - spot.height / 2 for spot in spots.values()), default=0.0)
    for spot in spots.values():
        spot.y -= top
    return Layout(
        spots,
        passes,
        back,
        max((spot.x + spot.width / 2 for spot in spots.values()), default=0.0),
        max((spot.y + spot.height / 2 for spot in spots.values()), default=0.0),
    )


def _back_edges(keys: Sequence[str], edges: Sequence[tuple[str, str]]) -> set[int]:
    """Edges that close a cycle, found depth first from what nothing leads to."""
    out: dict[str, list[tuple[int, str]]] = {key: [] for key in keys}
    entered = {target for source, target in edges if source != target}
    for number, (source, target) in enumerate(edges):
        out[source].append((number, target))
    back: set[int] = set()
    state: dict[str, int] = {}

    def visit(root: str) -> None:
        state[root] = 1
        path = [(root, iter(out[root]))]
        while path:
            key, rest = path[-1]
            step = next(rest, None)
            if step is None:
                state[key] = 2
                path.pop()
            elif state.get(step[1]) == 1:
                back.add(step[0])
            elif step[1] not in state:
                state[step[1]] = 1
                path.append((step[1], iter(out[step[1]])))

    for key in sorted(keys, key=lambda key: key in entered):
        if key not in state:
            visit(key)
    return back


def _columns(sizes: Mapping[str, object], edges: Sequence[tuple[str, str]], back: set[int]) -> dict[str, int]:
    columns = dict.fromkeys(sizes, 0)
    for _ in sizes:
        moved = False
        for number, (source, target) in enumerate(edges):
            if number not in back and columns[target] <= columns[source]:
                columns[target] = columns[source] + 1
                moved = True
        if not moved:
            break
    return columns


def _passing(spots: dict[str, Spot], edges: Sequence[tuple[str, str]], back: set[int]) -> dict[int, list[str]]:
    passes: dict[int, list[str]] = {}
    for number, (source, target) in enumerate(edges):
        passes[number] = []
        if number in back:
            continue
        for column in range(spots[source].column + 1, spots[target].column):
            key = f"{number}@{column}"
            spots[key] = Spot(key, column, 0.0, 10.0)
            passes[number].append(key)
    return passes


def _links(edges: Sequence[tuple[str, str]], passes: Mapping[int, list[str]], back: set[int]) -> list[tuple[str, str]]:
    links: list[tuple[str, str]] = []
    for number, (source, target) in enumerate(edges):
        if number not in back:
            stations = [source, *passes[number], target]
            links += pairwise(stations)
    return links


def _neighbours(links: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for source, target in links:
        before.setdefault(target, []).append(source)
        after.setdefault(source, []).append(target)
    return before, after


def _ordered(spots: Mapping[str, Spot], links: Sequence[tuple[str, str]]) -> list[list[Spot]]:
    """The columns, each in the order that crosses few edges: by the mean place of neighbours, to and fro."""
    rows: list[list[Spot]] = [[] for _ in range(1 + max((spot.column for spot in spots.values()), default=-1))]
    for spot in spots.values():
        rows[spot.column].append(spot)
    before, after = _neighbours(links)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            place = {spot.key: number for each in rows for number, spot in enumerate(each)}
            beside = before if forward else after
            row.sort(
                key=lambda spot, place=place, beside=beside: _mean(  # type: ignore[misc]  # bound in the loop
                    [place[key] for key in beside.get(spot.key, [])], place[spot.key]
                )
            )
    return rows


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _place_columns(rows: Sequence[Sequence[Spot]]) -> None:
    x = 0.0
    for row in rows:
        width = max(spot.width for spot in row)
        for spot in row:
            spot.x = x + width / 2
        x += width + GAP_X


def _place_rows(rows: Sequence[Sequence[Spot]], links: Sequence[tuple[str, str]], spots: Mapping[str, Spot]) -> None:
    before, after = _neighbours(links)
    for row in rows:
        _spread(row, [0.0] * len(row))
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            first, second = (before, after) if forward else (after, before)
            wished = [
                _mean([spots[key].y for key in first.get(spot.key, []) or second.get(spot.key, [])], spot.y)
                for spot in row
            ]
            _spread(row, wished)


def _spread(row: Sequence[Spot], wished: Sequence[float]) -> None:
    """Put a column's spots near where they wish to be, in their order and apart from each other."""
    blocks: list[tuple[float, list[Spot]]] = []
    for spot, wish in zip(row, wished, strict=True):
        blocks.append((wish, [spot]))
        # A block that reaches into the one above joins it, and both stand around the mean of their wishes.
        while len(blocks) > 1 and _bottom(blocks[-2]) + GAP_Y > _top(blocks[-1]):
            low, high = blocks.pop(), blocks.pop()
            number = len(low[1]) + len(high[1])
            middle = (low[0] * len(low[1]) + high[0] * len(high[1])) / number
            blocks.append((middle, high[1] + low[1]))
    for block in blocks:
        y = _top(block)
        for spot in block[1]:
            spot.y = y + spot.height / 2
            y += spot.height + GAP_Y


def _extent(block: tuple[float, list[Spot]]) -> float:
    return sum(spot.height for spot in block[1]) + GAP_Y * (len(block[1]) - 1)


def _top(block: tuple[float, list[Spot]]) -> float:
    return block[0] - _extent(block) / 2


def _bottom(block: tuple[float, list[Spot]]) -> float:
    return block[0] + _extent(block) / 2
