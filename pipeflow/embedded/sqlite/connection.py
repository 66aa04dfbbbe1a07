"""One SQLite connection on its own thread, used for what aiosqlite is: a first-in, first-out thread.

A whole group is one callable and so one hop; a statement at a time would be a hop each (20-140 us).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite

T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's thread with one method: run this function there, with the connection."""

    _handed_over = 0
    """Counted on the loop."""
    _ended = 0
    """Counted on the thread."""

    @property
    def busy(self) -> bool:
        """Whether the thread runs something, also for a caller that is gone, or is to."""
        return self._handed_over != self._ended

    async def run(self, function: Callable[[sqlite3.Connection], T], /) -> T:
        """What the function returns. Once handed over it runs to its end, also when the caller is cancelled."""
        return await self.start(function)

    def start(self, function: Callable[[sqlite3.Connection], T], /) -> asyncio.Future[T]:
        """Have it run there after all that was handed over before."""
        if not self._running or self._connection is None:
            raise ValueError("no active connection")
        connection = self._connection
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run() -> T:
            try:
                return function(connection)
            finally:
                self._ended += 1

        self._handed_over += 1
        self._tx.put_nowait((future, run))
        return future


def connect(path: Path) -> Connection:
    """A connection in autocommit mode: the writer says BEGIN and COMMIT itself."""

    def connector() -> sqlite3.Connection:
        return sqlite3.connect(str(path), isolation_level=None, check_same_thread=False, cached_statements=256)

    return Connection(connector, iter_chunk_size=64)
