"""Retention of what only the disk has: it is counted when it ends, in whatever order that is, and others are not.

The head has three messages. Rows that are in line end in the order of their places; those out of line are marked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from gated_store import Gate, turns
from msgspec.structs import replace
from older_store import BEFORE_7

from pipeflow.clock import VirtualClock
from pipeflow.embedded import ending
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Bury, Defer, Delivery, Outgoing, Want
from pipeflow.protocols import QueueStats
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.webhooks import REPLAYED

RETENTION = 100.0
LINE = QueueSpec("line", retention=RETENTION, max_receives=None)
GROUPS = QueueSpec("groups", fifo=True, retention=RETENTION, max_receives=None)
BOTH = pytest.mark.parametrize("queue", ["line", "groups"])


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def opened(path: Path, clock: VirtualClock, *queues: QueueSpec, hot: int = 3) -> Kept:
    store = await open_store(f"sqlite:///{path}?hot_messages={hot}", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(Topology(queues=queues or (LINE, GROUPS)))
    await clock.settle()
    return store


async def send(store: Kept, queue: str, count: int, **options: Any) -> None:
    grouped = queue == "groups"
    batch = [Outgoing(b"%d" % n, group=f"g{n % 3}" if grouped else None, **options) for n in range(count)]
    await store.send(queue, batch)


async def stats(store: Kept, queue: str = "line") -> QueueStats:
    return next(each for each in (await store.stats()).queues if each.name == queue)


async def counts(store: Kept, queue: str = "line") -> tuple[int, int, int]:
    found = await stats(store, queue)
    return found.ready, found.delayed, found.expired


async def take(store: Kept, queue: str, limit: int = 1) -> list[Delivery]:
    return list(await store.receive(queue, Want(limit)))


async def marked(store: Kept) -> list[float]:
    """The moments of the rows that are out of line."""

    def ask(connection: sqlite3.Connection) -> list[float]:
        rows = connection.execute("SELECT kept FROM messages WHERE kept IS NOT NULL ORDER BY key").fetchall()
        return [moment for (moment,) in rows]

    return await store.journal.read(ask)


# -- in line ----------------------------------------------------------------------------------------------------------


@BOTH
async def test_Q102_Q107_what_ends_on_disk_is_counted_when_it_ends(path: Path, clock: VirtualClock, queue: str) -> None:
    store = await opened(path, clock)
    for _ in range(4):
        await send(store, queue, 10)
        await clock.advance(1)
    await clock.advance(RETENTION - 4.5)
    assert await counts(store, queue) == (40, 0, 0)
    for ended in (10, 20, 30, 40):
        await clock.advance(1)
        assert await counts(store, queue) == (40 - ended, 0, ended)
    assert await marked(store) == []
    await store.close()


@BOTH
async def test_Q102_what_ended_while_the_store_was_closed_is_counted_when_it_opens(
    path: Path, clock: VirtualClock, queue: str
) -> None:
    """Some of it by loads, which meet more than one look takes."""
    store = await opened(path, clock)
    await send(store, queue, 80)
    await clock.advance(50)
    await send(store, queue, 10)
    await store.close()
    await clock.advance(60)
    store = await opened(path, clock, hot=100)
    assert await counts(store, queue) == (10, 0, 80)
    await clock.advance(40)
    assert await counts(store, queue) == (0, 0, 90)
    await store.close()


@BOTH
async def test_Q18_a_new_retention_holds_at_once_for_what_is_on_disk(
    path: Path, clock: VirtualClock, queue: str
) -> None:
    store = await opened(path, clock)
    await send(store, queue, 10)
    await clock.advance(20)
    await send(store, queue, 10)
    spec = LINE if queue == "line" else GROUPS
    await store.declare(Topology(queues=(replace(spec, retention=200.0),)))
    await clock.advance(100)
    assert await counts(store, queue) == (20, 0, 0)
    await store.declare(Topology(queues=(replace(spec, retention=110.0),)))
    await clock.settle()
    assert await counts(store, queue) == (10, 0, 10)
    await clock.advance(10)
    assert await counts(store, queue) == (0, 0, 20)
    await store.close()


async def test_Q102_each_priority_ends_by_itself(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 10, priority=5)
    await clock.advance(50)
    await send(store, "line", 10)
    await clock.advance(50)
    assert await counts(store) == (10, 0, 10)
    await store.close()


async def test_more_than_one_look_takes_at_a_time_end_too(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ENDED", 4)
    monkeypatch.setattr(ending, "LEAST", 2)
    store = await opened(path, clock)
    await send(store, "line", 33)
    await clock.advance(1)
    await send(store, "line", 1)
    await clock.advance(RETENTION - 1)
    assert await counts(store) == (1, 0, 33)
    await store.close()


async def test_a_look_reads_no_more_than_what_has_ended_and_a_few(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await send(store, "line", 5)
    await clock.advance(1)
    for _ in range(5):
        await send(store, "line", 1_000)
    gate = Gate(store, "load_ending", monkeypatch)
    await clock.advance(RETENTION - 1)
    assert await counts(store) == (5_000, 0, 5)
    # Those that are marked, of which there are none, and those in line.
    assert gate.calls == 2
    await store.close()


async def test_a_damaged_row_does_not_keep_others_from_ending(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 20)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE messages SET crc = crc + 1 WHERE key = (SELECT max(key) - 10 FROM messages)")
    connection.commit()
    connection.close()
    store = await opened(path, clock)
    await clock.advance(RETENTION)
    assert await take(store, "line") == []
    found = await stats(store)
    assert (found.ready, found.expired, found.quarantined) == (0, 19, 1)
    await store.close()


async def test_what_comes_while_the_disk_is_looked_through_ends_in_time_too(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look reads what is on disk; a message that is still on its way there is not forgotten."""
    store = await opened(path, clock, QueueSpec("line", retention=1e6))
    await send(store, "line", 10, ttl=100.0)
    tail, end = store.nouns.head("line").tail, clock.now() + 100
    tail.begin_load()
    assert tail.ending.begin(end)
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    sending = asyncio.create_task(send(store, "line", 10, ttl=150.0))
    await turns(store)
    await tail.ending.look(end)
    tail.end_load()
    gate.open()
    await sending
    await clock.advance(100)
    assert await counts(store) == (10, 0, 10)
    await clock.advance(50)
    assert await counts(store) == (0, 0, 20)
    await store.close()


