"""A store of an older format is brought to the new one, a step a transaction, after a copy of it was made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded.sqlite import schema
from pipeflow.errors import PipeflowError
from pipeflow.messages import Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

NEWER = schema.VERSION + 1


async def opened(path: Path) -> Store:
    return await open_store(f"sqlite:///{path}", clock=VirtualClock(1000.0))


@pytest.fixture
async def old(tmp_path: Path) -> Path:
    """A store of today's format with one message."""
    path = tmp_path / "old.db"
    store = await opened(path)
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    await store.send("q", [Outgoing(b"kept")])
    await store.close()
    return path


def version(path: Path) -> int:
    reader = sqlite3.connect(path)
    (found,) = reader.execute("PRAGMA user_version").fetchone()
    reader.close()
    return int(found)


async def test_an_older_store_is_migrated_and_a_copy_kept(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "VERSION", NEWER)
    monkeypatch.setitem(schema.MIGRATIONS, NEWER - 1, ("ALTER TABLE sources ADD COLUMN note TEXT",))
    store = await opened(old)
    assert [delivery.body for delivery in await store.receive("q", Want())] == [b"kept"]
    await store.close()
    assert version(old) == NEWER
    assert version(old.with_name(f"old.db.v{NEWER - 1}.backup")) == NEWER - 1


async def test_a_step_that_fails_leaves_the_old_format_whole(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(schema, "VERSION", NEWER)
        newer.setitem(schema.MIGRATIONS, NEWER - 1, ("CREATE TABLE half (x)", "INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(PipeflowError):
            await opened(old)
    assert version(old) == NEWER - 1
    store = await opened(old)
    assert [delivery.body for delivery in await store.receive("q", Want())] == [b"kept"]
    await store.close()
    reader = sqlite3.connect(old)
    assert reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    reader.close()
