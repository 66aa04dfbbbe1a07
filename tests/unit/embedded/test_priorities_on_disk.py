"""Priorities behind the hot head: high ones are next whatever lies before them, after restarts too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gated_store import Gate, killed, turns

from pipeflow.clock import VirtualClock
from pipeflow.embedded.head import HOT_MESSAGES, Head
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Delivery, Outgoing, Release, Want
from pipeflow.protocols import Redrive
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

QUEUES = Topology(
    queues=(QueueSpec("q", retention=1e6, visibility_timeout=30, dead_letters="dead"), QueueSpec("other")),
)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def opened(path: Path, clock: VirtualClock, hot: int = 3, declared: bool = True) -> Kept:
    store = await open_store(f"sqlite:///{path}?durability=normal&hot_messages={hot}", clock=clock)
    assert isinstance(store, Kept)
    if declared:
        await store.declare(QUEUES)
    await clock.settle()
    return store


@pytest.fixture
async def store(path: Path, clock: VirtualClock) -> AsyncIterator[Kept]:
    store = await opened(path, clock)
    yield store
    await store.close()


def messages(*bodies: str, priority: int = 0, delay: float | None = None) -> list[Outgoing]:
    return [Outgoing(body.encode(), priority=priority, delay=delay) for body in bodies]


async def take(store: Kept, limit: int = 1, **more: float) -> list[Delivery]:
    return list(await store.receive("q", Want(limit, **more)))  # type: ignore[arg-type]  # a wait


async def bodies(store: Kept, limit: int) -> list[str]:
    taken: list[Delivery] = []
    while len(taken) < limit and (more := await take(store, limit - len(taken))):
        taken += more
    return [delivery.body.decode() for delivery in taken]


def in_memory(head: Head) -> int:
    return sum(lane.state.ready + lane.state.delayed + lane.state.in_flight for lane in head.lanes)


async def test_after_a_restart_the_highest_priority_is_next(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await store.send("q", messages(*(f"low{n}" for n in range(20))))
    await store.send("q", messages(*(f"high{n}" for n in range(5)), priority=9))
    await store.send("q", messages(*(f"late{n}" for n in range(5)), priority=9, delay=60))
    await store.close()
    store = await opened(path, clock)
    assert await bodies(store, 6) == [*(f"high{n}" for n in range(5)), "low0"]
    await clock.advance(20)
    await store.close()
    await clock.advance(40)
    store = await opened(path, clock)
    stats = (await store.stats()).queues[0]
    assert (stats.ready + stats.delayed, stats.in_flight) == (30, 0)
    expected = [*(f"high{n}" for n in range(5)), *(f"late{n}" for n in range(5))]
    assert sorted(await bodies(store, 10)) == expected
    assert (await bodies(store, 1))[0].startswith("low")
    await store.close()


async def test_a_killed_store_knows_its_priorities(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await store.send("q", messages(*(f"low{n}" for n in range(20))))
    await store.send("q", messages("high", priority=1))
    again = await opened(killed(path, "killed.db"), clock)
    (sent,) = await again.send("q", messages("new", priority=2))
    assert sent.sequence == 22, "places go on behind those of every priority"  # type: ignore[union-attr]
    assert await bodies(again, 3) == ["new", "high", "low0"]
    await again.close()
    await store.close()


async def test_high_ones_behind_a_hundred_thousand_low_ones_are_next_and_memory_stays_bounded(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, HOT_MESSAGES)
    for _ in range(10):
        await store.send("q", [Outgoing(b"low")] * 10_000)
    await store.send("q", [Outgoing(b"middle", priority=4)] * 10_000)
    await store.send("q", [Outgoing(b"high", priority=9)] * 3)
    head = store.nouns.head("q")
    assert in_memory(head) <= HOT_MESSAGES + 3 * (HOT_MESSAGES // 9)
    assert await bodies(store, 5) == ["high", "high", "high", "middle", "middle"]
    seen = 0
    while seen < 9_998:
        taken = await take(store, min(1000, 9_998 - seen))
        assert {delivery.body for delivery in taken} == {b"middle"}
        await store.settle("q", [Ack(delivery.receipt) for delivery in taken])
        seen += len(taken)
    assert await bodies(store, 1) == ["low"]
    assert in_memory(head) <= HOT_MESSAGES + 3 * (HOT_MESSAGES // 9)
    await store.close()


async def test_every_priority_together_takes_twice_the_memory_at_most(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock, 90)
    for priority in range(10):
        await store.send("q", [Outgoing(b"m", priority=priority)] * 200)
    head = store.nouns.head("q")
    assert len(head.lanes) == 10
    assert in_memory(head) <= 2 * 90
    assert sum(lane.most_bytes for lane in head.lanes) <= 2 * head.most_bytes
    await store.close()


async def test_a_queue_without_priorities_is_one_queue(store: Kept) -> None:
    await store.send("q", messages("a", "b"))
    await store.send("other", messages("c", priority=3))
    assert store.nouns.head("q").lanes == (store.nouns.head("q"),)
    assert len(store.nouns.head("other").lanes) == 2


async def test_one_that_came_in_while_the_tail_is_read_is_next(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receive that waits for low ones from the disk sees a first high one come."""
    await store.send("q", messages(*(f"low{n}" for n in range(10))))
    held = await take(store, 3)
    gate = Gate(store, "load", monkeypatch)
    gate.close()
    receiving = asyncio.create_task(take(store, 1))
    await turns(store)
    sending = asyncio.create_task(store.send("q", messages("high", priority=1)))
    await turns(store)
    gate.open()
    assert [delivery.body for delivery in await receiving] == [b"high"]
    await sending
    assert len(held) == 3


