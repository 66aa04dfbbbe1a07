"""The deduplication window across restarts, memory's bound and clocks that are set back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gated_store import drain, messages, opened

from pipeflow.clock import VirtualClock
from pipeflow.embedded import intake
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite import recovery
from pipeflow.messages import Ack, Emit, Outgoing, Sent, Settled, Want
from pipeflow.specs import Subscription, TopicSpec, Topology
from pipeflow.state import dedup


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


async def send_one(store: Kept, dedup_id: str) -> Sent:
    (sent,) = await store.send("groups", [Outgoing(dedup_id.encode(), group="a", dedup_id=dedup_id)])
    assert isinstance(sent, Sent)
    return sent


async def test_Q71_a_duplicate_that_only_the_disk_remembered_does_not_extend_the_window(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    original = await send_one(store, "x")
    for n in range(4):
        await clock.advance(31.0)
        await send_one(store, f"{n}")
    await clock.advance(100.0)
    again = await send_one(store, "x")
    assert (again.id, again.duplicate) == (original.id, True)
    await clock.advance(80.0)  # 304 s after the original, 80 s after the duplicate
    assert not (await send_one(store, "x")).duplicate


async def test_Q71_ids_of_the_window_beyond_what_a_start_brings_along_are_still_known(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "KNOWN_KEPT", 2)
    store = await opened(path, clock)
    first = await send_one(store, "0")
    for n in range(1, 6):
        await clock.advance(1.0)
        await send_one(store, f"{n}")
    await store.close()
    store = await opened(path, clock)
    again = await send_one(store, "0")
    assert (again.id, again.duplicate) == (first.id, True)
    await store.close()


async def test_Q71_a_wall_clock_set_back_between_two_starts_stops_no_window_and_no_delay(path: Path) -> None:
    store = await opened(path, VirtualClock(1_000_000.0))
    first = await send_one(store, "x")
    await store.send("work", messages("late", delay=10.0))
    await store.close()
    clock = VirtualClock(0.0)
    store = await opened(path, clock)
    assert clock.now() >= 1_000_000.0
    again = await send_one(store, "x")
    assert (again.id, again.duplicate) == (first.id, True)
    await clock.advance(10.0)
    assert await drain(store, "work") == [b"late"]
    await store.close()


# -- beyond what memory keeps ------------------------------------------------------------------------------------------


async def crowd(store: Kept, clock: VirtualClock, queue: str) -> None:
    """Ids enough to push all earlier ones of the queue out of memory."""
    for n in range(4):
        await clock.advance(31.0)
        await store.send(queue, [Outgoing(b"crowd", group="a", dedup_id=f"crowd-{n}")])


async def test_Q71_an_emit_repeats_an_id_that_only_the_disk_remembers(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    await send_one(store, "x")
    await crowd(store, clock, "groups")
    assert store.nouns.head("groups").dedup.shed_upto
    await store.send("work", messages("job"))
    (job,) = await store.receive("work", Want())
    emit = Emit("queue", "groups", Outgoing(b"again", group="a", dedup_id="x"))
    assert await store.settle("work", [Ack(job.receipt, [emit])]) == [Settled()]
    assert await drain(store, "groups") == [b"x", b"crowd", b"crowd", b"crowd", b"crowd"]


async def test_Q71_a_fan_out_copy_repeats_an_id_that_only_the_disk_remembers(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published and emitted: the topic does not know the id, its queue does."""
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    await store.declare(
        Topology(topics=(TopicSpec("t", fifo=True),), subscriptions=(Subscription("t", "queue", "groups"),))
    )
    await send_one(store, "x")
    await send_one(store, "y")
    await crowd(store, clock, "groups")
    assert isinstance((await store.publish("t", [Outgoing(b"again", group="a", dedup_id="x")]))[0], Sent)
    await store.send("work", messages("job"))
    (job,) = await store.receive("work", Want())
    emit = Emit("topic", "t", Outgoing(b"again", group="a", dedup_id="y"))
    assert await store.settle("work", [Ack(job.receipt, [emit])]) == [Settled()]
    assert await drain(store, "groups") == [b"x", b"y", b"crowd", b"crowd", b"crowd", b"crowd"]


async def test_Q71_a_topic_answers_for_an_id_that_only_the_disk_remembers(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    await store.declare(Topology(topics=(TopicSpec("t"),), subscriptions=(Subscription("t", "queue", "work"),)))
    (first,) = await store.publish("t", [Outgoing(b"x", dedup_id="x")])
    for n in range(4):
        await clock.advance(31.0)
        await store.publish("t", [Outgoing(b"crowd", dedup_id=f"{n}")])
    (again,) = await store.publish("t", [Outgoing(b"y", dedup_id="x")])
    assert isinstance(first, Sent)
    assert again == Sent(first.id, 0, duplicate=True)


async def test_Q71_duplicates_in_one_batch_are_found_however_long_it_is(
    store: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not on disk yet is not let go: nobody else would know it."""
    monkeypatch.setattr(intake, "DEDUP_IN_MEMORY", 2)
    monkeypatch.setattr(dedup, "CROWDED", 2)
    ids = [*(f"{n}" for n in range(20)), *(f"{n}" for n in range(20))]
    results = await store.send("groups", [Outgoing(b"x", group="a", dedup_id=id) for id in ids])
    assert [isinstance(result, Sent) and result.duplicate for result in results] == [False] * 20 + [True] * 20
    await store.send("groups", [Outgoing(b"x", group="a", dedup_id="more")])
    assert len(store.nouns.head("groups").dedup) <= 4
    results = await store.send("groups", [Outgoing(b"x", group="a", dedup_id=id) for id in ids])
    assert [isinstance(result, Sent) and result.duplicate for result in results] == [True] * 40


# -- closing ----------------------------------------------------------------------------------------------------------
