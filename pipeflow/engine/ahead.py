"""How many segments of one stream are in hand: one is written while others become objects, as many as cores can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from pipeflow.formats.columns import flat
from pipeflow.messages import Column
from pipeflow.specs import COLUMNAR

LEAST: Final = 2
"""Segments that are compressed at once on any machine. With one, a compressor that ends waits for the loop, which is
busy with those who fill the stream: 0.90 of one thread's limit at 1 KiB."""

MOST: Final = 8
"""And on machines with more cores: each holds its content twice, and threads are shared by all streams."""


def ahead(format: str, columns: Sequence[Column], cores: int) -> int:
    """Segments in hand on so many cores. Rows that the interpreter makes are made one at a time."""
    alone = format == "csv" or (format in COLUMNAR and not flat(columns))
    return 1 + (1 if alone else min(max(cores, LEAST), MOST))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
