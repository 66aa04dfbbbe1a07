"""What the room on the disk is reckoned from: pages of 8 KiB, and of 4 KiB in stores that were made with those."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.embedded.sqlite.room import BALLAST, CHECKPOINT_BYTES, LEAST_FREE, Room
from pipeflow.messages import Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology


@pytest.fixture(params=[4096, 8192])
def page(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


def test_free_pages_of_the_file_count_as_room_for_what_they_hold(
    tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "free", LEAST_FREE + BALLAST)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute("CREATE TABLE t (body BLOB)")
        connection.executemany("INSERT INTO t VALUES (zeroblob(100000))", [()] * 100)
        connection.execute("DELETE FROM t")
        connection.commit()
        (inside,) = connection.execute("PRAGMA freelist_count").fetchone()
        assert inside * page > 9_000_000
        room = Room(tmp_path / "a.db", 0)
        room.measure(connection)
        assert room.look(connection, 0) == inside * page


async def test_a_checkpoint_comes_after_as_many_bytes_whatever_the_pages(tmp_path: Path, page: int) -> None:
    path = tmp_path / "a.db"
    store = await open_store(f"sqlite:///{path}", clock=VirtualClock(1000.0))
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute("VACUUM")
    store = await open_store(f"sqlite:///{path}?log_bytes=0", clock=VirtualClock(1000.0))
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    assert isinstance(store, Kept)
    assert isinstance(store.journal, SqliteJournal)
    assert await store.journal.read(lambda connection: connection.execute("PRAGMA page_size").fetchone()) == (page,)
    for _ in range(30):
        await store.send("q", [Outgoing(bytes(300_000))])
    assert len(await store.receive("q", Want(30))) == 30
    assert CHECKPOINT_BYTES <= Path(f"{path}-wal").stat().st_size < CHECKPOINT_BYTES + 600_000
    await store.close()
