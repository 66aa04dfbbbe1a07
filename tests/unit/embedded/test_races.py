"""What happens between two awaits: commits, loads, sweeps and callers in every unlucky order.

A `Gate` holds one of the journal's verbs back, so that the order is the test's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gated_store import TOPOLOGY, Gate, counted, drain, killed, messages, opened, rows_of, take, turns
from msgspec.structs import replace

from pipeflow.clock import VirtualClock
from pipeflow.embedded import head as head_module
from pipeflow.embedded.opening import Kept
from pipeflow.errors import Unavailable
from pipeflow.messages import Ack, Bury, Defer, Extend, Outgoing, Settled
from pipeflow.protocols import Redrive
from pipeflow.registry import open_store


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path, clock: VirtualClock) -> AsyncIterator[Kept]:
    store = await opened(path, clock)
    yield store
    await store.close()


# -- times to live ----------------------------------------------------------------------------------------------------


async def test_Q107_what_ends_in_memory_while_the_disk_is_looked_through_is_counted_once(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.send("groups", messages(*"abcd", group="g", ttl=30.0))
    head, end = store.nouns.head("groups"), clock.now() + 30
    gate = Gate(store, "load_ending", monkeypatch)
    gate.close()
    head.tail.begin_load()
    assert head.tail.ending.begin(end)
    looking = asyncio.create_task(head.tail.ending.look(end))
    await turns(store)
    head.tick(end)
    gate.open()
    await looking
    head.tail.end_load()
    assert (head.counters.expired, head.tail.ready) == (4, 0)


# -- waking and loading -----------------------------------------------------------------------------------------------


async def test_a_long_group_that_needs_no_loading_leaves_the_store_idle(path: Path, clock: VirtualClock) -> None:
    """Memory has room, the group has enough in memory: nobody reads the tail again and again for nothing."""
    store = await opened(path, clock, "?hot_messages=200")
    await store.send("groups", messages(*(f"{n}" for n in range(400)), group="a"))
    for _ in range(130):
        await store.settle("groups", [Ack(each.receipt) for each in await take(store, "groups", 1)])
    async with asyncio.timeout(10):
        await clock.settle()
    assert await drain(store, "groups") == [b"%d" % n for n in range(130, 400)]
    await store.close()


async def test_Q48_who_waits_gets_what_is_sent_while_memory_is_full_of_what_is_in_flight(
    store: Kept, clock: VirtualClock
) -> None:
    await store.send("work", messages("a", "b", "c"))
    assert len(await take(store, "work")) == 3
    waiting = asyncio.create_task(take(store, "work", wait=20.0))
    await turns(store)
    await store.send("work", messages("d"))
    async with asyncio.timeout(10):
        assert [each.body for each in await waiting] == [b"d"]


async def test_Q80_who_waits_gets_what_is_sent_to_a_free_group_while_memory_is_full_of_a_blocked_one(
    store: Kept, clock: VirtualClock
) -> None:
    await store.send("groups", messages("1", "2", "3", group="blocked"))
    assert len(await take(store, "groups", 1)) == 1
    waiting = asyncio.create_task(take(store, "groups", wait=20.0))
    await turns(store)
    await store.send("groups", messages("x", group="free"))
    async with asyncio.timeout(10):
        assert [each.body for each in await waiting] == [b"x"]


async def test_Q80_what_is_sent_while_a_load_finds_as_much_of_a_blocked_group_ends_no_receive(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message went into memory and one came onto the tail: there are as many as before, and yet a load did find."""
    await store.send("groups", messages("1", "2", "3", group="blocked"))
    assert len(await take(store, "groups", 1)) == 1
    await store.send("groups", [*messages("4", group="blocked"), *messages("x", group="free")])
    await clock.settle()
    gate = Gate(store, "load_of_groups", monkeypatch)
    gate.close()
    receiving = asyncio.create_task(take(store, "groups"))
    await gate.reached()
    await store.send("groups", messages("y", group="free"))
    gate.open()
    assert [each.body for each in await receiving][:1] == [b"x"]


