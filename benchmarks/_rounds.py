"""What the benchmarks share: an event loop of the same make for everything compared, medians, and tables to read."""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

T = TypeVar("T")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed, for both sides of every comparison."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def alone(work: Coroutine[object, object, T]) -> T:
    """Run something in a loop of its own, on a heap that the last one left nothing on."""
    gc.collect()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def quantile(ordered: Sequence[float], part: float) -> float:
    """The value that `part` of an ordered sequence is at or under."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people, where it does not disturb the JSON."""
    texts = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in texts) for n in range(len(columns))]
    print(f"\n{title}", file=sys.stderr)
    for line in texts:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip(), file=sys.stderr)
