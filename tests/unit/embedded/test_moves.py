"""A message that moves to another queue has left the one it came from, in every corner of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.messages import Bury, Defer, Delivery, Failure, Outgoing, Want
from pipeflow.protocols import QueueStats, Redrive, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    opened = await open_store("memory://moves", clock=VirtualClock())
    await opened.declare(
        Topology(
            queues=(
                QueueSpec("work", dead_letters="work-dlq"),
                QueueSpec("work-dlq", holds_dead_letters=True, max_receives=None),
                QueueSpec("other", max_receives=None, visibility_timeout=100),
            )
        )
    )
    await opened.send("work", [Outgoing(b"1"), Outgoing(b"2")])
    yield opened
    await opened.close()


async def one(store: Store, queue: str) -> Delivery | None:
    got = await store.receive(queue, Want(limit=1))
    return got[0] if got else None


async def counted(store: Store, name: str) -> QueueStats:
    return next(queue for queue in (await store.stats()).queues if queue.name == name)


async def test_Q2_a_buried_message_is_not_delivered_again_by_the_queue_it_left(store: Store) -> None:
    """The receive stopped at its limit, with the buried message still at the front of the line. Q2, Q93."""
    first = await one(store, "work")
    assert first is not None
    await store.settle("work", [Bury(first.receipt)])
    second = await one(store, "work")
    assert second is not None
    assert second.body == b"2"
    stats = await counted(store, "work")
    assert (stats.ready, stats.in_flight, stats.buried, stats.dead) == (0, 1, 1, 1)


async def test_Q55_a_deferred_message_goes_behind_those_that_became_visible_before_it(store: Store) -> None:
    first = await one(store, "work")
    assert first is not None
    await store.settle("work", [Defer(first.receipt, 0)])
    following = [delivery.body for delivery in await store.receive("work", Want(limit=10))]
    assert following == [b"2", b"1"]


async def test_Q2_a_redriven_message_in_flight_elsewhere_does_not_come_back_to_the_queue_it_left(store: Store) -> None:
    """What the first queue remembers of its own visibility timeout does not apply to another queue's. Q2, Q99."""
    clock = store.clock
    assert isinstance(clock, VirtualClock)
    for _ in range(2):
        delivery = await one(store, "work")
        assert delivery is not None
        await store.settle("work", [Bury(delivery.receipt)])
    assert (await store.redrive(Redrive("work", to="other"))).moved == 2
    assert len(await store.receive("other", Want(limit=2))) == 2
    for seconds in (31, 75):  # past the timeout of `work`, past that of `other`
        await clock.advance(seconds)
        assert await one(store, "work") is None
    stats = await counted(store, "work")
    assert (stats.ready, stats.in_flight) == (0, 0)
    assert len(await store.receive("other", Want(limit=2))) == 2


async def test_Q90_a_dead_letter_keeps_its_failures_over_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/moves.db"
    store = await open_store(url)
    await store.declare(
        Topology(
            queues=(
                QueueSpec("work", dead_letters="work-dlq"),
                QueueSpec("work-dlq", holds_dead_letters=True, max_receives=None),
            )
        )
    )
    await store.send("work", [Outgoing(b"1")])
    first = await one(store, "work")
    assert first is not None
    failure = Failure(at=1.0, attempt=1, type="Reject", message="cancelled", digest="0badcafe")
    await store.settle("work", [Bury(first.receipt, failure)])
    await store.close()
    store = await open_store(url)
    (letter,) = await store.peek("work", dead=True)
    assert letter.failures == [failure]
    await store.close()


async def test_Q95_the_attempts_of_a_dead_letter_begin_anew_after_a_restart_too(tmp_path: Path) -> None:
    url, clock = f"sqlite:///{tmp_path}/store.db?hot_messages=3", VirtualClock()
    queues = (
        QueueSpec("first", max_receives=2, dead_letters="second"),
        QueueSpec("second", max_receives=2, dead_letters="last"),
    )
    opened = await open_store(url, clock=clock)
    await opened.declare(Topology(queues=queues))
    await opened.send("first", [Outgoing(b"%d" % n) for n in range(6)])
    while taken := await opened.receive("first", Want(limit=10)):
        await opened.settle("first", [Defer(delivery.receipt, 0) for delivery in taken])
    await opened.close()
    opened = await open_store(url, clock=clock)
    attempts = []
    while taken := await opened.receive("second", Want(limit=10)):
        attempts += [(delivery.attempt, delivery.receives) for delivery in taken]
        await opened.settle("second", [Defer(delivery.receipt, 0) for delivery in taken])
    assert sorted(attempts) == [(1, 3)] * 6 + [(2, 4)] * 6
    assert (await counted(opened, "second")).dead == 6
    await opened.close()
