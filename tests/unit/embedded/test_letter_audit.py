"""The audit tells how an action ended, whatever ended it: done, failed, cancelled, or cut off with its process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from killed_store import copy_killed

from pipeflow.audit import CUT_OFF, Entry
from pipeflow.clock import VirtualClock
from pipeflow.edits import parse_edit
from pipeflow.embedded import auditing
from pipeflow.embedded.choosing import Choice, Choosing, Tally
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite.audit import entries
from pipeflow.errors import ConfigurationError, Unavailable
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Bury, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.state.stored import Stored

MANY = 1_200
"""Letters of three chunks."""

Act = Callable[[Kept], Awaitable[object]]


async def redriven(store: Kept) -> object:
    return await store.redrive(Redrive("work"))


async def discarded(store: Kept) -> object:
    return await store.discard(Discard("work", every=True))


ACTIONS = pytest.mark.parametrize("act", [redriven, discarded])


async def opened(path: Path) -> Kept:
    store = await open_store(f"sqlite:///{path}", clock=VirtualClock(1000.0))
    assert isinstance(store, Kept)
    return store


async def with_letters(path: Path, count: int = MANY) -> Kept:
    store = await opened(path)
    await store.declare(Topology(queues=(QueueSpec("work", dead_letters="dead"),)))
    await store.send("work", [Outgoing(b"%d" % n) for n in range(count)])
    while deliveries := await store.receive("work", Want(500)):
        await store.settle("work", [Bury(delivery.receipt) for delivery in deliveries])
    return store


async def left(store: Kept) -> int:
    return len(await store.peek("work", 2 * MANY, True))


async def begun(store: Kept, act: Act) -> asyncio.Future[object]:
    """An action that has done its first chunk."""
    doing = asyncio.ensure_future(act(store))
    while not await store.audit():
        assert not doing.done()
    return doing


@ACTIONS
async def test_an_action_under_way_is_told_as_such_and_then_as_done(tmp_path: Path, act: Act) -> None:
    store = await with_letters(tmp_path / "s.db")
    doing = await begun(store, act)
    (entry,) = await store.audit()
    assert (entry.finished, entry.failure) == (False, "")
    await doing
    (entry,) = await store.audit()
    assert (entry.count, entry.finished, entry.failure) == (MANY, True, "")
    await store.close()


@ACTIONS
async def test_an_action_that_is_cancelled_is_told_as_far_as_it_came(tmp_path: Path, act: Act) -> None:
    store = await with_letters(tmp_path / "s.db")
    doing = await begun(store, act)
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    assert doing.cancelled()
    (entry,) = await store.audit()
    assert entry.finished
    assert entry.failure.startswith("cancelled")
    assert 0 < entry.count == MANY - await left(store) < MANY
    await store.close()
    again = await opened(tmp_path / "s.db")
    assert await again.audit() == [entry]
    await again.close()


@ACTIONS
async def test_an_action_that_fails_halfway_is_told_with_the_reason(
    tmp_path: Path, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db")
    take_out, taken = Choosing.take_out, list[str]()

    def fails(self: Choosing, message: Stored) -> object:
        if len(taken) == 500:
            raise ZeroDivisionError("a surprise")
        taken.append(message.id)
        return take_out(self, message)

    with monkeypatch.context() as broken:
        broken.setattr(Choosing, "take_out", fails)
        with pytest.raises(ZeroDivisionError):
            await act(store)
    (entry,) = await store.audit()
    assert (entry.finished, entry.failure) == (True, "ZeroDivisionError: a surprise")
    assert entry.count == MANY - await left(store) == 500
    await act(store)
    assert [(e.count, e.failure) for e in await store.audit()] == [(700, ""), (500, entry.failure)]
    await store.close()


@ACTIONS
async def test_an_action_that_died_with_its_process_is_told_as_cut_off_by_the_next_start(
    tmp_path: Path, act: Act
) -> None:
    store = await with_letters(tmp_path / "s.db")
    doing = await begun(store, act)
    copy_killed(tmp_path / "s.db", tmp_path / "x.db")
    again = await opened(tmp_path / "x.db")
    (entry,) = await again.audit()
    assert (entry.finished, entry.failure) == (True, CUT_OFF)
    assert 0 < entry.count == MANY - await left(again) < MANY
    await again.close()
    await doing
    await store.close()


@ACTIONS
async def test_an_action_in_a_store_that_closes_is_told_as_cut_off(
    tmp_path: Path, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db")
    matching, gate = Choosing.matching, asyncio.Event()

    async def slow(self: Choosing, choice: Choice, tally: Tally, size: int = 500) -> AsyncGenerator[list[Stored], None]:
        async with aclosing(matching(self, choice, tally, size)) as chunks:
            async for letters in chunks:
                yield letters
                await gate.wait()

    monkeypatch.setattr(Choosing, "matching", slow)
    doing = await begun(store, act)
    await store.close()
    gate.set()
    with pytest.raises(Unavailable):
        await doing
    again = await opened(tmp_path / "s.db")
    (entry,) = await again.audit()
    assert (entry.finished, entry.failure) == (True, CUT_OFF)
    assert 0 < entry.count == MANY - await left(again) < MANY
    await again.close()


async def test_a_start_after_an_unclean_stop_reads_no_entry_and_cut_off_stays_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 entries were read before the first answer."""
    store = await with_letters(tmp_path / "s.db")
    doing = await begun(store, redriven)
    copy_killed(tmp_path / "s.db", tmp_path / "x.db")
    read = list[object]()

    def reading(*arguments: Any) -> list[Entry]:
        read.append(arguments)
        return entries(*arguments)

    monkeypatch.setattr(auditing, "entries", reading)
    again = await opened(tmp_path / "x.db")
    await again.send("work", [Outgoing(b"1")])
    assert read == []
    for _ in range(3):
        assert [(entry.finished, entry.failure) for entry in await again.audit()] == [(True, CUT_OFF)]
        await again.close()
        again = await opened(tmp_path / "x.db")
    await again.close()
    await doing
    await store.close()


