"""Draws the throughput of a run of `year.py`: records a second, over time, one line for each thing that happened.

    python examples/year/draw.py DIRECTORY/throughput.json year.svg

Needs matplotlib: pip install 'pipeflow[plots]'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

LABELS = {
    "published": "published by the source",
    "table": "delivered as Parquet",
    "lines": "delivered as JSON lines",
}
WINDOW = 1.0
"""Seconds over which a rate is averaged."""


def rates(records: Sequence[int], step: float) -> list[float]:
    """Records a second at each step, over the window that ends there."""
    width = max(1, round(WINDOW / step))
    return [sum(records[max(0, end - width) : end]) / (min(width, end) * step) for end in range(1, len(records) + 1)]


def draw(source: Path, target: Path) -> None:
    """One picture; equal runs give equal files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "year"
    from matplotlib import pyplot

    run = json.loads(source.read_text())
    step = run["step"]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for name, label in LABELS.items():
        line = rates(run["records"][name], step)
        axes.plot([step * (n + 1) for n in range(len(line))], line, label=label, linewidth=1.4)
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("records a second")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None})


def main() -> int:
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
