"""A move of dead letters goes on where a dead process left it, and moves nothing twice (SQS: Q97, Q100, Q101)."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.journal import Loaded
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.rewriting import Fitting
from pipeflow.errors import RefusedError
from pipeflow.filters import parse_where
from pipeflow.messages import Ack, Bury, Outgoing, Want
from pipeflow.protocols import Redrive
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

LETTERS = 40


async def opened(path: Path, clock: VirtualClock, options: str = "") -> Kept:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock)
    assert isinstance(store, Kept)
    return store


async def with_letters(
    path: Path, clock: VirtualClock, count: int = LETTERS, fifo: bool = False, options: str = ""
) -> Kept:
    """A store whose queue has so many dead letters."""
    store = await opened(path, clock, options)
    await store.declare(Topology(queues=(QueueSpec("work", fifo=fifo, dead_letters="work-dlq"),)))
    for n in range(count):
        await store.send("work", [Outgoing(b"%d" % n, group=f"g{n % 3}" if fifo else None)])
    while deliveries := await store.receive("work", Want(10)):
        await store.settle("work", [Bury(delivery.receipt) for delivery in deliveries])
    return store


async def killed(store: Kept, path: Path, clock: VirtualClock, options: str = "") -> tuple[Kept, Path]:
    """The same store opened from what a kill leaves now."""
    copy = path.with_name(f"x{path.name}")
    copy_killed(path, copy)
    await store.close()
    return await opened(copy, clock, options), copy


async def bodies(store: Kept) -> Counter[bytes]:
    return Counter(peeked.body for peeked in await store.peek("work", limit=1000))


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@pytest.mark.parametrize("options", ["", "?hot_messages=3"], ids=["hot", "cold"])
async def test_Q100_a_move_goes_on_after_each_kill_and_moves_every_letter_once(
    tmp_path: Path, options: str, fifo: bool
) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock, fifo=fifo, options=options)
    move = await store.start_move(Redrive("work", rate=10.0))
    lives = 0
    while (await store.moves("work"))[0].under_way:
        await clock.advance(0.35)
        for _ in range(lives % 7):
            await asyncio.sleep(0)  # the kill comes at another point of a step each time
        store, path = await killed(store, path, clock, options)
        lives += 1
        assert lives < 50
    (ended,) = await store.moves("work")
    assert (ended.id, ended.state, ended.moved, ended.to_move) == (move.id, "completed", LETTERS, LETTERS)
    assert await bodies(store) == {b"%d" % n: 1 for n in range(LETTERS)}
    assert lives > 5
    await store.close()


async def test_Q101_a_cancel_holds_after_a_kill(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock)
    move = await store.start_move(Redrive("work", rate=1.0))
    await clock.advance(5)
    await store.cancel_move(move.id)
    store, path = await killed(store, path, clock)
    await clock.advance(60)
    (ended,) = await store.moves()
    assert (ended.state, sum((await bodies(store)).values())) == ("cancelled", ended.moved)
    assert 5 <= ended.moved <= 7
    await store.close()


async def test_a_limit_and_a_filter_hold_across_kills(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock)
    where = parse_where("body>=10", clock.now())
    await store.start_move(Redrive("work", rate=10.0, limit=12, where=where))
    for _ in range(8):
        await clock.advance(0.4)
        store, path = await killed(store, path, clock)
    (ended,) = await store.moves()
    assert (ended.state, ended.moved) == ("completed", 12)
    assert await bodies(store) == {b"%d" % n: 1 for n in range(10, 22)}
    await store.close()


async def test_a_move_that_died_between_its_last_letter_and_its_end_moves_no_other(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock)
    move = await store.start_move(Redrive("work", rate=10.0, limit=3))
    while (move := (await store.moves())[0]).moved < 3:
        await clock.advance(0.1)
    assert move.state == "running", "it waits out its rate"
    store, path = await killed(store, path, clock)
    await clock.advance(10)
    (ended,) = await store.moves()
    assert (ended.state, ended.moved, sum((await bodies(store)).values())) == ("completed", 3, 3)
    await store.close()


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
async def test_letters_that_somebody_handles_meanwhile_are_not_moved_too(tmp_path: Path, fifo: bool) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock, fifo=fifo, options="?hot_messages=3")
    await store.start_move(Redrive("work", rate=10.0))
    handled: Counter[bytes] = Counter()
    while (await store.moves("work"))[0].under_way:
        for delivery in await store.receive("work-dlq", Want(2)):
            handled[delivery.body] += 1
            await store.settle("work-dlq", [Ack(delivery.receipt)])
        await clock.advance(0.1)
    assert handled
    assert handled + await bodies(store) == {b"%d" % n: 1 for n in range(LETTERS)}
    await store.close()


async def test_Q97_a_move_from_before_a_kill_is_still_the_only_one(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock)
    move = await store.start_move(Redrive("work", rate=1.0))
    store, path = await killed(store, path, clock)
    with pytest.raises(RefusedError, match=move.id):
        await store.start_move(Redrive("work"))
    await store.close()


async def test_a_letter_that_is_handled_while_it_is_read_is_not_moved_too(tmp_path: Path) -> None:
    """The disk still has it, and nothing in memory says that its group was there."""
    clock = VirtualClock(1000.0)
    store = await opened(tmp_path / "s.db", clock, "?hot_messages=1")
    await store.declare(Topology(queues=(QueueSpec("work", fifo=True, dead_letters="work-dlq"),)))
    for n in range(LETTERS):
        await store.send("work", [Outgoing(b"%d" % n, group=f"g{n}")])
    while deliveries := await store.receive("work", Want(10)):
        await store.settle("work", [Bury(delivery.receipt) for delivery in deliveries])
    handled: Counter[bytes] = Counter()
    load = store.journal.load

    async def handled_while_it_is_read(queue: int, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        loaded = await load(queue, after, limit, most_bytes)
        if not handled:
            for delivery in await store.receive("work-dlq", Want(1)):
                handled[delivery.body] += 1
                await store.settle("work-dlq", [Ack(delivery.receipt)])
        return loaded

    store.journal.load = handled_while_it_is_read  # type: ignore[method-assign]
    assert (await store.redrive(Redrive("work"))).moved == LETTERS - 1
    assert handled + await bodies(store) == {b"%d" % n: 1 for n in range(LETTERS)}
    await store.close()


async def test_a_move_that_meets_a_surprise_fails_alone_and_the_store_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprised(self: Fitting, letters: object, keeping: object) -> None:
        raise ZeroDivisionError("a surprise")

    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, clock, 3)
    monkeypatch.setattr(Fitting, "fit", surprised)
    await store.start_move(Redrive("work", rate=10.0))
    await clock.advance(1)
    (move,) = await store.moves("work")
    assert (move.state, move.failure) == ("failed", "ZeroDivisionError: a surprise")
    monkeypatch.undo()
    store, _ = await killed(store, path, clock)
    assert (await store.moves("work"))[0].state == "failed", "nor does the next start try it again"
    assert (await store.redrive(Redrive("work"))).moved == 3
    await store.close()
