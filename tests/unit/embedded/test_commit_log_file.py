"""The commit log's file where it cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.embedded.sqlite.logged import Logged
from pipeflow.embedded.sqlite.pending import Pending
from pipeflow.errors import Unavailable


async def test_a_link_in_its_place_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.db-log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match=r"a\.db-log: .*symbolic links"):
        await SqliteJournal(tmp_path / "a.db", VirtualClock(1000.0)).recover()
    assert not (tmp_path / "elsewhere").exists()


async def test_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", VirtualClock(1000.0))
    await journal.recover()
    for suffix in ("", "-wal"):
        shutil.copy(f"{tmp_path}/a.db{suffix}", f"{tmp_path}/b.db{suffix}")
    await journal.close(clean=True)
    (tmp_path / "b.db-log").mkdir()
    with pytest.raises(Unavailable, match=r"b\.db-log: Is a directory"):
        await SqliteJournal(tmp_path / "b.db", VirtualClock(1000.0)).recover()


def test_a_row_that_changed_often_before_a_crash_is_looked_for_once_under_each_of_its_keys() -> None:
    """A start would take for ever where a message was received and given back for as long as the log lasted."""
    ready, delayed = 5, 7
    pending = Pending()
    for key, old in ((ready, 3), *[(ready, ready)] * 9, (delayed, ready), *[(ready, delayed), (delayed, ready)] * 9):
        update = (key, None, None, b"", 0, old, None, None, 1.0)
        pending.take(Logged([], [update], [], {}, {}, [], [], [], {}, 0.0), 1, None, again=True)
    updates = pending.rest().updates
    assert [update[0] for update in updates] == [delayed] * len(updates)
    assert sorted(update[5] for update in updates) == [3, ready, delayed]
