"""A stand-in for the broker around a log: one SQLite connection in memory, a commit per call, a snapshot per commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from pipeflow.audit import Entry
from pipeflow.clock import VirtualClock
from pipeflow.embedded.auditing import Trail
from pipeflow.embedded.log import Log
from pipeflow.embedded.sqlite import streams
from pipeflow.specs import StreamSpec

T = TypeVar("T")


class Group(Struct):
    streams: list[object] = []
    sync: bool = False
    size: int = 0
    audit: dict[int, Entry] = {}


class Remembering:
    def __init__(self, instant: bool, connection: sqlite3.Connection) -> None:
        self.instant = instant
        self._connection = connection

    async def read(self, question: Callable[..., T], *arguments: object) -> T:
        return question(self._connection, *arguments)


class Owner:
    """Commits at once; `snapshot` is what a crash at this moment would leave."""

    store_id = "3f9a0c12"
    boot = 1

    def __init__(self, snapshot: bytes | None = None, *, at: float = 1000.0, instant: bool = False) -> None:
        self.clock = VirtualClock(at)
        self.gathering = Group()
        self.trail = Trail(self)  # type: ignore[arg-type]  # entries are written here, and read by nobody
        self.syncs: list[bool] = []
        self.on_commit: Callable[[], None] = lambda: None
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.journal = Remembering(instant, self.connection)
        if snapshot is None:
            for table in streams.TABLES:
                self.connection.execute(table)
        else:
            self.connection.deserialize(snapshot)

    def open(self, *specs: StreamSpec) -> Log:
        """The log as it is after opening the store."""
        log = Log(self, streams.recover(self.connection))
        for spec in specs:
            log.declare(spec)
        return log

    async def committed(self) -> None:
        """One transaction with everything gathered."""
        changes, self.gathering.streams = self.gathering.streams, []
        self.syncs.append(self.gathering.sync)
        self.gathering.sync = False
        if changes:
            self.connection.execute("BEGIN")
            streams.write(self.connection, changes, bytearray())
            self.connection.execute("COMMIT")
            self.on_commit()

    def written_behind(self) -> None:
        """The next commit takes it."""

    @property
    def snapshot(self) -> bytes:
        return self.connection.serialize()

    def count(self, table: str) -> int:
        (rows,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # a test's own word
        return int(rows)
