"""How many segments of one stream are in hand: one is written while others become objects, as many as cores can do."""

from __future__ import annotations

import os
from typing import Final

from pipeflow.specs import TABULAR

LEAST: Final = 2
"""Segments that are compressed at once on any machine. With one, a compressor that ends waits for the loop, which is
busy with those who fill the stream: 0.90 of one thread's limit at 1 KiB."""

MOST: Final = 8
"""And on machines with more cores: each holds its content twice, and threads are shared by all streams."""


def ahead(format: str, cores: int) -> int:
    """Segments in hand on so many cores. Rows are made by the interpreter, which does one thing at a time."""
    return 1 + (1 if format in TABULAR else min(max(cores, LEAST), MOST))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
