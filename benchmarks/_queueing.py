"""The queues that are compared, behind one face: pipeflow's stores, and plain aiosqlite a statement at a time.

Plain aiosqlite is what one writes first, with what is free of cost done right: one connection in autocommit mode and
WAL, a statement and so a commit of its own for each insert, claim and delete, one hop of the thread for each, a partial
index for the claim, and the same `PRAGMA synchronous`. A batch is one statement over many rows.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol

import aiosqlite

from pipeflow.messages import Ack, Delivery, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

BODY = bytes(range(256)) * 4
STORES = ("memory://", "normal", "plain normal", "full", "plain full")
IN_TABLES = ("tables normal", "tables full")
"""Without the commit log: every group is committed in the tables."""
FILL = 500
PLAIN = """
    CREATE TABLE jobs (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, claimed_at REAL, body BLOB NOT NULL);
    CREATE INDEX jobs_ready ON jobs (id) WHERE state = 0;
"""


class Queueing(Protocol):
    """A durable queue: each call returns when what it did survives a crash."""

    waits: bool
    """Whether `take` itself waits for messages."""

    instant: bool
    """Whether its calls never suspend: callers then take turns of their own accord."""

    async def fill(self, count: int) -> None: ...

    def send(self, count: int) -> Awaitable[object]: ...

    def take(self, limit: int) -> Awaitable[Sequence[Any]]: ...

    def ack(self, taken: Sequence[Any]) -> Awaitable[object]: ...

    async def close(self) -> None: ...


class Pipeflow:
    """A queue of a pipeflow store."""

    waits = True

    def __init__(self, store: Store) -> None:
        self.store = store
        self.instant = not store.features.durable
        self._send = store.send
        self._receive = store.receive
        self._settle = store.settle

    async def fill(self, count: int) -> None:
        for start in range(0, count, FILL):
            await self._send("q", [Outgoing(BODY)] * min(FILL, count - start))

    def send(self, count: int) -> Awaitable[object]:
        return self._send("q", [Outgoing(BODY)] * count)

    def take(self, limit: int) -> Awaitable[Sequence[Delivery]]:
        return self._receive("q", Want(limit, wait=0.2))

    def ack(self, taken: Sequence[Delivery]) -> Awaitable[object]:
        return self._settle("q", [Ack(delivery.receipt) for delivery in taken])

    async def close(self) -> None:
        await self.store.close()


class Plain:
    """A queue as a table, a statement at a time."""

    waits = False
    instant = False

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute_fetchall

    async def fill(self, count: int) -> None:
        await self._execute(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?)"
            " INSERT INTO jobs (state, body) SELECT 0, ? FROM n",
            (count, BODY),
        )

    def send(self, count: int) -> Awaitable[object]:
        rows = ", ".join(["(0, ?)"] * count)
        return self._execute(f"INSERT INTO jobs (state, body) VALUES {rows}", [BODY] * count)  # noqa: S608  # placeholders

    async def take(self, limit: int) -> Sequence[int]:
        rows = await self._execute(
            "UPDATE jobs SET state = 1, claimed_at = ?"
            " WHERE id IN (SELECT id FROM jobs WHERE state = 0 ORDER BY id LIMIT ?) RETURNING id, body",
            (time.time(), limit),
        )
        return [row[0] for row in rows]

    def ack(self, taken: Sequence[int]) -> Awaitable[object]:
        marks = ", ".join(["?"] * len(taken))
        return self._execute(f"DELETE FROM jobs WHERE id IN ({marks})", list(taken))  # noqa: S608  # placeholders

    async def close(self) -> None:
        await self._connection.close()


async def open_queue(name: str, folder: Path) -> Queueing:
    """One of STORES or IN_TABLES, empty, with its file in `folder`."""
    if name.startswith("plain"):
        return Plain(await plain(folder, name.removeprefix("plain "), PLAIN))
    store = await open_store(url(name, folder))
    await store.declare(Topology(queues=(QueueSpec("q", max_in_flight=1_000_000),)))
    return Pipeflow(store)


def url(name: str, folder: Path) -> str:
    if name == "memory://":
        return name
    durability = name.removeprefix("tables ")
    return f"sqlite:///{folder}/pipeflow.db?durability={durability}" + ("&log_bytes=0" if durability != name else "")


async def plain(folder: Path, synchronous: str, tables: str) -> aiosqlite.Connection:
    """aiosqlite as it comes, in autocommit mode and WAL, at a setting of `synchronous`."""
    connection = await aiosqlite.connect(folder / "plain.db", isolation_level=None)
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute(f"PRAGMA synchronous = {synchronous.upper()}")
    await connection.executescript(tables)
    return connection
