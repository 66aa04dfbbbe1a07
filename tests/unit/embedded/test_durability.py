"""`full` syncs with every commit, `normal` within 100 ms of it; counted where the sync happens."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite import ahead
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.messages import Outgoing
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology


async def journal_of(path: Path, clock: VirtualClock, durability: str) -> tuple[Kept, SqliteJournal]:
    store = await open_store(f"sqlite:///{path}?durability={durability}", clock=clock)
    assert isinstance(store, Kept)
    assert isinstance(store.journal, SqliteJournal)
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    await clock.advance(10)
    return store, store.journal


async def test_normal_syncs_within_100_ms_of_the_first_commit_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock(1000.0)
    store, _ = await journal_of(tmp_path / "a.db", clock, "normal")
    syncs: list[float] = []
    sync = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(clock.now())
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    sent_at = clock.now()
    await store.send("q", [Outgoing(b"one")])
    for _ in range(5):
        # A trickle of commits does not put the sync off.
        await clock.advance(0.01)
        await store.send("q", [Outgoing(b"more")])
    assert syncs == []
    await clock.advance(0.06)
    assert [at - sent_at <= 0.1 for at in syncs] == [True, True], "the tables' log and the commit log"
    await clock.advance(5)
    assert len(syncs) == 2, "nothing to sync, no timer"
    await store.close()


async def test_full_has_nothing_left_to_sync(tmp_path: Path) -> None:
    clock = VirtualClock(1000.0)
    store, journal = await journal_of(tmp_path / "a.db", clock, "full")
    await store.send("q", [Outgoing(b"one")])
    assert journal.idle_at == float("inf")
    await store.close()


async def test_full_syncs_the_log_before_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock(1000.0)
    store, _ = await journal_of(tmp_path / "a.db", clock, "full")
    calls: list[str] = []
    write, sync = os.pwrite, os.fdatasync

    def written(fd: int, data: bytes, at: int) -> int:
        calls.append("write")
        return write(fd, data, at)

    def synced(fd: int) -> None:
        calls.append("sync")
        sync(fd)

    monkeypatch.setattr(os, "pwrite", written)
    monkeypatch.setattr(os, "fdatasync", synced)
    await store.send("q", [Outgoing(b"one")])
    assert calls == ["write", "sync"]
    await store.close()


async def test_full_syncs_the_tables_before_it_answers(tmp_path: Path) -> None:
    """SQLite syncs the WAL at commit when `synchronous` is FULL (2)."""
    clock = VirtualClock(1000.0)
    for durability, expected in (("full", 2), ("normal", 1)):
        store, journal = await journal_of(tmp_path / f"{durability}.db", clock, durability)
        rows = await journal._read(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
        assert rows == (expected,)
        await store.close()


async def test_normal_commits_on_the_loop_while_the_thread_rests_and_on_the_thread_behind_what_it_does(
    tmp_path: Path,
) -> None:
    clock = VirtualClock(1000.0)
    store, journal = await journal_of(tmp_path / "a.db", clock, "normal")
    connection = journal._connection
    assert connection is not None
    handed_over = connection._handed_over
    await store.send("q", [Outgoing(b"one")])
    assert connection._handed_over == handed_over
    release = threading.Event()
    reading = asyncio.create_task(journal._read(lambda connection: release.wait()))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert connection.busy, "the thread goes on, whoever waits for it"
    sending = asyncio.create_task(store.send("q", [Outgoing(b"two")]))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not sending.done()
    release.set()
    await sending
    assert connection._handed_over == handed_over + 2
    await store.send("q", [Outgoing(b"x" * 200_000)])
    assert connection._handed_over == handed_over + 3, "a large group would hold the loop up"
    await store.close()


async def test_normal_syncs_what_went_into_the_tables_before_the_log_that_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut is to take the end of what was committed, and no group out of the middle."""
    store, journal = await journal_of(tmp_path / "a.db", VirtualClock(1000.0), "normal")
    synced: list[str] = []
    sync = os.fdatasync

    def noted(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("-")[2])
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    await store.declare(Topology(queues=(QueueSpec("q"), QueueSpec("another"))))
    assert synced == []
    journal.idle_at = 0.0  # 80 ms have passed since, and nobody came to it
    await store.send("q", [Outgoing(b"one")])
    assert synced == ["wal", "log"]
    await store.close()


async def test_normal_syncs_nothing_for_a_reader_or_for_what_goes_into_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, journal = await journal_of(tmp_path / "a.db", VirtualClock(1000.0), "normal")
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    await store.send("q", [Outgoing(b"one")])
    await journal.load(1, 0, 10)
    await store.send("q", [Outgoing(b"two")])
    await store.declare(Topology(queues=(QueueSpec("q"), QueueSpec("another"))))
    assert syncs == []
    await store.close()


async def test_a_start_syncs_the_log_before_a_part_of_it_goes_into_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave rows of a group there whose frame is lost, and those of earlier ones not."""
    clock = VirtualClock(1000.0)
    path = tmp_path / "a.db"
    store, _ = await journal_of(path, clock, "normal")
    for number in range(5):
        await store.send("q", [Outgoing(b"%d" % number)])
    copy = copy_killed(path, tmp_path / "b.db")
    await store.close()
    monkeypatch.setattr(ahead, "PART", 2)
    calls: list[str] = []
    sync, put = os.fsync, SqliteJournal._put_some

    def synced(fd: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        sync(fd)

    def counted(journal: SqliteJournal, *part: Any) -> None:
        calls.append("part")
        put(journal, *part)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(SqliteJournal, "_put_some", counted)
    again, _ = await journal_of(copy, clock, "normal")
    assert calls.index("b.db-log") < calls.index("part")
    await again.close()
