"""The hot head and the cold tail: bounded memory, unbroken order, on a head of three messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Defer, Delivery, Outgoing, Release, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

HEAD = 3
QUEUES = Topology(
    queues=(
        QueueSpec("line", retention=10_000, dead_letters="line-dlq"),
        QueueSpec("groups", fifo=True, retention=10_000, max_receives=None),
    )
)


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


async def open_small(path: Path, clock: VirtualClock) -> Store:
    store = await open_store(f"sqlite:///{path}?hot_messages={HEAD}", clock=clock)
    await store.declare(QUEUES)
    return store


async def take(store: Store, queue: str, limit: int = 10) -> list[Delivery]:
    return list(await store.receive(queue, Want(limit)))


async def drain(store: Store, queue: str) -> list[bytes]:
    out: list[bytes] = []
    while deliveries := await take(store, queue, 7):
        await store.settle(queue, [Ack(delivery.receipt) for delivery in deliveries])
        out += bodies(deliveries)
    return out


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


@pytest.fixture
async def store(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Store]:
    opened = await open_small(tmp_path / "store.db", clock)
    yield opened
    await opened.close()


def head(store: Store, queue: str) -> object:
    assert isinstance(store, Kept)
    return store.nouns.head(queue)


async def test_a_backlog_beyond_the_head_comes_out_in_the_order_of_sending(store: Store) -> None:
    sent = [b"%d" % n for n in range(100)]
    for body in sent:
        await store.send("line", [Outgoing(body)])
    assert await drain(store, "line") == sent


async def test_memory_holds_the_head_only(store: Store) -> None:
    assert isinstance(store, Kept)
    await store.send("line", [Outgoing(b"x" * 100) for _ in range(500)])
    state = store.nouns.head("line").state
    assert state.ready + state.in_flight <= 2 * HEAD
    assert (await store.stats()).queues[0].ready == 500


async def test_a_queue_is_hot_again_when_its_tail_was_read_to_the_end(store: Store) -> None:
    assert isinstance(store, Kept)
    await store.send("line", [Outgoing(b"old") for _ in range(20)])
    await drain(store, "line")
    assert store.nouns.head("line").tail.ready == 0
    await store.send("line", [Outgoing(b"new")])
    assert store.nouns.head("line").state.ready == 1


async def test_order_holds_while_senders_and_receivers_take_turns(store: Store) -> None:
    received: list[bytes] = []
    sent: list[bytes] = []
    for turn in range(40):
        batch = [b"%d" % (turn * 5 + n) for n in range(5)]
        sent += batch
        await store.send("line", [Outgoing(body) for body in batch])
        deliveries = await take(store, "line", 4)
        await store.settle("line", [Ack(delivery.receipt) for delivery in deliveries])
        received += bodies(deliveries)
    assert received + await drain(store, "line") == sent


async def test_the_tail_survives_a_restart_in_order(tmp_path: Path, clock: VirtualClock) -> None:
    store = await open_small(tmp_path / "again.db", clock)
    sent = [b"%d" % n for n in range(50)]
    await store.send("line", [Outgoing(body) for body in sent])
    first = await take(store, "line", 5)
    await store.settle("line", [Ack(delivery.receipt) for delivery in first])
    await store.close()
    store = await open_small(tmp_path / "again.db", clock)
    assert (await store.stats()).queues[0].ready == 50 - len(first)
    assert bodies(first) + await drain(store, "line") == sent
    await store.close()


async def test_a_delayed_message_takes_its_place_when_it_comes_due(store: Store, clock: VirtualClock) -> None:
    """The tail is ordered by the moment a message became ready."""
    await store.send("line", [Outgoing(b"late", delay=50.0)])
    await store.send("line", [Outgoing(b"%d" % n) for n in range(20)])
    await clock.advance(60)
    await store.send("line", [Outgoing(b"last")])
    assert await drain(store, "line") == [*(b"%d" % n for n in range(20)), b"late", b"last"]


async def test_delayed_messages_beyond_the_bound_wait_on_disk_and_come_due_in_time(
    store: Store, clock: VirtualClock
) -> None:
    assert isinstance(store, Kept)
    delays = [float((n * 37) % 100 + 1) for n in range(60)]
    for delay in delays:
        await store.send("line", [Outgoing(b"%d" % delay, delay=delay)])
    assert store.nouns.head("line").state.delayed <= 2 * HEAD
    assert (await store.stats()).queues[0].delayed == 60
    out: list[bytes] = []
    for _ in range(101):
        await clock.advance(1.0)
        out += await drain(store, "line")
    assert out == [b"%d" % delay for delay in sorted(delays)]


async def test_retries_beyond_the_bound_wait_on_disk_too(store: Store, clock: VirtualClock) -> None:
    await store.send("line", [Outgoing(b"%d" % n) for n in range(30)])
    while deliveries := await take(store, "line", 5):
        await store.settle("line", [Defer(delivery.receipt, 100.0) for delivery in deliveries])
    assert (await store.stats()).queues[0].delayed == 30
    await clock.advance(100.0)
    assert sorted(await drain(store, "line")) == sorted(b"%d" % n for n in range(30))


async def test_Q80_a_blocked_group_with_a_backlog_hides_no_other(store: Store) -> None:
    await store.send("groups", [Outgoing(b"a%d" % n, group="a") for n in range(100)])
    await store.send("groups", [Outgoing(b"b%d" % n, group="b") for n in range(5)])
    blocking = await take(store, "groups", 1)
    assert bodies(blocking) == [b"a0"]
    others: list[bytes] = []
    while deliveries := await take(store, "groups", 1):
        others += bodies(deliveries)
        await store.settle("groups", [Ack(delivery.receipt) for delivery in deliveries])
    assert others == [b"b%d" % n for n in range(5)]


async def test_Q75_groups_keep_their_order_through_the_tail(store: Store) -> None:
    await store.send("groups", [Outgoing(b"%d" % n, group=f"g{n % 13}") for n in range(200)])
    out = [int(body) for body in await drain(store, "groups")]
    assert sorted(out) == list(range(200))
    for group in range(13):
        mine = [n for n in out if n % 13 == group]
        assert mine == sorted(mine)


async def test_Q68_a_purge_takes_the_tail_along_and_nothing_comes_back(store: Store, clock: VirtualClock) -> None:
    await store.send("line", [Outgoing(b"%d" % n) for n in range(50)])
    await store.send("line", [Outgoing(b"later", delay=5.0) for _ in range(20)])
    await take(store, "line", 2)
    assert await store.purge("line") == 70
    await store.send("line", [Outgoing(b"new")])
    await clock.advance(100)
    assert await drain(store, "line") == [b"new"]


async def test_Q68_a_purge_holds_after_a_restart(tmp_path: Path, clock: VirtualClock) -> None:
    store = await open_small(tmp_path / "purged.db", clock)
    await store.send("line", [Outgoing(b"%d" % n) for n in range(50)])
    await store.purge("line")
    await store.close()
    store = await open_small(tmp_path / "purged.db", clock)
    await store.send("line", [Outgoing(b"new")])
    assert await drain(store, "line") == [b"new"]
    await store.close()


async def test_Q107_cold_messages_expire_and_are_counted(store: Store, clock: VirtualClock) -> None:
    await store.send("line", [Outgoing(b"%d" % n) for n in range(50)])
    await clock.advance(10_000)
    assert await take(store, "line") == []
    stats = (await store.stats()).queues[0]
    assert (stats.expired, stats.ready) == (50, 0)


async def test_looking_at_a_queue_sees_the_tail_and_moves_nothing(store: Store) -> None:
    await store.send("line", [Outgoing(b"%d" % n) for n in range(30)])
    peeked = await store.peek("line", limit=25)
    assert [message.body for message in peeked] == [b"%d" % n for n in range(25)]
    assert await drain(store, "line") == [b"%d" % n for n in range(30)]


async def test_counts_are_exact_at_every_restart(tmp_path: Path, clock: VirtualClock) -> None:
    """SQS: Q102, approximate there, exact here."""
    path = tmp_path / "counts.db"
    sent = acked = 0
    for turn in range(6):
        store = await open_small(path, clock)
        await store.send("line", [Outgoing(b"x") for _ in range(11)])
        sent += 11
        deliveries = await take(store, "line", 4 + turn)
        await store.settle("line", [Ack(delivery.receipt) for delivery in deliveries[:-1]])
        await store.settle("line", [Defer(delivery.receipt, 5.0) for delivery in deliveries[-1:]])
        acked += len(deliveries) - 1
        stats = (await store.stats()).queues[0]
        assert (stats.sent, stats.acked) == (sent, acked)
        assert stats.ready + stats.delayed + stats.in_flight == sent - acked
        await store.close()


async def test_retries_and_delayed_sends_are_told_apart(store: Store, clock: VirtualClock) -> None:
    await store.send("line", [Outgoing(b"later", delay=500.0) for _ in range(12)])
    await store.send("line", [Outgoing(b"now") for _ in range(10)])
    while deliveries := await take(store, "line"):
        await store.settle("line", [Defer(delivery.receipt, 100.0) for delivery in deliveries])
    stats = (await store.stats()).queues[0]
    assert (stats.delayed, stats.retrying) == (22, 10)
    await clock.advance(100)
    assert len(await drain(store, "line")) == 10
    stats = (await store.stats()).queues[0]
    assert (stats.delayed, stats.retrying) == (12, 0)


@pytest.mark.parametrize("priority", [0, 4])
async def test_they_are_after_a_restart_too(tmp_path: Path, clock: VirtualClock, priority: int) -> None:
    path = tmp_path / "retries.db"
    store = await open_small(path, clock)

    async def retries() -> tuple[int, int]:
        await clock.settle()  # what came due before the restart is read
        stats = (await store.stats()).queues[0]
        return stats.delayed, stats.retrying

    await store.send("line", [Outgoing(b"later", delay=500.0, priority=priority) for _ in range(12)])
    await store.send("line", [Outgoing(b"late", delay=5.0, priority=priority) for _ in range(2)])
    await clock.advance(5)
    await store.send("line", [Outgoing(b"now", priority=priority) for _ in range(10)])
    while deliveries := await take(store, "line"):
        await store.settle("line", [Defer(delivery.receipt, 100.0) for delivery in deliveries])
    assert await retries() == (24, 12)
    await store.close()
    store = await open_small(path, clock)
    assert await retries() == (24, 12)
    await clock.advance(100)
    assert await retries() == (12, 0)
    (taken,) = await take(store, "line", 1)
    await store.settle("line", [Defer(taken.receipt, 1000.0)])
    await store.close()
    store = await open_small(path, clock)
    assert await retries() == (13, 1)
    assert len(await drain(store, "line")) == 11
    await store.close()
    store = await open_small(path, clock)
    assert await retries() == (13, 1)
    await clock.advance(500)
    assert await retries() == (1, 1)
    await store.close()


async def test_a_retry_that_ends_on_disk_with_its_time_to_live_is_counted_no_more(
    store: Store, clock: VirtualClock
) -> None:
    await store.send("line", [Outgoing(b"now", ttl=50.0) for _ in range(20)])
    while deliveries := await take(store, "line"):
        await store.settle("line", [Defer(delivery.receipt, 100.0) for delivery in deliveries])
    stats = (await store.stats()).queues[0]
    assert (stats.delayed, stats.retrying) == (20, 20)
    await clock.advance(60)
    stats = (await store.stats()).queues[0]
    assert (stats.delayed, stats.retrying, stats.expired) == (0, 0, 20)


async def test_what_is_cancelled_on_disk_after_a_restart_is_no_retry(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "keys.db"
    store = await open_small(path, clock)
    await store.send("line", [Outgoing(b"x", delay=500.0, key=str(n)) for n in range(12)])
    await store.close()
    store = await open_small(path, clock)
    for n in range(12):
        assert await store.cancel_delayed("line", str(n))
    stats = (await store.stats()).queues[0]
    assert (stats.delayed, stats.retrying) == (0, 0)
    await store.close()


async def a_flood(path: Path, clock: VirtualClock, count: int, head: int) -> Store:
    """A store in which one tenant has filled memory and more, and then others have sent a message each."""
    store = await open_store(f"sqlite:///{path}?durability=normal&hot_messages={head}", clock=clock)
    await store.declare(QUEUES)
    for start in range(0, count, 10_000):
        await store.send("line", [Outgoing(b"a", group="A") for _ in range(min(10_000, count - start))])
    await store.send("line", [Outgoing(b"b", group="B"), Outgoing(b"plain"), Outgoing(b"c", group="C")])
    return store


async def handled(store: Store, count: int) -> list[bytes]:
    done: list[bytes] = []
    for _ in range(count):
        (delivery,) = await store.receive("line", Want(1))
        await store.settle("line", [Ack(delivery.receipt)])
        done.append(delivery.body)
    return done


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("count", "head"), [(100_000, 20_000), (500, HEAD)])
async def test_Q83_a_flood_of_a_hundred_thousand_holds_another_tenant_up_for_thirty_messages(
    tmp_path: Path, clock: VirtualClock, count: int, head: int, restarted: bool
) -> None:
    path = tmp_path / "flood.db"
    store = await a_flood(path, clock, count, head)
    if restarted:
        await store.close()
        store = await open_store(f"sqlite:///{path}?durability=normal&hot_messages={head}", clock=clock)
    done = await handled(store, 33)
    assert (done[:30], sorted(done[30:])) == ([b"a"] * 30, [b"b", b"c", b"plain"])
    await store.send("line", [Outgoing(b"b", group="B")])
    assert await handled(store, 2) == [b"b", b"a"]
    stats = next(stats for stats in (await store.stats()).queues if stats.name == "line")
    assert stats.ready == count - 31
    await store.close()


async def test_Q83_what_was_read_from_behind_a_noisy_tenant_comes_out_once(store: Store, clock: VirtualClock) -> None:
    for n in range(200):
        await store.send("line", [Outgoing(b"a%d" % n, group="A")])
        if n % 3 == 0:
            await store.send("line", [Outgoing(b"b%d" % n, group=f"B{n % 4}")])
    out: list[bytes] = []
    turn = 0
    while deliveries := await take(store, "line", 5):
        turn += 1
        if turn % 5 == 0:
            # Given back, or again later: in memory or on disk, in both places once.
            await store.settle("line", [Defer(delivery.receipt, turn % 2 * 3.0) for delivery in deliveries])
            await clock.advance(1)
            continue
        await store.settle("line", [Ack(delivery.receipt) for delivery in deliveries])
        out += bodies(deliveries)
    await clock.advance(10)
    out += await drain(store, "line")
    assert sorted(out) == sorted([b"a%d" % n for n in range(200)] + [b"b%d" % n for n in range(0, 200, 3)])
    stats = (await store.stats()).queues[0]
    assert (stats.ready, stats.delayed, stats.in_flight, stats.acked) == (0, 0, 0, 267)


@pytest.mark.parametrize("seed", [1, 8, 9, 12])
@pytest.mark.parametrize("head", [8, 20])
async def test_Q83_what_was_read_from_behind_and_is_not_handed_out_yet_is_not_read_again(
    tmp_path: Path, clock: VirtualClock, head: int, seed: int
) -> None:
    random = Random(seed)
    store = await open_store(f"sqlite:///{tmp_path}/store.db?hot_messages={head}", clock=clock)
    await store.declare(QUEUES)
    sent: list[bytes] = []
    for n in range(200):
        batch = [Outgoing(b"a%d" % n, group="A")]
        if n % random.choice((2, 3, 5)) == 0:
            batch.append(Outgoing(b"b%d" % n, group=f"B{n % random.choice((1, 4, 9))}"))
        await store.send("line", batch)
        sent += [outgoing.body for outgoing in batch]
    out: list[bytes] = []
    held: list[Delivery] = []
    while True:
        held += await take(store, "line", random.choice((1, 2, 5, 9)))
        if not held:
            break
        random.shuffle(held)
        count = random.randrange(1, len(held) + 1)
        settled, held = held[:count], held[count:]
        for delivery in settled:
            if random.random() < 0.15:
                await store.settle("line", [Release(delivery.receipt)])
            else:
                await store.settle("line", [Ack(delivery.receipt)])
                out.append(delivery.body)
    assert sorted(out) == sorted(sent)
    await store.close()
