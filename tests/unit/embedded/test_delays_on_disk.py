"""Delayed and deferred messages of a FIFO queue that only the disk has: counted as what they are, at every moment.

The head has three messages. `test_queues_against_a_naive_model` walks the same at random.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from gated_store import Gate, killed, turns
from msgspec.structs import replace

from pipeflow.clock import VirtualClock
from pipeflow.embedded import delays
from pipeflow.embedded.journal import Heads, Way
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Bury, Defer, Delivery, Outgoing, Want
from pipeflow.protocols import Discard, Redrive
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.webhooks import REPLAYED

GROUPS = QueueSpec("groups", fifo=True, max_receives=None)
SLOW = replace(GROUPS, delay=60.0)
LETTERS = QueueSpec("groups", fifo=True, dead_letters="dead", max_receives=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def opened(path: Path, clock: VirtualClock, spec: QueueSpec = SLOW) -> Kept:
    store = await open_store(f"sqlite:///{path}?hot_messages=3&durability=normal", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(Topology(queues=(spec,)))
    await clock.settle()
    return store


async def send(store: Kept, *bodies: str, group: str = "g", headers: dict[str, str] | None = None) -> None:
    await store.send("groups", [Outgoing(body.encode(), group=group, headers=headers) for body in bodies])


async def counts(store: Kept, name: str = "groups") -> tuple[int, int]:
    """(ready, delayed) of a queue."""
    (found,) = [each for each in (await store.stats()).queues if each.name == name]
    return found.ready, found.delayed


async def take(store: Kept, limit: int = 10) -> list[Delivery]:
    return list(await store.receive("groups", Want(limit)))


async def drain(store: Kept) -> str:
    out = ""
    while taken := await take(store):
        await store.settle("groups", [Ack(each.receipt) for each in taken])
        out += "".join(each.body.decode() for each in taken)
    return out


def damage(path: Path, offset: int) -> None:
    """Spoil the row so many before the last."""
    with sqlite3.connect(path) as connection:
        worse = "UPDATE messages SET crc = crc + 1 WHERE key = (SELECT max(key) - ? FROM messages)"
        connection.execute(worse, (offset,))
    connection.close()


# -- time -------------------------------------------------------------------------------------------------------------


async def test_Q102_messages_that_wait_on_disk_count_as_delayed_until_they_come_due(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde")
    await clock.advance(20)
    await send(store, *"fg")
    assert await counts(store) == (0, 7)
    await clock.advance(39.9)
    assert await counts(store) == (0, 7)
    await clock.advance(0.1)
    assert await counts(store) == (5, 2)
    await clock.advance(20)
    assert await counts(store) == (7, 0)
    assert await drain(store) == "abcdefg"
    assert await counts(store) == (0, 0)
    await store.close()


@pytest.mark.parametrize("stop", ["clean", "killed"])
async def test_Q102_they_do_after_a_restart_too(path: Path, clock: VirtualClock, stop: str) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde")
    await clock.advance(20)
    await send(store, *"fg")
    if stop == "clean":
        await store.close()
        again = await opened(path, clock)
    else:
        again = await opened(killed(path, "killed.db"), clock)
    assert await counts(again) == (0, 7)
    await clock.advance(40)
    assert await counts(again) == (5, 2)
    await again.close()
    again = await opened(path if stop == "clean" else path.with_name("killed.db"), clock)
    assert await counts(again) == (5, 2)
    await clock.advance(20)
    assert await counts(again) == (7, 0)
    assert await drain(again) == "abcdefg"
    await again.close()
    await store.close()


async def test_Q75_a_deferred_message_that_only_the_disk_has_counts_as_delayed_and_holds_its_group_back(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, GROUPS)
    await send(store, *"abcde")
    taken = await take(store, 2)
    await store.settle("groups", [Defer(each.receipt, 30) for each in taken])
    assert await counts(store) == (3, 2)
    await store.close()
    store = await opened(path, clock, GROUPS)
    (found,) = (await store.stats()).queues
    assert (found.ready, found.delayed, found.retrying) == (3, 2, 2)
    assert await take(store) == []
    await clock.advance(30)
    assert await counts(store) == (5, 0)
    assert await drain(store) == "abcde"
    await store.close()


async def test_Q102_retries_on_disk_are_told_apart_after_a_restart(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waiting() -> tuple[int, int]:
        (found,) = (await store.stats()).queues
        return found.delayed, found.retrying

    monkeypatch.setattr(delays, "PAGE", 2)
    store = await opened(path, clock, GROUPS)
    for group in "abcde":
        await send(store, group, group=group)
        (taken,) = await take(store, 1)
        await store.settle("groups", [Defer(taken.receipt, 30 if group < "d" else 90)])
    await store.declare(Topology(queues=(SLOW,)))
    await send(store, *"vwxyz")
    assert await waiting() == (10, 5)
    await store.close()
    store = await opened(path, clock)
    assert await waiting() == (10, 5)
    await clock.advance(30)
    assert await waiting() == (7, 2)
    await store.close()
    store = await opened(path, clock)
    assert await waiting() == (7, 2)
    await clock.advance(30)
    assert await waiting() == (2, 2)
    assert await store.purge("groups") == 10
    assert await waiting() == (0, 0)
    await store.close()


async def test_Q102_as_many_as_one_look_reads_come_due_at_once_and_so_do_more(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "PAGE", 3)
    for count in (6, 7, 8):
        store = await opened(path, clock)
        await send(store, *(str(n) for n in range(count)))
        await clock.advance(1)
        await send(store, "x")
        await clock.advance(59)
        assert await counts(store) == (count, 1)
        await clock.advance(1)
        assert await counts(store) == (count + 1, 0)
        assert await drain(store) == "".join(str(n) for n in range(count)) + "x"
        await store.close()


async def test_a_message_on_its_way_to_the_disk_while_others_come_due_comes_due_itself(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look reads what was committed before it began."""
    store = await opened(path, clock)
    await send(store, *"abcde")
    gate = Gate(store, "load_ending", monkeypatch)
    gate.close()
    advancing = asyncio.create_task(clock.advance(60))
    await gate.reached()
    await store.declare(Topology(queues=(replace(SLOW, delay=0.5),)))
    await send(store, "f")
    gate.open()
    await advancing
    await clock.settle()
    await clock.advance(0.5)
    assert await counts(store) == (6, 0)
    await store.close()


