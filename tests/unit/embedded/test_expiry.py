"""Times to live on disk: what lies behind the hot head ends in time, also after a restart, and costs others nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded import ending
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology

QUEUES = Topology(
    topics=(TopicSpec("news"),),
    queues=(QueueSpec("q", retention=1e6), QueueSpec("other", retention=1e6), QueueSpec("line", fifo=True)),
    subscriptions=(Subscription("news", "queue", "q"), Subscription("news", "queue", "other")),
)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


async def opened(path: Path, clock: VirtualClock) -> Kept:
    store = await open_store(f"sqlite:///{path}?hot_messages=3", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(QUEUES)
    await clock.settle()
    return store


async def counts(store: Kept, queue: str = "q") -> tuple[int, int, int]:
    stats = next(each for each in (await store.stats()).queues if each.name == queue)
    return stats.ready, stats.delayed, stats.expired


def rows(path: Path) -> tuple[int, int]:
    """(messages, shared bodies) on disk."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM bodies)").fetchone()
    connection.close()
    return int(found[0]), int(found[1])


async def test_what_ended_while_the_store_was_closed_is_counted_when_it_opens(
    tmp_path: Path, clock: VirtualClock
) -> None:
    path = tmp_path / "store.db"
    store = await opened(path, clock)
    await store.send("q", [Outgoing(b"kept") for _ in range(10)])
    await store.send("q", [Outgoing(b"short", ttl=30) for _ in range(10)])
    await store.send("q", [Outgoing(b"delayed", delay=200, ttl=300) for _ in range(10)])
    await store.send("line", [Outgoing(b"grouped", group=f"g{n}", ttl=30) for n in range(10)])
    await store.close()
    await clock.advance(30)
    store = await opened(path, clock)
    assert await counts(store) == (10, 10, 10)
    assert await counts(store, "line") == (0, 0, 10)
    await store.close()
    await clock.advance(270)
    store = await opened(path, clock)
    assert await counts(store) == (10, 0, 20)
    await store.close()
    assert rows(path) == (10, 0)


async def test_the_rows_and_bodies_of_what_ended_leave_the_disk(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "store.db"
    store = await opened(path, clock)
    await store.publish("news", [Outgoing(b"x" * 1000, ttl=30) for _ in range(20)])
    await clock.advance(30)
    assert await counts(store) == await counts(store, "other") == (0, 0, 20)
    await store.close()
    assert rows(path) == (0, 0)


async def test_more_than_one_look_takes_at_a_time_end_too(
    tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ENDED", 4)
    monkeypatch.setattr(ending, "LEAST", 2)
    store = await opened(tmp_path / "store.db", clock)
    await store.send("q", [Outgoing(b"short", ttl=30) for _ in range(33)])
    await store.send("q", [Outgoing(b"kept")])
    await clock.advance(30)
    assert await counts(store) == (1, 0, 33)
    await store.close()


@pytest.mark.parametrize("which", [{2}, {15}], ids=["left memory", "never was there"])
async def test_a_delayed_message_ends_on_disk_before_it_is_due(
    tmp_path: Path, clock: VirtualClock, which: set[int]
) -> None:
    store = await opened(tmp_path / "store.db", clock)
    copies = Subscription("later", "queue", "late", raw=True)
    await store.declare(
        Topology(topics=(TopicSpec("later"),), queues=(QueueSpec("late", delay=60),), subscriptions=(copies,))
    )
    for n in range(20):
        await store.publish("later", [Outgoing(b"m", ttl=20 if n in which else None)])
    await clock.advance(20)
    assert await counts(store, "late") == (0, 19, 1)
    await store.close()


async def test_a_damaged_row_does_not_keep_others_from_ending(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "store.db"
    store = await opened(path, clock)
    await store.send("q", [Outgoing(b"short", ttl=30) for _ in range(20)])
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE messages SET crc = crc + 1 WHERE key = (SELECT max(key) FROM messages)")
    connection.commit()
    connection.close()
    store = await opened(path, clock)
    await clock.advance(30)
    assert await store.receive("q", Want()) == []
    stats = (await store.stats()).queues[0]
    assert (stats.ready, stats.expired, stats.quarantined) == (0, 19, 1)
    await store.close()


async def test_a_purge_takes_what_is_about_to_end(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "store.db", clock)
    await store.send("q", [Outgoing(b"short", ttl=30) for _ in range(20)])
    assert await store.purge("q") == 20
    await store.send("q", [Outgoing(b"new", ttl=60) for _ in range(20)])
    await clock.advance(30)
    assert await counts(store) == (20, 0, 0)
    await clock.advance(30)
    assert await counts(store) == (0, 0, 20)
    await store.close()


async def test_a_queue_that_never_saw_a_time_to_live_is_looked_at_when_retention_ends(
    tmp_path: Path, clock: VirtualClock
) -> None:
    path = tmp_path / "store.db"
    store = await opened(path, clock)
    await store.send("q", [Outgoing(b"m") for _ in range(20)])
    await store.close()
    store = await opened(path, clock)
    assert store.nouns.head("q").tail.ending.at == 1000.0 + 1e6
    await store.close()


async def test_ends_that_were_acknowledged_are_forgotten(clock: VirtualClock) -> None:
    """A day's time to live keeps nothing in memory of what was handled in a second."""
    store = await open_store("memory://", clock=clock)
    await store.declare(QUEUES)
    for _ in range(120):
        await store.send("q", [Outgoing(b"m", ttl=86_400) for _ in range(100)])
        taken = await store.receive("q", Want(100))
        await store.settle("q", [Ack(delivery.receipt) for delivery in taken])
    assert len(store.nouns.head("q").state._expiring) <= 5000  # type: ignore[attr-defined]
    await store.close()


async def test_a_store_of_version_2_opens_with_its_messages(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("version_2.sql").read_text())
    connection.close()
    store = await opened(path, clock)
    assert await counts(store) == (12, 2, 0)
    await store.send("q", [Outgoing(b"short", ttl=30)])
    await clock.advance(30)
    assert await counts(store) == (12, 2, 1)
    taken = await store.receive("q", Want(20))
    while len(taken) < 12:
        taken = [*taken, *(await store.receive("q", Want(20)))]
    assert [delivery.body for delivery in taken] == [b"old%d" % n for n in range(12)]
    await store.close()