async def test_a_receiver_that_gives_up_gives_every_priority_back(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.send("q", messages("low"))
    await store.send("q", messages("high", priority=9))
    gate = Gate(store, "commit", monkeypatch)
    gate.close()
    receiving = asyncio.create_task(store.receive("q", Want(10, durable=True)))
    await turns(store)
    assert sum(lane.state.in_flight for lane in store.nouns.head("q").lanes) == 2
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    gate.open()
    taken = await take(store, 10)
    assert [(delivery.body, delivery.attempt) for delivery in taken] == [(b"high", 1), (b"low", 1)]


async def test_a_message_that_must_run_alone_waits_for_those_of_other_priorities(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await store.send("q", messages("suspect", priority=3))
    for n in range(2):
        assert await bodies(store, 1) == ["suspect"]
        await store.committed()
        after = await opened(killed(path, f"killed{n}.db"), clock)
        await store.close()
        store, path = after, path.with_name(f"killed{n}.db")
    await store.send("q", messages("low"))
    await store.send("q", messages("high", priority=9))
    high, *others = await take(store, 10)
    assert (high.body, others) == (b"high", [])
    assert await take(store, 10) == []
    await store.settle("q", [Ack(high.receipt)])
    (suspect,) = await take(store, 10)
    assert (suspect.body, suspect.alone) == (b"suspect", True)
    assert await take(store, 10) == [], "nothing runs beside it, of whatever priority"
    await store.settle("q", [Release(suspect.receipt)])
    await store.close()


async def test_what_outside_consumers_hold_stays_theirs_across_a_restart(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await store.send("q", messages("low"))
    await store.send("q", messages("high", priority=9))
    (held,) = await store.receive("q", Want(1, durable=True))
    await store.close()
    store = await opened(path, clock)
    assert await bodies(store, 2) == ["low"]
    assert [type(each).__name__ for each in await store.settle("q", [Ack(held.receipt)])] == ["Settled"]
    await store.close()


async def test_Q68_a_purge_of_every_priority_holds_after_a_restart(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    for priority in (0, 4, 9):
        await store.send("q", messages(*(f"{n}" for n in range(20)), priority=priority))
    assert await store.purge("q") == 60
    await store.close()
    store = await opened(path, clock)
    await store.send("q", messages("new", priority=4))
    assert await bodies(store, 10) == ["new"]
    await store.close()


async def test_Q105_rows_of_every_priority_of_a_deleted_queue_leave_the_disk(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    for priority in (0, 4, 9):
        await store.send("other", messages(*(f"{n}" for n in range(20)), priority=priority))
    numbers = {lane.number for lane in store.nouns.head("other").lanes}
    assert await store.delete_queue("other") == 60
    await clock.settle()
    await store.close()
    store = await opened(path, clock)
    await store.send("other", messages("new", priority=4))
    assert not numbers & {lane.number for lane in store.nouns.head("q").lanes}
    (stats,) = [each for each in (await store.stats()).queues if each.name == "other"]
    assert stats.ready == 1

    def keys(connection: object) -> list[int]:
        return [key >> 43 for (key,) in connection.execute("SELECT key FROM messages")]  # type: ignore[attr-defined]

    await store.committed()
    assert len(await store.journal._read(keys)) == 1  # type: ignore[attr-defined]
    await store.close()


async def test_dead_letters_of_every_priority_on_disk_come_back(store: Kept, clock: VirtualClock) -> None:
    for n in range(30):
        await store.send("dead", messages(f"{n}", priority=n % 3))
    assert (await store.redrive(Redrive("q"))).moved == 30
    expected = sorted((f"{n}" for n in range(30)), key=lambda body: -(int(body) % 3))
    assert await bodies(store, 30) == expected


async def test_a_high_one_that_is_due_on_disk_is_waited_for(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.send("q", messages(*(f"late{n}" for n in range(8)), priority=7, delay=30))
    await store.send("q", messages("low"))
    gate = Gate(store, "load_delayed", monkeypatch)
    gate.close()
    advancing = asyncio.create_task(clock.advance(30))
    await gate.reached()
    # What is due in memory is taken first, and then nothing of a lower priority.
    first = asyncio.create_task(take(store, 10))
    second = asyncio.create_task(take(store, 10))
    await turns(store)
    gate.open()
    await advancing
    taken = [delivery.body for delivery in [*await first, *await second]]
    assert taken
    assert b"low" not in taken[:8]


async def test_time_passes_in_every_priority_after_a_restart_before_anybody_asks(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await store.send("q", messages(*(f"late{n}" for n in range(8)), priority=7, delay=30))
    await store.send("q", [Outgoing(b"short", ttl=60, priority=3)] * 8)
    await store.close()
    store = await opened(path, clock, declared=False)
    await clock.advance(30)
    head = store.nouns.head("q")
    assert sum(lane.tail.delayed + lane.state.delayed for lane in head.lanes) == 0
    await clock.advance(30)
    assert sum(lane.counters.expired for lane in head.lanes) == 8
    await store.close()