async def test_Q48_what_was_taken_for_a_receiver_that_is_cancelled_before_its_commit_goes_to_the_next(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.send("work", messages("a"))
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    first = asyncio.create_task(take(store, "work", durable=True))
    await gate.reached()
    second = asyncio.create_task(take(store, "work", wait=20.0))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    try:
        async with asyncio.timeout(5):
            assert [each.body for each in await second] == [b"a"]
    finally:
        gate.open()


async def test_Q17_a_new_delay_of_a_fifo_queue_is_for_what_waits_on_disk_too(store: Kept, clock: VirtualClock) -> None:
    await store.send("late", messages(*(f"{n}" for n in range(10)), group="a"))
    queues = [replace(queue, delay=5.0) if queue.name == "late" else queue for queue in TOPOLOGY.queues]
    await store.declare(replace(TOPOLOGY, queues=tuple(queues)))
    await clock.advance(5.0)
    assert await drain(store, "late") == [b"%d" % n for n in range(10)]


async def test_a_delayed_message_sent_while_a_load_waits_for_its_commit_comes_due(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to disk after the commit a load waits for is not in what it reads."""
    head = store.nouns.head("work")
    head.limit = 1
    await store.send("work", messages("a", "b", "c", "d", delay=10.0))
    assert head.tail.delayed
    head.limit = 100  # the next load reads to the end
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    advancing = asyncio.create_task(clock.advance(10.0))
    await gate.reached()
    await turns(store)
    if store.gathering.waiters:
        gate.step()
        await gate.reached()
    # Now the commit that stands before the gate is the one that the load waits for.
    sending = asyncio.create_task(store.send("work", messages("late", delay=5.0)))
    await turns(store)
    gate.open()
    await sending
    await advancing
    await clock.advance(5.0)
    assert sorted(await drain(store, "work")) == [b"a", b"b", b"c", b"d", b"late"]
    stats = await counted(store, "work")
    assert (stats.ready, stats.delayed) == (0, 0)


async def test_Q68_a_purge_while_delayed_messages_are_read_leaves_no_second_copy_of_what_is_sent_next(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.send("work", messages(*(f"{n}" for n in range(8)), delay=10.0))
    gate = Gate(store, "load_delayed", monkeypatch)
    gate.close()
    advancing = asyncio.create_task(clock.advance(10.0))
    await gate.reached()
    assert await store.purge("work") == 8
    await store.send("work", messages("x", delay=30.0))
    gate.open()
    await advancing
    await store.send("work", messages("y", "z", delay=40.0))
    await clock.advance(60.0)
    assert sorted(await drain(store, "work")) == [b"x", b"y", b"z"]
    stats = await counted(store, "work")
    assert (stats.ready, stats.delayed) == (0, 0)


async def test_Q75_a_purge_before_a_kill_hides_nothing_sent_after_it(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a purge that was not swept lie in front of a group's later messages."""
    store = await opened(path, clock)
    gate = Gate(store, "sweep", monkeypatch)
    gate.close()
    await store.send("groups", messages(*(f"old{n}" for n in range(30)), group="a"))
    await store.purge("groups")
    await store.send("groups", messages(*(f"{n}" for n in range(10)), group="a"))
    again = await opened(killed(path, "killed.db"), clock)
    async with asyncio.timeout(10):
        assert await drain(again, "groups") == [b"%d" % n for n in range(10)]
    await again.close()
    gate.open()
    await store.close()


async def test_a_fifo_queue_with_a_delay_keeps_its_backlog_on_disk(store: Kept, clock: VirtualClock) -> None:
    for n in range(40):
        await store.send("late", messages(f"{n}", group="a"))
    state = store.nouns.head("late").state
    assert state.delayed + state.ready <= 4
    await clock.advance(60.0)
    assert await drain(store, "late") == [b"%d" % n for n in range(40)]


async def test_deferred_messages_beyond_the_bound_leave_memory(store: Kept, clock: VirtualClock) -> None:
    """An outage that defers a whole backlog for an hour does not gather it in memory."""
    await store.send("work", messages(*(f"{n}" for n in range(60))))
    while deliveries := await take(store, "work", 5):
        await store.settle("work", [Defer(each.receipt, 3600.0) for each in deliveries])
    state = store.nouns.head("work").state
    assert state.delayed <= 10
    assert len(state._waiting) <= 20
    assert (await counted(store, "work")).delayed == 60
    await clock.advance(3600.0)
    assert sorted(await drain(store, "work")) == sorted(b"%d" % n for n in range(60))


async def test_far_deadlines_do_not_gather_in_the_agenda(clock: VirtualClock) -> None:
    store = await open_store("memory://agenda", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(TOPOLOGY)
    for _ in range(1500):
        await store.send("work", messages("one", "two"))
        await take(store, "work", 1, visibility_timeout=1.0)
        await clock.advance(1.0)
        await store.purge("work")
    assert len(store.tending._agenda) < 1200
    await store.close()


# -- counting ---------------------------------------------------------------------------------------------------------


async def test_p27_a_dead_letter_that_comes_and_goes_in_one_commit_is_counted_once(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await store.send("work", messages("poison"))
    (poison,) = await take(store, "work")
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    burying = asyncio.create_task(store.settle("work", [Bury(poison.receipt)]))
    await turns(store)
    (letter,) = await take(store, "dead")
    acking = asyncio.create_task(store.settle("dead", [Ack(letter.receipt)]))
    await turns(store)
    gate.open()
    assert await burying == await acking == [Settled()]
    assert await rows_of(store, "work") == (0, 0, 0)
    assert await rows_of(store, "dead") == (0, 0, 0)
    await store.close()


async def test_p27_a_dead_letter_redriven_in_the_commit_that_buried_it_is_counted_once(store: Kept) -> None:
    await store.send("work", messages("poison"))
    (poison,) = await take(store, "work")
    await store.committed()
    now = store.clock.now()
    head, dead = store.nouns.head("work"), store.nouns.head("dead")
    head.state.settle(Bury(poison.receipt), now, store.boot)
    store.bury(head, now)
    (letter,) = dead.state.all()
    dead.state.move_out(letter)
    store.inlet.redrive(dead, head, letter, None, now)
    assert await rows_of(store, "work") == (1, 1, 0)
    assert await rows_of(store, "dead") == (0, 0, 0)
    assert await drain(store, "work") == [b"poison"]
    assert await rows_of(store, "work") == (0, 0, 0)


async def test_p7_a_damaged_row_is_counted_once_however_often_the_store_is_opened(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await store.send("work", messages("good one", "bad apple", "good two"))
    await store.close()
    path.write_bytes(path.read_bytes().replace(b"bad apple", b"bad orple"))
    for _ in range(3):
        store = await opened(path, clock, "?hot_messages=100")
        assert len(await take(store, "work", visibility_timeout=0)) == 2
        stats = await counted(store, "work")
        assert (stats.ready, stats.quarantined, store.nouns.head("work").tail.ready) == (2, 1, 0)
        assert await rows_of(store, "work") == (2, 2, 0)
        await store.close()
    assert b"bad orple" in path.read_bytes(), "set aside, not thrown away"


async def test_p7_a_damaged_attribute_is_damage_like_a_damaged_body(path: Path, clock: VirtualClock) -> None:
    """What still reads as a row may be a wrong one."""
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"1", attributes={"fruit": "apple"}), Outgoing(b"2")])
    await store.close()
    path.write_bytes(path.read_bytes().replace(b"apple", b"orple"))
    store = await opened(path, clock)
    assert await drain(store, "work") == [b"2"]
    assert (await counted(store, "work")).quarantined == 1
    await store.close()


async def test_p7_a_body_damaged_under_a_running_store_hides_no_other_message(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "HOT_BYTES", 0)
    store = await opened(path, clock, "?hot_messages=100")
    await store.send("work", messages("bad apple", "good one"))
    assert len(await take(store, "work", visibility_timeout=0)) == 2  # their bodies leave memory
    await store.journal._read(  # type: ignore[attr-defined]
        lambda c: c.execute("UPDATE messages SET body = ? WHERE body = ?", (b"bad orple", b"bad apple"))
    )
    assert [each.body for each in await take(store, "work", 1)] == [b"good one"]
    assert (await counted(store, "work")).quarantined == 1
    assert await rows_of(store, "work") == (1, 1, 0)
    await store.close()


async def test_bytes_in_memory_are_counted_right_when_a_message_moves_without_its_body(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "HOT_BYTES", 1)
    store = await opened(path, clock, "?hot_messages=100")
    await store.send("work", messages("poison"))
    (poison,) = await take(store, "work")
    await store.settle("work", [Bury(poison.receipt)])
    assert await drain(store, "dead") == [b"poison"]
    assert (store.nouns.head("work").bytes, store.nouns.head("dead").bytes) == (0, 0)
    await store.close()


# -- purging and moving -----------------------------------------------------------------------------------------------


async def test_Q68_nothing_is_swept_before_the_purge_itself_is_on_disk(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await store.send("work", messages(*(f"{n}" for n in range(20))))
    (first,) = await take(store, "work", 1)
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    burying = asyncio.create_task(store.settle("work", [Bury(first.receipt)]))
    purging = asyncio.create_task(store.purge("work"))
    await turns(store)
    again = await opened(killed(path, "killed.db"), clock)
    assert len(await drain(again, "work")) == 20, "nobody was told that the queue was purged"
    stats = await counted(again, "work")
    assert (stats.ready, again.nouns.head("work").tail.ready) == (0, 0)
    await again.close()
    gate.open()
    await burying
    await purging
    await clock.settle()
    after = await opened(killed(path, "after.db"), clock)
    assert (await drain(after, "work"), await drain(after, "dead")) == ([], [b"0"])
    await after.close()
    await store.close()


async def test_Q68_a_dead_letter_purged_in_the_commit_that_moved_it_does_not_come_back_where_it_came_from(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await store.send("work", messages(*(f"{n}" for n in range(10))))
    deliveries = list(await take(store, "work")) + list(await take(store, "work"))
    while more := await take(store, "work"):
        deliveries += more
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    burying = asyncio.create_task(store.settle("work", [Bury(each.receipt) for each in deliveries]))
    await turns(store)
    assert store.nouns.head("dead").tail.ready
    purging = asyncio.create_task(store.purge("dead"))
    await turns(store)
    gate.open()
    await burying
    assert await purging == 10
    assert await rows_of(store, "work") == (0, 0, 0)
    assert await rows_of(store, "dead") == (0, 0, 0)
    again = await opened(killed(path, "killed.db"), clock)
    assert (await drain(again, "work"), await drain(again, "dead")) == ([], [])
    await again.close()
    await store.close()


async def bury_many(store: Kept, queue: str, count: int, **each: Any) -> None:
    await store.send(queue, messages(*(f"{n}" for n in range(count)), **each))
    buried = 0
    while buried < count:
        deliveries = await take(store, queue)
        await store.settle(queue, [Bury(each.receipt) for each in deliveries])
        buried += len(deliveries)


async def test_Q99_a_redrive_takes_every_dead_letter_along_while_receivers_read_the_tail(store: Kept) -> None:
    await bury_many(store, "work", 600)
    stolen: list[bytes] = []

    async def receiver() -> None:
        for _ in range(30):
            for each in await take(store, "dead", 2):
                stolen.append(each.body)
                await store.settle("dead", [Ack(each.receipt)])

    await asyncio.gather(store.redrive(Redrive("work")), receiver(), store.redrive(Redrive("work")))
    left = await drain(store, "dead")
    back = await drain(store, "work")
    assert sorted([*stolen, *left, *back]) == sorted(b"%d" % n for n in range(600))
    assert left == []
    stats = await counted(store, "work")
    assert (stats.ready, stats.dead, stats.redriven) == (0, 0, len(back))
    assert await rows_of(store, "dead") == (0, 0, 0)


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_p9_a_receive_that_waited_for_a_body_too_long_does_not_share_its_receipt(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "HOT_BYTES", 0)
    store = await opened(path, clock, "?hot_messages=100")
    await store.send("work", messages("one"))
    await take(store, "work", visibility_timeout=0)  # its body leaves memory
    gate = Gate(store, "bodies", monkeypatch)
    gate.close()
    slow = asyncio.create_task(take(store, "work", visibility_timeout=1.0))
    await gate.reached()
    await clock.advance(1.0)
    newer = asyncio.create_task(take(store, "work"))
    await turns(store)
    gate.open()
    assert await slow == []
    assert [each.receives for each in await newer] == [3]
    await store.close()


async def test_a_receive_cancelled_while_it_waits_for_a_body_gives_its_message_back(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "HOT_BYTES", 0)
    store = await opened(path, clock, "?hot_messages=100")
    await store.send("work", messages("one", "two", "three"))
    await take(store, "work", visibility_timeout=0)
    gate = Gate(store, "bodies", monkeypatch)
    gate.close()
    cancelled = asyncio.create_task(take(store, "work"))
    await gate.reached()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.open()
    assert [(each.body, each.attempt) for each in await take(store, "work")] == [
        (b"one", 2),
        (b"two", 2),
        (b"three", 2),
    ]
    await store.close()


async def test_Q62_a_lease_ended_by_its_holder_does_not_come_back_after_a_kill(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await store.send("groups", messages("one", group="a"))
    (one,) = await take(store, "groups", durable=True, visibility_timeout=1000.0)
    await store.settle("groups", [Extend(one.receipt, 0)])
    again = await opened(killed(path, "killed.db"), clock)
    assert [each.body for each in await take(again, "groups")] == [b"one"]
    await again.close()
    await store.close()


async def test_p9_receipts_held_outside_settle_at_once_after_a_kill_however_deep_in_the_tail(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await store.send("work", messages(*(f"{n}" for n in range(30))))
    held = [each for _ in range(20) for each in await take(store, "work", 1, durable=True)]
    again = await opened(killed(path, "killed.db"), clock)
    assert (await counted(again, "work")).in_flight == 20
    assert await again.settle("work", [Ack(each.receipt) for each in held]) == [Settled()] * 20
    assert sorted(await drain(again, "work")) == sorted(b"%d" % n for n in range(20, 30))
    await again.close()
    await store.close()


# -- deduplication ----------------------------------------------------------------------------------------------------


async def test_closing_answers_the_calls_that_are_in_flight_and_ends_clean(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    calls = [asyncio.create_task(store.send("work", messages("first")))]
    await gate.reached()
    calls.append(asyncio.create_task(store.send("work", messages("second"))))
    await turns(store)
    closing = asyncio.create_task(store.close())
    await turns(store)
    gate.step()
    await gate.reached()
    calls.append(asyncio.create_task(store.send("work", messages("third"))))
    await turns(store)
    gate.open()
    async with asyncio.timeout(10):
        await closing
        answers = await asyncio.gather(*calls, return_exceptions=True)
    accepted = [n for n, answer in enumerate(answers) if isinstance(answer, list)]
    assert accepted == [0, 1]
    assert isinstance(answers[2], Unavailable)
    store = await opened(path, clock)
    assert store.nouns.head("work").tail.suspect_upto == 0, "it was closed clean"
    assert len(await drain(store, "work")) == len(accepted), "a refusal has no effect"
    await store.close()


async def test_who_asks_for_a_load_when_the_store_has_failed_is_told_and_waits_for_none(store: Kept) -> None:
    """As `stats` does, which waits for other things in between: nobody loads any more."""
    store.fail(Unavailable("the disk is gone"))
    await store.close()
    with pytest.raises(Unavailable, match="the disk is gone"):
        await asyncio.wait_for(store.tending.fed(store.nouns.head("work")), 5)
