"""Damaged rows, however many lie one behind the other, hide none of those behind them (P7)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded import roll, searching
from pipeflow.embedded.opening import Kept
from pipeflow.letters import Discard, Redrive
from pipeflow.messages import Ack, Bury, Defer, Outgoing, Want
from pipeflow.protocols import Search
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

TOPOLOGY = Topology(
    queues=(
        QueueSpec("work", dead_letters="dead"),
        QueueSpec("dead", holds_dead_letters=True),
        QueueSpec("line", fifo=True, max_receives=None),
    )
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


async def opened(path: Path, clock: VirtualClock, hot: int = 3) -> Kept:
    store = await open_store(f"sqlite:///{path}?hot_messages={hot}", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(TOPOLOGY)
    return store


def damage(path: Path, *bodies: bytes) -> None:
    """Flip what lies on disk of these messages."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for body in bodies:
            assert connection.execute("UPDATE messages SET body = ? WHERE body = ?", (b"~" + body, body)).rowcount == 1


async def left_delayed(path: Path, clock: VirtualClock, bad: range, count: int) -> Kept:
    """Messages that come due one after the other, of which those in `bad` are damaged on disk."""
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"%d" % n, delay=100 + n) for n in range(count)])
    await store.close()
    damage(path, *(b"%d" % n for n in bad))
    return await opened(path, clock)


async def left_delayed_letters(path: Path, clock: VirtualClock, bad: range, count: int) -> Kept:
    """Dead letters that a receiver put back for a while, of which those in `bad` are damaged on disk."""
    store = await opened(path, clock, hot=100)
    await store.send("work", [Outgoing(b"%d" % n) for n in range(count)])
    await store.settle("work", [Bury(each.receipt) for each in await store.receive("work", Want(count))])
    letters = await store.receive("dead", Want(count))
    await store.settle("dead", [Defer(each.receipt, 100 + n) for n, each in enumerate(letters)])
    await store.close()
    damage(path, *(b"%d" % n for n in bad))
    return await opened(path, clock)


async def test_p7_a_search_goes_on_behind_a_page_of_damaged_delayed_messages(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "PAGE", 4)
    store = await left_delayed(path, clock, range(2, 11), 14)
    found = await store.search(Search("work", 100, state="delayed"))
    assert [each.body for each in found.messages] == [b"0", b"1", b"11", b"12", b"13"]
    await store.close()


async def test_p7_a_move_goes_on_behind_damaged_delayed_letters(path: Path, clock: VirtualClock) -> None:
    """One with a rate takes few at a time: a page of them is soon all damaged."""
    store = await left_delayed_letters(path, clock, range(2, 5), 8)
    await store.start_move(Redrive("work", rate=10))
    await clock.advance(10)
    (move,) = await store.moves("work")
    assert (move.state, move.moved) == ("completed", 5)
    assert sorted(each.body for each in await store.peek("work")) == [b"0", b"1", b"5", b"6", b"7"]
    await store.close()


async def test_p7_letters_behind_damaged_delayed_ones_are_discarded_too(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeflow.embedded.choosing.Choosing.matching.__defaults__", (2,))
    store = await left_delayed_letters(path, clock, range(2, 6), 8)
    assert (await store.discard(Discard("work", every=True))).discarded == 4
    await store.close()


async def test_p7_delayed_messages_behind_a_load_of_damaged_ones_come_due(path: Path, clock: VirtualClock) -> None:
    store = await left_delayed(path, clock, range(9), 12)
    await clock.advance(500)
    taken = await store.receive("work", Want(10))
    assert [each.body for each in taken] == [b"9", b"10", b"11"]
    stats = next(each for each in (await store.stats()).queues if each.name == "work")
    assert (stats.delayed, stats.quarantined) == (0, 9)
    await store.close()


async def test_p7_a_held_message_of_a_group_is_found_behind_damaged_ones_before_it(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds it across a restart keeps it: a load from before it may meet nothing but damage."""
    monkeypatch.setattr(roll, "GROUP_HEAD", 2)
    store = await opened(path, clock, hot=100)
    await store.send("line", [Outgoing(b"%d" % n, group="g") for n in range(8)])
    deliveries = await store.receive("line", Want(8, visibility_timeout=5000, durable=True))
    assert len(deliveries) == 8
    await store.close()
    damage(path, *(b"%d" % n for n in range(7)))
    store = await opened(path, clock, hot=100)
    assert await store.receive("line", Want(8)) == []
    (settled,) = await store.settle("line", [Ack(deliveries[7].receipt)])
    assert type(settled).__name__ == "Settled"
    await store.close()