async def test_who_has_a_name_in_no_encoding_is_told_of_all_the_same(tmp_path: Path) -> None:
    """It failed the commit, and with it the store."""
    store = await with_letters(tmp_path / "s.db", 3)
    letter, *_ = await store.peek("work", dead=True)
    await store.edit(Rewrite("work", letter.id, parse_edit([], b"{}"), user="caf\udce9"))
    assert [entry.user for entry in await store.audit()] == ["caf\\udce9"]
    with pytest.raises(TypeError, match="redrive: 'utf-8' codec can't encode"):
        await store.redrive(Redrive("work", user="caf\udce9"))
    await store.send("work", [Outgoing(b"more")])
    await store.close()


async def test_a_move_that_an_earlier_process_began_is_gone_on_with_and_not_told_as_cut_off(tmp_path: Path) -> None:
    store = await with_letters(tmp_path / "s.db", 5)
    await store.start_move(Redrive("work", rate=1.0))
    copy_killed(tmp_path / "s.db", tmp_path / "x.db")
    await store.close()
    again = await opened(tmp_path / "x.db")
    (entry,) = await again.audit()
    assert (entry.action, entry.finished) == ("move", False)
    clock = again.clock
    assert isinstance(clock, VirtualClock)
    await clock.advance(60)
    end, entry = await again.audit()
    assert (end.action, entry.count, entry.finished, entry.failure) == ("end", 5, True, "")
    await again.close()


async def test_a_move_that_fails_before_its_first_letter_says_so_in_its_own_entry_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db", 5)

    def fails(self: Choosing, *arguments: object) -> object:
        raise ConfigurationError("a place does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(Choosing, "matching", fails)
        await store.start_move(Redrive("work"))
        clock = store.clock
        assert isinstance(clock, VirtualClock)
        await clock.advance(1)
    (move,) = await store.moves("work")
    assert (move.state, move.failure) == ("failed", "a place does not answer")
    entries: list[Entry] = await store.audit()
    assert [(e.action, e.finished, e.failure) for e in entries] == [
        ("end", True, ""),
        ("move", True, "a place does not answer"),
    ]
    assert (await store.redrive(Redrive("work"))).moved == 5
    await store.close()
