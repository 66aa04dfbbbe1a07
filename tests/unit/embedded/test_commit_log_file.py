"""The commit log's file where it cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded.sqlite.journal import SqliteJournal
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
