"""Keys of delayed messages that only the disk has: restarts, kills, and what happens between lookup and use."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gated_store import TOPOLOGY, Gate, counted, drain, killed, messages, opened, rows_of, turns
from older_store import BEFORE_7

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.socket import connect, socket_path
from pipeflow.embedded.sqlite import schema
from pipeflow.messages import Outgoing, Sent
from pipeflow.protocols import Search
from pipeflow.registry import open_store
from pipeflow.specs import YEAR


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


async def send(store: Kept, body: str, key: str, delay: float) -> Sent:
    (sent,) = await store.send("work", messages(body, key=key, delay=delay))
    assert isinstance(sent, Sent)
    return sent


async def fill(store: Kept, delay: float = 100.0) -> None:
    """Delayed messages enough for the rest to be on disk only, where the head is small."""
    await store.send("work", messages(*"123456", delay=delay))
    assert store.nouns.head("work").tail.delayed or store.nouns.head("work").limit > 3


# -- restarts and kills -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "?hot_messages=3"], ids=["hot", "cold"])
async def test_a_key_outlives_a_restart_and_a_year(path: Path, options: str) -> None:
    clock = VirtualClock(1000.0)
    store = await opened(path, clock, options)
    await fill(store, YEAR)
    for key in "abc":
        await send(store, f"old {key}", key, YEAR)
    await store.close()
    clock = VirtualClock(1000.0 + YEAR / 2)
    store = await opened(path, clock, options)
    assert (await send(store, "new a", "a", YEAR)).replaced
    assert await store.cancel_delayed("work", "b")
    await store.close()
    clock = VirtualClock(1000.0 + YEAR - 1)
    store = await opened(path, clock, options)
    assert await drain(store, "work") == []
    await clock.advance(1.0)
    assert sorted(await drain(store, "work")) == [*(b"%d" % n for n in range(1, 7)), b"old c"]
    assert not await store.cancel_delayed("work", "c")
    await clock.advance(YEAR / 2)
    assert await drain(store, "work") == [b"new a"]
    stats = await counted(store, "work")
    assert (stats.sent, stats.acked, stats.cancelled) == (10, 8, 2)
    assert await rows_of(store, "work") == (0, 0, 0)
    await store.close()


@pytest.mark.parametrize("options", ["", "?hot_messages=3"], ids=["hot", "cold"])
async def test_after_a_kill_the_old_message_is_there_or_the_new_one_and_never_both(
    path: Path, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock(1000.0)
    store = await opened(path, clock, options)
    await fill(store)
    for n in range(12):
        await send(store, f"{n}", "k", 200.0)
        copy = killed(path, f"copy{n}.db")
        other = VirtualClock(1000.0)
        again = await opened(copy, other, options)
        await other.advance(200.0)
        assert (await drain(again, "work"))[6:] == [b"%d" % n]
        await again.close()
    await store.close()


async def test_a_store_of_the_format_before_takes_keys(path: Path, clock: VirtualClock) -> None:
    """Its rows have no key, and the format is raised: an older pipeflow would read names of keys as groups."""
    store = await opened(path, clock)
    await fill(store)
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.executescript(BEFORE_7 + "PRAGMA user_version = 5")
    connection.close()
    store = await opened(path, clock)
    await send(store, "old", "k", 200.0)
    assert (await send(store, "new", "k", 200.0)).replaced
    await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    connection.close()


# -- between lookup and use -------------------------------------------------------------------------------------------


async def test_two_sends_of_one_key_that_look_at_once_leave_one_message(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    await send(store, "old", "k", 200.0)
    gate = Gate(store, "load_keyed", monkeypatch)
    gate.close()
    both = [asyncio.create_task(send(store, body, "k", 200.0)) for body in ("a", "b")]
    await gate.reached()
    await turns(store)
    gate.open()
    sent = [await each for each in both]
    assert [each.replaced for each in sent] == [True, True]
    await clock.advance(200.0)
    assert (await drain(store, "work"))[6:] == [b"b"]


async def test_a_batch_replaces_what_leaves_memory_while_its_first_messages_are_sent(store: Kept) -> None:
    await send(store, "old", "k", 100.0)
    await store.send("work", messages("1", "2", delay=10.0))
    assert not store.nouns.head("work").tail.delayed
    sent = await store.send("work", [*messages("3", delay=10.0), *messages("new", key="k", delay=100.0)])
    assert isinstance(sent[-1], Sent)
    assert sent[-1].replaced
    assert [each.body for each in await store.peek("work") if each.key == "k"] == [b"new"]


async def test_a_message_that_comes_due_while_its_key_is_looked_up_is_not_taken_back(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    await send(store, "old", "k", 200.0)
    gate = Gate(store, "load_keyed", monkeypatch)
    gate.close()
    cancelling = asyncio.create_task(store.cancel_delayed("work", "k"))
    await gate.reached()
    await clock.advance(200.0)
    gate.open()
    assert not await cancelling
    assert sorted(await drain(store, "work"))[6:] == [b"old"]


async def test_a_message_that_is_loaded_while_its_key_is_looked_up_is_found_in_memory(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    await send(store, "old", "k", 100.5)
    gate = Gate(store, "load_keyed", monkeypatch)
    gate.close()
    cancelling = asyncio.create_task(store.cancel_delayed("work", "k"))
    await gate.reached()
    store.nouns.head("work").limit = 100  # the next load takes all
    await clock.advance(100.0)
    assert "k" in store.nouns.head("work").state.keys
    gate.open()
    assert await cancelling
    await clock.advance(10.0)
    assert len(await drain(store, "work")) == 6


async def test_a_purge_while_a_key_is_looked_up_leaves_nothing_to_cancel(
    store: Kept, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store)
    await send(store, "old", "k", 200.0)
    gate = Gate(store, "load_keyed", monkeypatch)
    gate.close()
    cancelling = asyncio.create_task(store.cancel_delayed("work", "k"))
    await gate.reached()
    await store.purge("work")
    gate.open()
    assert not await cancelling
    stats = await counted(store, "work")
    assert (stats.delayed, stats.purged, stats.cancelled) == (0, 7, 0)


async def test_replaced_messages_are_not_kept_in_memory_until_they_would_have_come_due(path: Path) -> None:
    store = await opened(path, VirtualClock(1000.0), "")
    for _ in range(100):
        await store.send("work", [Outgoing(b"x" * 100, key="k", delay=YEAR) for _ in range(100)])
    head = store.nouns.head("work")
    assert (head.state.delayed, head.bytes) == (1, 100)
    assert len(head.state._waiting) < 5_000
    assert (await rows_of(store, "work"))[0] == 1
    await store.close()


async def test_tenants_and_keys_share_an_index_and_nobody_takes_one_for_the_other(
    path: Path, clock: VirtualClock
) -> None:
    """The cold tail of a fair queue is asked for groups while keyed messages lie beside it."""
    store = await opened(path, clock)
    for n in range(12):
        await send(store, f"late {n}", f"a{n}", 500.0)
    for n in range(60):
        await store.send("work", [Outgoing(b"%d" % n, group="loud" if n % 6 else f"a{n}")])
    out = await drain(store, "work")
    assert sorted(out) == sorted(b"%d" % n for n in range(60))
    assert await store.cancel_delayed("work", "a3")
    await clock.advance(500.0)
    assert sorted(await drain(store, "work")) == sorted(b"late %d" % n for n in range(12) if n != 3)
    assert await rows_of(store, "work") == (0, 0, 0)
    await store.close()


@pytest.mark.parametrize("seed", range(4))
async def test_however_many_send_and_cancel_at_once_a_key_has_one_message(
    path: Path, clock: VirtualClock, seed: int
) -> None:
    """Many tasks, few keys, a head of three: loads, sheds and lookups cross each other in every order."""
    store = await opened(path, clock, "?hot_messages=3&durability=normal")
    dice = random.Random(seed)
    sent = cancelled = seen = 0

    async def work() -> None:
        nonlocal sent, cancelled
        for _ in range(40):
            key = dice.choice("abcdef")
            match dice.choice(["send", "send", "send", "cancel", "plain", "many"]):
                case "send":
                    each = await send(store, key, key, dice.choice([3.0, 20.0, 100.0]))
                    cancelled += each.replaced
                    sent += 1
                case "many":
                    batch = messages(*"abc", key=key, delay=dice.choice([10.0, 60.0]))
                    results = await store.send("work", batch)
                    cancelled += sum(isinstance(result, Sent) and result.replaced for result in results)
                    sent += len(results)
                case "cancel":
                    done = await store.cancel_delayed("work", key)
                    cancelled += done
                case "plain":
                    await store.send("work", messages("plain", delay=dice.choice([1.0, 50.0])))
                    sent += 1

    for _ in range(6):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(work())
        await clock.settle()
        keys = Counter(each.key for each in await store.peek("work", limit=10_000) if each.key is not None)
        assert set(keys.values()) <= {1}, keys
        await clock.advance(dice.choice([2.0, 5.0, 30.0]))
        seen += len(await drain(store, "work"))
    await clock.advance(100.0)
    seen += len(await drain(store, "work"))
    stats = await counted(store, "work")
    assert (stats.sent, stats.cancelled, stats.acked, stats.delayed) == (sent, cancelled, seen, 0)
    assert sent == cancelled + seen
    assert await rows_of(store, "work") == (0, 0, 0)
    await store.close()


async def test_the_socket_carries_keys(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.declare(TOPOLOGY)
    client = await connect(socket_path(path), "sqlite:///", store.clock)
    (first,) = await client.send("work", messages("a", key="k", delay=3600.0))
    (second,) = await client.send("work", messages("b", key="k", delay=3600.0))
    assert isinstance(first, Sent)
    assert isinstance(second, Sent)
    assert (first.replaced, second.replaced) == (False, True)
    assert [each.key for each in await client.peek("work")] == ["k"]
    found = await client.search(Search("work", contains=b"b", state="delayed"))
    assert ([each.body for each in found], found.examined, found.complete) == ([b"b"], 1, True)
    assert await client.cancel_delayed("work", "k")
    assert not await client.cancel_delayed("work", "k")
    await client.close()
    await store.close()