async def test_what_ends_little_by_little_brings_nothing_into_memory(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 3)
    for n in range(20):
        await store.send("line", [Outgoing(b"short", ttl=10.0 + n), Outgoing(b"kept")])
    await clock.advance(9)
    head = store.nouns.head("line")
    for ended in range(1, 21):
        await clock.advance(1)
        assert await counts(store) == (43 - ended, 0, ended)
        assert head.state.ready == 3
    await store.close()


async def test_Q102_what_is_older_on_disk_than_in_memory_ends_first(path: Path, clock: VirtualClock) -> None:
    """A FIFO queue is loaded group by group, in the order of their names: a younger group may fill the memory."""
    store = await opened(path, clock)
    await store.send("groups", [Outgoing(b"old", group="z") for _ in range(10)])
    await clock.advance(50)
    await store.send("groups", [Outgoing(b"young", group="a") for _ in range(10)])
    await store.close()
    store = await opened(path, clock)
    assert store.nouns.head("groups").state.ready == 1
    await clock.advance(50)
    assert await counts(store, "groups") == (10, 0, 10)
    await store.declare(Topology(queues=(replace(GROUPS, retention=60.0),)))
    await clock.advance(9.9)
    assert await counts(store, "groups") == (10, 0, 10)
    await clock.advance(0.1)
    assert await counts(store, "groups") == (0, 0, 20)
    await store.close()


