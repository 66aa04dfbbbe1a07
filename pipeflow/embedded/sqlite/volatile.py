"""The catalogue of streams that are in memory only: the same tables and statements, in a database that forgets."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from pipeflow.embedded.records import CatalogueChange, Committed
from pipeflow.embedded.sqlite import catalogue

T = TypeVar("T")

KEPT = 100_000
"""Files of one stream that are remembered; the oldest are forgotten then, a thousandth at a time. Those that manifests
tell of are all remembered until they are merged and deleted: `target_bytes` bounds them."""


class Volatile:
    """Takes what a journal would take. Each call takes microseconds, so nobody waits for it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._counts: dict[str, int] = {}
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for table in catalogue.TABLES:
            self._connection.execute(table)

    def write(self, change: CatalogueChange) -> None:
        """Remember this."""
        catalogue.write(self._connection, change)
        if not isinstance(change, Committed) or change.segment.manifest_name:
            # A swap tells of a partition's every file and the manifests before it go: one that is forgotten is lost.
            return
        stream = change.segment.stream
        count = self._counts.get(stream, 0) + len(change.manifest.objects)
        if count > self._kept:
            surplus = max(count - self._kept, self._kept // 1_000)
            catalogue.forget_oldest(self._connection, stream, surplus)
            count -= surplus
        self._counts[stream] = count

    def delete(self, stream: str) -> None:
        """Forget everything about a stream."""
        for statement in catalogue.DELETE_ALL_OF_STREAM:
            self._connection.execute(statement, (stream,))
        self._counts.pop(stream, None)

    def read(self, question: Callable[..., T], *arguments: object) -> T:
        """What the tables answer."""
        return question(self._connection, *arguments)