async def test_what_leaves_while_the_disk_is_looked_through_is_counted_once(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde")
    gate = Gate(store, "load_ending", monkeypatch)
    gate.close()
    advancing = asyncio.create_task(clock.advance(60))
    await gate.reached()
    assert await store.purge("groups") == 5
    await send(store, *"fghij")
    gate.open()
    await advancing
    await clock.settle()
    assert await counts(store) == (0, 5)
    await clock.advance(60)
    assert await counts(store) == (5, 0)
    await store.close()


async def test_Q102_Q18_what_ends_while_it_waits_is_counted_as_delayed_no_more(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock, replace(SLOW, retention=60.0))
    await send(store, *"abcde")
    await clock.advance(60)
    assert await counts(store) == (0, 0)
    (found,) = (await store.stats()).queues
    assert found.expired == 5
    await store.close()


async def test_Q102_a_purge_takes_what_waits_along(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde")
    assert await store.purge("groups") == 5
    assert await counts(store) == (0, 0)
    await send(store, *"fghij")
    assert await counts(store) == (0, 5)
    await clock.advance(60)
    assert await counts(store) == (5, 0)
    await store.close()


@pytest.mark.parametrize("fifo", [True, False])
async def test_Q102_what_was_purged_and_is_not_swept_away_yet_is_not_counted_after_a_kill(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, fifo: bool
) -> None:
    async def waiting(store: Kept) -> tuple[int, int, int]:
        (found,) = (await store.stats()).queues
        return found.ready, found.delayed, found.retrying

    async def defer(store: Kept, *groups: str) -> None:
        for group in groups:
            await send(store, group, group=group)
            (taken,) = await take(store, 1)
            await store.settle("groups", [Defer(taken.receipt, 60)])

    spec = QueueSpec("groups", fifo=fifo, max_receives=None)
    store = await opened(path, clock, spec)
    await defer(store, *"abcdefg")
    await store.close()
    store = await opened(path, clock, spec)
    monkeypatch.setattr(store.tending, "sweep", lambda head: None)
    assert await store.purge("groups") == 7
    await defer(store, "h", "i")
    again = await opened(killed(path, "killed.db"), clock, spec)
    assert await waiting(again) == (0, 2, 2)
    await clock.advance(60)
    assert await waiting(again) == (2, 0, 0)
    await again.close()
    await store.close()


async def test_letters_that_wait_on_disk_are_counted_until_they_are_moved_or_discarded(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock, LETTERS)
    for name in "abcdef":
        await send(store, name, group=name)
    while taken := await take(store):
        await store.settle("groups", [Bury(each.receipt) for each in taken])
    for delay in (30, 30, 30, 60, 60, 60):
        (letter,) = await store.receive("dead", Want(1))
        await store.settle("dead", [Defer(letter.receipt, delay)])
    assert await counts(store, "dead") == (0, 6)
    await store.close()
    store = await opened(path, clock, LETTERS)
    assert await counts(store, "dead") == (0, 6)
    assert (await store.redrive(Redrive("groups", limit=1))).moved == 1
    assert (await store.discard(Discard("groups", every=True, limit=1))).discarded == 1
    assert await counts(store, "dead") == (0, 4)
    await clock.advance(30)
    assert await counts(store, "dead") == (1, 3)
    assert (await store.discard(Discard("groups", every=True, limit=1))).discarded == 1
    assert await counts(store, "dead") == (0, 3)
    await clock.advance(30)
    assert await counts(store, "dead") == (3, 0)
    await store.close()


async def test_asking_for_counts_and_ages_brings_no_more_than_has_room_into_memory(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    for n in range(50):
        await send(store, "a", group=f"g{n}")
    await store.close()
    store = await opened(path, clock)
    for _ in range(50):
        assert await counts(store) == (0, 50)
    assert store.nouns.head("groups").hot <= 3
    await store.close()


# -- damage -----------------------------------------------------------------------------------------------------------


async def test_p7_a_damaged_row_that_waits_is_no_message_of_the_queue_once_it_was_met(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await send(store, *"abcdefgh")
    await store.close()
    damage(path, 2)
    store = await opened(path, clock)
    (found,) = (await store.stats()).queues
    assert (found.ready, found.delayed, found.quarantined) == (0, 7, 1)
    await clock.advance(60)
    assert await counts(store) == (7, 0)
    assert await drain(store) == "abcdegh"
    await store.close()


async def test_p7_a_body_that_is_damaged_is_found_when_it_is_read_and_counted_once(
    path: Path, clock: VirtualClock
) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde", "damaged")
    await store.close()
    path.write_bytes(path.read_bytes().replace(b"damaged", b"demaged"))
    store = await opened(path, clock)
    assert await counts(store) == (0, 6)
    # Six at once, of which the last cannot be.
    store.nouns.head("groups").limit = 100
    await store.tending.fed(store.nouns.head("groups"))
    assert await counts(store) == (0, 5)
    await clock.advance(60)
    assert await counts(store) == (5, 0)
    assert await drain(store) == "abcde"
    await store.close()


# -- another delay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 10.0, 30.0, 45.0, 90.0])
async def test_Q17_another_delay_is_for_what_waits_on_disk_and_is_counted_so(
    path: Path, clock: VirtualClock, delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "PAGE", 3)
    store = await opened(path, clock)
    await send(store, *"abcdefgh")
    await clock.advance(30)
    await send(store, *"ij")
    await store.declare(Topology(queues=(replace(SLOW, delay=delay),)))
    await clock.settle()
    early = delay <= 30
    assert await counts(store) == ((8, 2) if early and delay else (10, 0) if not delay else (0, 10))
    now = clock.now()
    await store.close()
    store = await opened(path, clock, replace(SLOW, delay=delay))  # the rows tell it
    for passed in (10, 20, 30, 45, 60, 75, 90):
        await clock.advance(now + passed - clock.now())
        first, second = passed + 30 >= delay, passed >= delay
        assert await counts(store) == (8 * first + 2 * second, 8 * (not first) + 2 * (not second)), passed
    assert await drain(store) == "abcdefghij"
    await store.close()


async def test_Q17_what_came_due_before_the_change_waits_no_longer(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock, replace(GROUPS, delay=5.0))
    await send(store, *"abcde")
    await clock.advance(5)
    await send(store, *"fg", group="h")
    await store.declare(Topology(queues=(SLOW,)))
    await clock.settle()
    assert await counts(store) == (5, 2)
    await store.close()
    store = await opened(path, clock)
    assert await counts(store) == (5, 2)
    assert await drain(store) == "abcde"
    await clock.advance(60)
    assert await drain(store) == "fg"
    await store.close()


async def test_Q17_what_came_due_and_is_loaded_during_the_change_waits_no_longer(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "PAGE", 2)
    store = await opened(path, clock, replace(GROUPS, delay=5.0))
    await send(store, *"abcdefgh")
    await clock.advance(5)
    await send(store, *"ijklm", group="h")
    await store.declare(Topology(queues=(SLOW,)))
    assert not store.nouns.head("groups").tail.settled
    assert await drain(store) == "abcdefgh"
    await clock.settle()
    assert await counts(store) == (0, 5)
    await store.close()


async def test_Q17_deferred_and_replayed_messages_on_disk_keep_their_time(path: Path, clock: VirtualClock) -> None:
    store = await opened(path, clock, GROUPS)
    await send(store, *"ab")
    taken = await take(store, 2)
    await store.settle("groups", [Defer(each.receipt, 30) for each in taken])
    await store.declare(Topology(queues=(replace(GROUPS, delay=20.0),)))
    await send(store, *"cd", headers={REPLAYED: "1"})
    await send(store, *"ef")
    await store.close()
    store = await opened(path, clock, replace(GROUPS, delay=20.0))
    assert await counts(store) == (0, 6)
    await store.declare(Topology(queues=(SLOW,)))
    await clock.settle()
    assert await counts(store) == (0, 6)
    await clock.advance(20)
    assert await counts(store) == (2, 4)
    await clock.advance(10)
    assert await counts(store) == (4, 2)
    await clock.advance(30)
    assert await counts(store) == (6, 0)
    await store.close()


async def kills_during_a_change(
    path: Path, clock: VirtualClock, before: QueueSpec, after: QueueSpec, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """What kills would leave while the rows of six of nine messages are written anew, two at a time."""
    monkeypatch.setattr(delays, "PAGE", 2)
    store = await opened(path, clock, before)
    await send(store, *"abcdefghi")
    await clock.advance(10)
    gate = Gate(store, "load_ending", monkeypatch)
    gate.close()
    copies: list[Path] = []
    under_way = 0
    declaring = asyncio.create_task(store.declare(Topology(queues=(after,))))
    await gate.reached()
    for n in range(12):
        await turns(store)
        copies.append(killed(path, f"killed{n}.db"))
        under_way += not store.nouns.head("groups").tail.settled
        gate.step()
    gate.open()
    await declaring
    await clock.settle()
    assert store.nouns.head("groups").tail.settled
    assert 3 < under_way < len(copies)
    await store.close()
    return copies


async def test_Q17_a_change_that_was_under_way_at_a_kill_goes_on(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sooner = replace(SLOW, delay=20.0)
    for copy in await kills_during_a_change(path, clock, SLOW, sooner, monkeypatch):
        later = VirtualClock(1015.0)
        store = await opened(copy, later, sooner)
        assert await counts(store) == (0, 9)
        await later.advance(5)
        assert await counts(store) == (9, 0)
        assert await drain(store) == "abcdefghi"
        await store.close()


async def test_Q17_a_change_to_none_that_was_under_way_at_a_kill_is_not_in_the_way_of_another(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for copy in await kills_during_a_change(path, clock, SLOW, GROUPS, monkeypatch):
        store = await opened(copy, clock, GROUPS)
        async with asyncio.timeout(5):
            await store.declare(Topology(queues=(SLOW,)))
        assert await counts(store) == (9, 0)
        assert await drain(store) == "abcdefghi"
        await store.close()


async def test_Q17_Q102_what_is_to_wait_for_longer_than_it_was_to_be_kept_does_so_after_a_kill(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is opened again when rows that were not written anew tell that their messages have ended."""
    before = replace(SLOW, retention=100.0)
    after = replace(before, delay=1000.0)
    for copy in await kills_during_a_change(path, clock, before, after, monkeypatch):
        later = VirtualClock(1200.0)
        store = await opened(copy, later, after)
        assert await counts(store) == (0, 9)
        await later.advance(800)
        assert await counts(store) == (9, 0)
        assert await drain(store) == "abcdefghi"
        await store.close()


async def test_Q17_a_second_change_waits_for_the_first(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what came due by the first would wait again by the second."""
    monkeypatch.setattr(delays, "PAGE", 2)
    store = await opened(path, clock)
    await send(store, *"abcdefgh")
    await clock.advance(10)
    gate = Gate(store, "load_ending", monkeypatch)
    gate.close()
    first = asyncio.create_task(store.declare(Topology(queues=(replace(SLOW, delay=10.0),))))
    second = asyncio.create_task(store.declare(Topology(queues=(replace(SLOW, delay=90.0),))))
    await gate.reached()
    gate.open()
    await first
    await second
    await clock.settle()
    assert await counts(store) == (8, 0)
    assert await drain(store) == "abcdefgh"
    await store.close()


@pytest.mark.parametrize("page", [3, 100])
async def test_Q17_what_is_loaded_while_rows_are_written_anew_waits_as_they_do(
    path: Path, clock: VirtualClock, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load right behind the change reads rows that are on their way to the disk, and rows that are not yet."""
    monkeypatch.setattr(delays, "PAGE", page)
    store = await opened(path, clock)
    await send(store, *"abcdefgh")
    head = store.nouns.head("groups")
    head.limit = 100
    await store.declare(Topology(queues=(replace(SLOW, delay=20.0),)))
    await clock.settle()
    assert head.state.delayed == 8
    assert await counts(store) == (0, 8)
    await clock.advance(20)
    assert await counts(store) == (8, 0)
    assert await drain(store) == "abcdefgh"
    await store.close()


async def test_Q17_a_change_behind_a_purge_is_not_taken_for_the_one_before_it(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path, clock)
    await send(store, *"abcde")
    load, looks = store.journal.load_ending, 0

    async def overtaken(queue: int, way: Way, after: tuple[float, int], limit: int) -> Heads:
        nonlocal looks
        found = await load(queue, way, after, limit)
        looks += way == "due"
        if way == "due" and looks == 1:
            await store.purge("groups")
            await send(store, *"fghij")
            await store.declare(Topology(queues=(replace(SLOW, delay=10.0),)))
        return found

    monkeypatch.setattr(store.journal, "load_ending", overtaken)
    await store.declare(Topology(queues=(replace(SLOW, delay=90.0),)))
    await clock.settle()
    assert looks > 1
    assert await counts(store) == (0, 5)
    await clock.advance(10)
    assert await counts(store) == (5, 0)
    await store.close()