async def test_Q18_a_lower_retention_ends_what_is_older_on_disk_than_in_memory(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await store.send("groups", [Outgoing(b"old", group="z") for _ in range(10)])
    await clock.advance(50)
    await store.send("groups", [Outgoing(b"young", group="a") for _ in range(10)])
    await store.close()
    store = await opened(path, clock)
    await store.declare(Topology(queues=(replace(GROUPS, retention=40.0),)))
    await clock.settle()
    assert await counts(store, "groups") == (10, 0, 10)
    await store.close()


# -- out of line ------------------------------------------------------------------------------------------------------


async def test_Q102_a_retry_that_comes_due_behind_younger_ones_ends_before_them(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await send(store, "line", 3)
    taken = await take(store, "line", 3)
    await store.settle("line", [Defer(delivery.receipt, 40.0) for delivery in taken])
    await clock.advance(20)
    await send(store, "line", 10)
    await clock.advance(70)
    assert await counts(store) == (13, 0, 0)
    assert len(await marked(store)) == 3
    await clock.advance(10)
    assert await counts(store) == (10, 0, 3)
    await clock.advance(20)
    assert await counts(store) == (0, 0, 13)
    await store.close()


async def test_Q102_a_delayed_message_on_disk_ends_before_it_is_due(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 20, delay=300.0)
    await send(store, "line", 20, delay=30.0)
    await clock.advance(RETENTION - 1)
    assert await counts(store) == (20, 20, 0)
    await clock.advance(1)
    assert await counts(store) == (0, 0, 40)
    await store.close()


async def test_Q102_after_a_long_delay_retention_counts_from_its_end_and_holds_nobody_up(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await send(store, "line", 10, delay=1000.0)
    await send(store, "line", 10)
    await clock.advance(RETENTION)
    assert await counts(store) == (0, 10, 10)
    await clock.advance(1000 - RETENTION)
    await send(store, "line", 10)
    assert await counts(store) == (20, 0, 10)
    await clock.advance(RETENTION - 1)
    assert await counts(store) == (20, 0, 10)
    await clock.advance(1)
    assert await counts(store) == (0, 0, 30)
    await store.close()


async def test_Q102_a_fifo_queue_that_delays_for_long_keeps_all_of_it_for_its_retention(
    path: Path, clock: VirtualClock
) -> None:
    slow, slower = replace(GROUPS, delay=1000.0), replace(GROUPS, delay=1000.5)
    store = await opened(path, clock, LINE, GROUPS)
    await send(store, "groups", 5)
    await store.declare(Topology(queues=(slow,)))
    await send(store, "groups", 10)
    await store.declare(Topology(queues=(slower,)))
    await send(store, "groups", 5)
    await clock.advance(RETENTION)
    assert (await stats(store, "groups")).expired == 5
    await clock.advance(1000)
    assert (await stats(store, "groups")).expired == 5
    await clock.advance(0.5)
    assert await counts(store, "groups") == (0, 0, 20)
    await store.close()


async def test_Q17_Q102_a_fifo_queue_that_delays_no_more_keeps_nothing_for_a_delay(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, LINE, replace(GROUPS, delay=1000.0))
    await send(store, "groups", 10)
    await store.declare(Topology(queues=(GROUPS,)))
    await send(store, "groups", 10)
    await clock.settle()
    assert len(await marked(store)) == 10
    await clock.advance(RETENTION)
    assert await counts(store, "groups") == (0, 0, 20)
    await store.close()


async def test_Q17_Q102_a_replayed_message_keeps_its_delay_and_holds_nobody_up(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock, LINE, replace(GROUPS, delay=1000.0))
    await send(store, "groups", 10, headers={REPLAYED: "1"})
    await store.declare(Topology(queues=(GROUPS,)))
    await send(store, "groups", 10)
    await clock.advance(RETENTION)
    assert (await stats(store, "groups")).expired == 10
    await clock.advance(1000)
    assert await counts(store, "groups") == (0, 0, 20)
    await store.close()


async def with_the_young_before_the_old(path: Path, clock: VirtualClock) -> Kept:
    """Memory is full of messages that are kept for long, and on disk behind them lie ten that are not."""
    store = await opened(path, clock, LINE, replace(GROUPS, delay=1000.0))
    await send(store, "groups", 10, headers={REPLAYED: "1"})
    await store.declare(Topology(queues=(GROUPS,)))
    await send(store, "groups", 10)
    await clock.settle()
    assert not store.nouns.head("groups").tail.hungry
    return store


async def test_Q102_what_ends_behind_what_does_not_ends_in_time_after_a_restart(
    path: Path, clock: VirtualClock
) -> None:
    await (await with_the_young_before_the_old(path, clock)).close()
    store = await opened(path, clock)
    await clock.advance(RETENTION)
    assert (await stats(store, "groups")).expired == 10
    await store.close()


async def test_Q18_a_new_retention_ends_what_lies_behind_what_does_not(path: Path, clock: VirtualClock) -> None:
    store = await with_the_young_before_the_old(path, clock)
    await clock.advance(20)
    await store.declare(Topology(queues=(replace(GROUPS, retention=10.0),)))
    await clock.settle()
    assert (await stats(store, "groups")).expired == 10
    await store.close()


async def test_Q102_a_row_that_is_older_than_one_before_it_is_marked(path: Path, clock: VirtualClock) -> None:
    """As a letter is that was sent, received and buried within one commit, behind one that was sent meanwhile."""
    store = await opened(path, clock)
    head = store.nouns.head("line")
    for n, at in enumerate((1000.0, 1003.0, 1001.0, 1003.0)):
        store.inlet.send(head, Outgoing(b"%d" % n), at)
    await clock.advance(3)
    store.written_behind()
    await clock.settle()
    assert await marked(store) == [1001.0]
    await store.close()


async def test_Q102_what_was_written_elsewhere_while_the_disk_is_looked_through_ends_too(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry comes due when it ends: its old row was passed, and its new one lies before that in the index."""
    monkeypatch.setattr(ending, "LEAST", 1)
    store = await opened(path, clock)
    await send(store, "line", 1)
    (taken,) = await take(store, "line")
    await store.settle("line", [Defer(taken.receipt, RETENTION)])
    await clock.advance(20)
    await send(store, "line", 10)
    head, end = store.nouns.head("line"), clock.now() + 80
    head.tail.begin_load()
    head.tail.ending.at = head.tail.ending._marked.at = 0.0
    assert head.tail.ending.begin(end)
    head.tick(end)
    await head.tail.ending.look(end)
    head.tail.end_load()
    assert head.tail.ready == 8
    await clock.advance(80.1)
    assert await counts(store) == (10, 0, 1)
    await store.close()


@pytest.mark.parametrize("again", [False, True], ids=["one life", "restarted"])
async def test_Q92_dead_letters_that_age_from_the_send_end_in_that_order(
    path: Path, clock: VirtualClock, again: bool
) -> None:
    work = QueueSpec("work", dead_letters="dead", dead_letter_age="sent", retention=1e6)
    dead = QueueSpec("dead", retention=RETENTION, max_receives=None, holds_dead_letters=True)
    store = await opened(path, clock, work, dead)
    for _ in range(10):
        await send(store, "work", 1)
        await clock.advance(1)
    taken = [delivery for _ in range(10) for delivery in await take(store, "work")]
    for delivery in reversed(taken):
        await store.settle("work", [Bury(delivery.receipt)])
    if again:
        await store.close()
        store = await opened(path, clock, work, dead)
    await clock.advance(RETENTION - 10.5)
    for ended in range(10):
        assert await counts(store, "dead") == (10 - ended, 0, ended)
        await clock.advance(1)
    assert await counts(store, "dead") == (0, 0, 10)
    await store.close()


# -- older stores -----------------------------------------------------------------------------------------------------


async def test_rows_of_the_format_before_are_marked_when_they_are_out_of_line(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 3)
    taken = await take(store, "line", 3)
    await store.settle("line", [Defer(delivery.receipt, 40.0) for delivery in taken])
    await clock.advance(20)
    await send(store, "line", 10)
    await send(store, "line", 2, delay=95.0)
    await clock.advance(30)
    await send(store, "groups", 10)
    before = await marked(store)
    await store.close()
    connection = sqlite3.connect(path)
    connection.executescript(BEFORE_7)
    connection.close()
    store = await opened(path, clock)
    assert await marked(store) == before == [1000.0, 1000.0, 1000.0, 1020.0, 1020.0]
    await clock.advance(50)
    assert await counts(store) == (10, 2, 3)
    await clock.advance(20)
    assert await counts(store) == (0, 0, 15)
    assert await counts(store, "groups") == (10, 0, 0)
    await store.close()


# -- ages -------------------------------------------------------------------------------------------------------------


async def test_the_oldest_age_is_never_that_of_a_message_that_has_ended(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, "line", 10)
    await clock.advance(60)
    await send(store, "line", 10)
    await clock.advance(39)
    assert (await stats(store)).oldest_age == 99.0
    await clock.advance(1)
    assert (await stats(store)).oldest_age == 40.0
    taken = await take(store, "line", 10)
    await store.settle("line", [Ack(delivery.receipt) for delivery in taken])
    await clock.advance(60)
    assert await counts(store) == (0, 0, 20 - len(taken))
    assert (await stats(store)).oldest_age == 0.0
    await store.close()


@BOTH
async def test_the_oldest_age_is_known_of_a_store_that_was_opened_just_now(
    path: Path, clock: VirtualClock, queue: str
) -> None:
    store = await opened(path, clock)
    await send(store, queue, 10)
    await clock.advance(60)
    await store.close()
    again = await open_store(f"sqlite:///{path}", clock=clock)
    assert [each.oldest_age for each in (await again.stats()).queues if each.name == queue] == [60.0]
    await again.close()


async def test_the_oldest_age_skips_what_memory_has_not_deleted_yet(clock: VirtualClock) -> None:
    """A sweep of memory rests in proportion to what it looked at."""
    store = await open_store("memory://", clock=clock)
    await store.declare(Topology(queues=(QueueSpec("line", retention=RETENTION),)))
    await store.send("line", [Outgoing(b"first")])
    await clock.advance(0.001)
    await store.send("line", [Outgoing(b"second")])
    await clock.advance(0.001)
    await store.send("line", [Outgoing(b"third") for _ in range(1000)])
    await clock.advance(RETENTION - 0.002)
    await clock.advance(0.001)
    (found,) = (await store.stats()).queues
    assert found.oldest_age == pytest.approx(RETENTION - 0.001)
    await store.close()
