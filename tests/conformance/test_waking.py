"""Q48: exactly as many waiting receivers are woken as there are messages for them, however those come.

Woken is who looks again; one that looks and finds nothing has been woken for nothing, and one that sleeps beside a
message has been forgotten. Receivers here take one message each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipeflow.clock import Signal, SystemClock, VirtualClock
from pipeflow.embedded.head import Head
from pipeflow.embedded.socket import connect, socket_path
from pipeflow.messages import Ack, Bury, Defer, Delivery, Extend, Outgoing, Release, Settlement, Want
from pipeflow.protocols import Redrive, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

RECEIVERS = 8


class Hall:
    """Receivers that wait for one message each, on one queue."""

    def __init__(self, store: Store, through: Store, clock: VirtualClock | None) -> None:
        self.store = store
        self.through = through
        self.clock = clock
        self.woken = 0
        self.tasks: list[asyncio.Task[list[Delivery]]] = []

    async def settle(self) -> None:
        """Let everything happen that can."""
        if self.clock is not None:
            await self.clock.settle()
            await self.store.stats()
            await self.clock.settle()
        else:
            await asyncio.sleep(0.15)

    async def wait(self, queue: str, count: int = RECEIVERS) -> None:
        self.tasks += [asyncio.create_task(self.receive(queue)) for _ in range(count)]
        await self.settle()
        assert not any(task.done() for task in self.tasks)
        self.woken = 0

    async def receive(self, queue: str) -> list[Delivery]:
        return list(await self.through.receive(queue, Want(limit=1, wait=10_000.0)))

    async def check(self, messages: int) -> list[Delivery]:
        """So many were woken, and each has one."""
        await self.settle()
        done = [task for task in self.tasks if task.done()]
        assert (self.woken, len(done)) == (messages, messages)
        self.tasks = [task for task in self.tasks if not task.done()]
        self.woken = 0
        received = [delivery for task in done for delivery in task.result()]
        assert len(received) == messages
        return received

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


TOPOLOGY = Topology(
    queues=(
        QueueSpec("q", max_receives=3, dead_letters="dead", visibility_timeout=30.0),
        QueueSpec("f", fifo=True, visibility_timeout=30.0),
    )
)


@asynccontextmanager
async def opened(url: str, clock: VirtualClock | None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hall]:
    store = await open_store(url, clock=clock or SystemClock())
    await store.declare(TOPOLOGY)
    through: Store = store
    if clock is None:
        through = await connect(socket_path(url.removeprefix("sqlite:///").partition("?")[0]), url, store.clock)
    hall = Hall(store, through, clock)
    looks = Head.looks

    def spying(head: Head, signal: Signal) -> bool:
        woken = looks(head, signal)
        hall.woken += woken
        return woken

    monkeypatch.setattr(Head, "looks", spying)
    try:
        yield hall
    finally:
        await hall.end()
        if through is not store:
            await through.close()
        await store.close()


@pytest.fixture
async def hall(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hall]:
    async with opened(url, VirtualClock(1_000_000.0), monkeypatch) as hall:
        yield hall


@pytest.fixture
async def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hall]:
    """Receivers in another process, as far as the store can tell."""
    async with opened(f"sqlite:///{tmp_path}/far.db?durability=normal", None, monkeypatch) as hall:
        yield hall


def bodies(count: int, **each: object) -> list[Outgoing]:
    return [Outgoing(b"%d" % n, **each) for n in range(count)]  # type: ignore[arg-type]  # a builder


async def settled(hall: Hall, *settlements: Settlement, queue: str = "q") -> None:
    await hall.store.settle(queue, list(settlements))


@pytest.mark.parametrize("count", [1, 3, RECEIVERS, RECEIVERS + 3])
async def test_Q48_sends_in_one_batch(hall: Hall, count: int) -> None:
    await hall.wait("q")
    await hall.store.send("q", bodies(count))
    await hall.check(min(count, RECEIVERS))


async def test_Q48_sends_one_by_one_before_anybody_woken_has_looked(hall: Hall) -> None:
    await hall.wait("q")
    async with asyncio.TaskGroup() as tasks:
        for body in bodies(5):
            tasks.create_task(hall.store.send("q", [body]))
    await hall.check(5)


async def test_Q48_sends_one_after_the_other(hall: Hall) -> None:
    await hall.wait("q")
    for body in bodies(3):
        await hall.store.send("q", [body])
    await hall.check(3)
    for body in bodies(2):
        await hall.store.send("q", [body])
        await hall.check(1)


async def test_Q48_delays_that_end(hall: Hall) -> None:
    assert hall.clock is not None
    await hall.wait("q")
    await hall.store.send("q", bodies(3, delay=5.0))
    await hall.store.send("q", bodies(2, delay=6.0))
    await hall.check(0)
    await hall.clock.advance(5.0)
    await hall.check(3)
    await hall.clock.advance(1.0)
    await hall.check(2)


async def test_Q48_visibility_timeouts_that_run_out_and_messages_that_are_given_back(hall: Hall) -> None:
    assert hall.clock is not None
    await hall.store.send("q", bodies(3))
    first, second, _ = [(await hall.store.receive("q", Want(1)))[0] for _ in range(3)]
    await hall.wait("q")
    await settled(hall, Release(first.receipt), Extend(second.receipt, 0.0))
    first, second = await hall.check(2)
    await settled(hall, Defer(first.receipt, 3.0), Ack(second.receipt))
    await hall.check(0)
    await hall.clock.advance(3.0)
    await hall.check(1)
    await hall.clock.advance(27.0)
    await hall.check(1)


async def test_Q48_redrives_and_arrivals_in_the_dead_letters(hall: Hall) -> None:
    await hall.store.send("q", bodies(3))
    taken = [(await hall.store.receive("q", Want(1)))[0] for _ in range(3)]
    await hall.wait("dead", 2)
    await settled(hall, Bury(taken[0].receipt))
    (letter,) = await hall.check(1)
    await settled(hall, Release(letter.receipt), queue="dead")
    await hall.check(1)
    await settled(hall, Bury(taken[1].receipt), Bury(taken[2].receipt))
    await hall.wait("q")
    await hall.store.redrive(Redrive("q"))
    await hall.check(2)


async def test_Q48_a_receive_for_no_time_leaves_the_message_to_the_next(hall: Hall) -> None:
    glance = asyncio.create_task(hall.store.receive("q", Want(1, wait=100.0, visibility_timeout=0.0)))
    await hall.settle()
    await hall.wait("q", 2)
    await hall.store.send("q", bodies(1))
    await hall.settle()
    assert len(await glance) == 1
    assert hall.woken == 2
    assert sum(task.done() for task in hall.tasks) == 1


async def test_Q48_who_was_woken_and_cancelled_passes_it_on(hall: Hall) -> None:
    await hall.wait("q", 3)
    sending = asyncio.create_task(hall.store.send("q", bodies(1)))
    await asyncio.sleep(0)
    first = hall.tasks.pop(0)
    first.cancel()
    await sending
    await hall.settle()
    done = [task for task in hall.tasks if task.done()]
    assert (first.cancelled(), len(done)) in ((True, 1), (False, 0))


async def test_Q48_fifo_receivers_are_woken_for_groups_that_are_free(hall: Hall) -> None:
    """One receive blocks its group: of ten messages in two groups two can be had, each by one receiver."""
    await hall.wait("f")
    batch = [Outgoing(b"%d" % n, group="ab"[n % 2]) for n in range(6)]
    await hall.store.send("f", batch)
    first, second = await hall.check(2)
    await settled(hall, Ack(first.receipt), queue="f")
    await hall.check(1)
    await settled(hall, Ack(second.receipt), queue="f")
    await hall.check(1)


async def test_Q48_tenants_of_a_fair_queue(hall: Hall) -> None:
    await hall.wait("q")
    await hall.store.send("q", [Outgoing(b"x", group=group) for group in "aab"])
    await hall.check(3)


async def test_Q48_through_the_socket(far: Hall) -> None:
    await far.wait("q")
    await far.store.send("q", bodies(3))
    first, *_ = await far.check(3)
    for body in bodies(2):
        await far.through.send("q", [body])
    await far.check(2)
    await far.through.settle("q", [Release(first.receipt)])
    await far.check(1)
    await far.store.send("q", bodies(2, delay=0.05))
    await far.check(2)


async def test_Q48_messages_of_several_priorities(hall: Hall) -> None:
    await hall.wait("q")
    await hall.store.send("q", [Outgoing(b"x", priority=priority) for priority in (0, 9, 9)])
    await hall.check(3)
    for priority in (3, 0):
        await hall.store.send("q", bodies(1, priority=priority))
    await hall.check(2)
