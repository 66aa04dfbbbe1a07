"""A deleted queue stays deleted: no row comes back, in it or in the queue that has its number next (SQS: Q105)."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded import tending
from pipeflow.embedded.head import Head
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Bury, Failure, Outgoing, Settled, Stale, Want
from pipeflow.protocols import Redrive
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

MANY = 50


async def opened(path: Path) -> Kept:
    store = await open_store(f"sqlite:///{path}?hot_messages=3", clock=VirtualClock(1000.0))
    assert isinstance(store, Kept)
    return store


async def killed(store: Kept, path: Path) -> tuple[Kept, Path]:
    """The same store opened from what a kill leaves now."""
    copy = path.with_name(f"x{path.name}")
    copy_killed(path, copy)
    await store.close()
    return await opened(copy), copy


async def rows(store: Kept) -> tuple[int, list[str], int]:
    """(messages on disk, kinds of nouns, queues with counters)."""
    await store.clock.settle()  # type: ignore[attr-defined]  # a virtual one
    await store.committed()

    def read(connection: object) -> tuple[int, list[str], int]:
        execute = connection.execute  # type: ignore[attr-defined]  # a connection
        (messages,) = execute("SELECT count(*) FROM messages").fetchone()
        (counted,) = execute("SELECT count(*) FROM queue_counters").fetchone()
        return messages, [kind for (kind,) in execute("SELECT kind FROM nouns ORDER BY kind")], counted

    return await store.journal.read(read)


async def with_messages(path: Path) -> Kept:
    store = await opened(path)
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    await store.send("q", [Outgoing(b"old") for _ in range(MANY)])
    await store.send("q", [Outgoing(b"late", delay=50.0) for _ in range(MANY)])
    return store


async def test_Q105_every_row_of_a_deleted_queue_leaves_the_disk(tmp_path: Path) -> None:
    store = await with_messages(tmp_path / "s.db")
    assert await store.delete_queue("q") == 2 * MANY
    assert await rows(store) == (0, [], 0)
    await store.close()


async def test_Q105_a_kill_after_a_deletion_brings_nothing_back_and_the_next_start_sweeps_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store = await with_messages(path)
    with monkeypatch.context() as slow:
        # Nothing of it is swept before the kill.
        slow.setattr(tending.Tending, "sweep", lambda tending, head: None)
        await store.delete_queue("q")
        left, kinds, counted = await rows(store)
        assert left > MANY, "all but what was in memory"
        assert (kinds, counted) == (["gone"], 1)
        store, path = await killed(store, path)
        assert (await store.describe()).queues == ()
        await store.declare(Topology(queues=(QueueSpec("other"), QueueSpec("q"))))
        for name in ("other", "q"):
            assert await store.receive(name, Want(10)) == []
    store, path = await killed(store, path)
    assert await rows(store) == (0, ["queue", "queue"], 2)
    await store.send("q", [Outgoing(b"new")])
    (delivery,) = await store.receive("q", Want(10))
    assert (delivery.body, delivery.sequence) == (b"new", 1)
    await store.close()


async def test_Q71_a_new_queue_of_the_same_name_knows_no_ids_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = await opened(path)
    line = Topology(queues=(QueueSpec("line", fifo=True),))
    await store.declare(line)
    await store.send("line", [Outgoing(b"1", group="g", dedup_id="1")])
    await store.delete_queue("line")
    assert await rows(store) == (0, [], 0), "its number is free"
    await store.close()
    for _ in range(2):
        # Ids are read at the start, for the queues that there are.
        store = await opened(path)
        await store.declare(line)
        await store.close()
    store = await opened(path)
    (sent,) = await store.send("line", [Outgoing(b"2", group="g", dedup_id="1")])
    assert not sent.duplicate  # type: ignore[union-attr]  # it was accepted
    await store.close()


async def test_Q51_a_receipt_of_a_deleted_queue_names_nothing_in_the_queue_that_has_its_name_next(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "a.db")
    topology = Topology(queues=(QueueSpec("q"),))
    await store.declare(topology)
    await store.send("q", [Outgoing(b"old")])
    (old,) = await store.receive("q", Want(1))
    for _ in range(2):
        await store.delete_queue("q")
        await store.declare(topology)
        await store.send("q", [Outgoing(b"new")])
        (new,) = await store.receive("q", Want(1))
        assert new.receipt != old.receipt
        (answer,) = await store.settle("q", [Ack(old.receipt)])
        assert isinstance(answer, Stale)
        old = new
    assert await store.settle("q", [Ack(old.receipt)]) == [Settled()]
    await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_deleted_queues_leave_memory(tmp_path: Path, kind: str) -> None:
    url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/s.db?hot_messages=3"
    clock = VirtualClock(1000.0)
    store = await open_store(url, clock=clock)
    for n in range(5):
        await store.declare(Topology(queues=(QueueSpec(f"fleeting-{n}", dead_letters=f"fleeting-dead-{n}"),)))
        await store.send(f"fleeting-{n}", [Outgoing(b"x", dedup_id=str(k), priority=k % 2) for k in range(10)])
        (delivery,) = await store.receive(f"fleeting-{n}", Want(1))
        await store.settle(f"fleeting-{n}", [Bury(delivery.receipt, Failure(1000.0, 1, "E", "m"))])
        await store.redrive(Redrive(f"fleeting-{n}"))
        await store.delete_queue(f"fleeting-{n}")
        await store.delete_queue(f"fleeting-dead-{n}")
        await clock.settle()
        del delivery
    await clock.advance(1)
    gc.collect()
    kept = {each.spec.name for each in gc.get_objects() if isinstance(each, Head)}
    await store.close()
    # The task that swept last still has what it swept in its hands.
    assert {name for name in kept if name.startswith("fleeting")} <= {"fleeting-4", "fleeting-dead-4"}
