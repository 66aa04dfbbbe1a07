"""What a store remembers after its process died: a copy of its files, taken while it is open, is what a kill leaves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.journal import FrozenGroup
from pipeflow.embedded.opening import Kept
from pipeflow.errors import ConfigurationError, Indeterminate, SpecConflict, StoreCorrupt, StoreOwned, Unavailable
from pipeflow.messages import Ack, Bury, Delivery, Emit, Outgoing, Receipt, Refused, Release, Sent, Settled, Stale, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology

TOPOLOGY = Topology(
    topics=(TopicSpec("news"),),
    queues=(
        QueueSpec("work", dead_letters="work-dlq", max_receives=3),
        QueueSpec("copy", dead_letters="copy-dlq"),
        QueueSpec("line", fifo=True, dead_letters="line-dlq"),
    ),
    subscriptions=(Subscription("news", "queue", "work"), Subscription("news", "queue", "copy")),
)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


async def opened(path: Path, clock: VirtualClock, options: str = "") -> Store:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock)
    await store.declare(TOPOLOGY)
    return store


def killed(path: Path, name: str) -> Path:
    """The files of an open store, as a kill would leave them."""
    copy = path.with_name(name)
    return copy_killed(path, copy)


async def take(store: Store, queue: str, limit: int = 10, durable: bool = False) -> Sequence[Delivery]:
    return await store.receive(queue, Want(limit, durable=durable))


async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"one"), Outgoing(b"two"), Outgoing(b"three")])
    first, *_ = await take(store, "work", 1)
    assert await store.settle("work", [Ack(first.receipt)]) == [Settled()]
    again = await opened(killed(path, "b.db"), clock)
    assert [delivery.body for delivery in await take(again, "work")] == [b"two", b"three"]
    await again.close()
    await store.close()


async def test_what_was_in_flight_is_visible_at_once_when_the_store_opens(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"one")])
    assert len(await take(store, "work")) == 1
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    assert [delivery.body for delivery in await take(again, "work")] == [b"one"]
    await again.close()
    await store.close()


async def test_what_outside_consumers_hold_keeps_its_deadline(tmp_path: Path, clock: VirtualClock) -> None:
    """A receive of a consumer outside the process is on disk before it is answered, with its deadline."""
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"held"), Outgoing(b"free")])
    (held,) = await take(store, "work", 1, durable=True)
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    assert [delivery.body for delivery in await take(again, "work")] == [b"free"]
    assert await again.settle("work", [Ack(held.receipt)]) == [Settled()]
    await again.close()
    await store.close()


async def test_Q75_what_outside_consumers_hold_blocks_its_group_after_a_kill(
    tmp_path: Path, clock: VirtualClock
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("line", [Outgoing(b"%d" % n, group="g") for n in range(3)])
    (held,) = await take(store, "line", 1, durable=True)
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    assert await take(again, "line") == []
    assert await again.settle("line", [Ack(held.receipt)]) == [Settled()]
    assert [delivery.body for delivery in await take(again, "line")] == [b"1", b"2"]
    await again.close()
    await store.close()


async def test_a_message_that_kills_the_process_reaches_the_dead_letters(tmp_path: Path, clock: VirtualClock) -> None:
    """Suspects are counted on disk before they are handed out: at most `max_receives` + 1 crashes."""
    path = tmp_path / "0.db"
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"poison")])
    crashes = 0
    stores = [store]
    while await take(store, "work"):
        crashes += 1
        path = killed(path, f"{crashes}.db")
        store = await opened(path, clock)
        stores.append(store)
        assert crashes <= 4
    assert crashes in (3, 4)
    assert [message.body for message in await store.peek("work", dead=True)] == [b"poison"]
    for each in stores:
        await each.close()


async def test_what_was_in_flight_at_two_kills_runs_alone(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "0.db", clock)
    await store.send("line", [Outgoing(b"first", group="a"), Outgoing(b"second", group="b")])
    stores = [store]
    for crash in (1, 2, 3):
        await take(stores[-1], "line", durable=False)
        await stores[-1].send("work", [Outgoing(b"commits what was written behind")])
        stores.append(await opened(killed(tmp_path / f"{crash - 1}.db", f"{crash}.db"), clock))
    (alone,) = await take(stores[-1], "line")
    assert alone.alone
    assert await take(stores[-1], "line") == []
    await stores[-1].settle("line", [Ack(alone.receipt)])
    assert len(await take(stores[-1], "line")) == 1
    for each in stores:
        await each.close()


async def test_what_was_in_flight_when_the_store_was_closed_runs_beside_others(
    tmp_path: Path, clock: VirtualClock
) -> None:
    """Only a stop that was not clean may be the message's own doing."""
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("line", [Outgoing(b"first", group="a"), Outgoing(b"second", group="b")])
    for _ in range(3):
        assert len(await take(store, "line", 1)) == 1
        await store.close()
        store = await opened(path, clock)
    (first, second) = await take(store, "line")
    assert not first.alone
    assert second.body == b"second"
    await store.close()


async def test_a_long_hold_of_an_outside_consumer_over_restarts_is_no_suspicion(
    tmp_path: Path, clock: VirtualClock
) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("line", [Outgoing(b"first", group="a"), Outgoing(b"second", group="b")])
    for _ in range(3):
        assert len(await store.receive("line", Want(1, durable=True, visibility_timeout=1000.0))) == 1
        await store.close()
        store = await opened(path, clock)
        await clock.advance(1000.0)
    assert [each.alone for each in await take(store, "line")] == [False, False]
    await store.close()


async def test_an_old_receipt_of_an_earlier_boot_settles_nothing(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"one")])
    (old,) = await take(store, "work")
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    (new,) = await take(again, "work")
    (result,) = await again.settle("work", [Ack(old.receipt)])
    assert isinstance(result, Stale)
    assert await again.settle("work", [Ack(new.receipt)]) == [Settled()]
    await again.close()
    await store.close()


async def test_Q71_the_deduplication_window_outlives_delivery_deletion_and_a_kill(
    tmp_path: Path, clock: VirtualClock
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    (first,) = await store.send("line", [Outgoing(b"one", group="g", dedup_id="id")])
    (delivery,) = await take(store, "line")
    await store.settle("line", [Ack(delivery.receipt)])
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    (second,) = await again.send("line", [Outgoing(b"one", group="g", dedup_id="id")])
    assert isinstance(first, Sent)
    assert second == Sent(first.id, first.sequence, duplicate=True)
    assert await take(again, "line") == []
    await again.close()
    await store.close()


async def test_Q69_sequences_go_on_rising_after_everything_was_deleted(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    sent = await store.send("line", [Outgoing(b"one", group="g") for _ in range(5)])
    for delivery in await take(store, "line"):
        await store.settle("line", [Ack(delivery.receipt)])
    await store.close()
    store = await opened(tmp_path / "a.db", clock)
    (later,) = await store.send("line", [Outgoing(b"two", group="g")])
    assert isinstance(later, Sent)
    assert later.sequence > max(each.sequence for each in sent if isinstance(each, Sent))
    await store.close()


@pytest.mark.parametrize("position", [b"17", b""])
async def test_positions_of_sources_commit_with_what_they_belong_to(
    tmp_path: Path, clock: VirtualClock, position: bytes
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    assert await store.position("replay") is None
    await store.publish("news", [Outgoing(b"one", checkpoint=("replay", position))])
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    assert await again.position("replay") == position
    await again.close()
    await store.close()


async def test_Q90_a_move_to_the_dead_letters_is_one_commit_and_keeps_what_the_message_was(
    tmp_path: Path, clock: VirtualClock
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"bad" * 100, attributes={"kind": "x"})])
    (delivery,) = await take(store, "work")
    await store.settle("work", [Bury(delivery.receipt)])
    again = await opened(killed(tmp_path / "a.db", "b.db"), clock)
    assert await take(again, "work") == []
    (dead,) = await again.peek("work", dead=True)
    assert (dead.id, dead.body, dead.attributes, dead.attempt) == (delivery.id, b"bad" * 100, {"kind": "x"}, 1)
    assert dead.dead_letter_source == "work"
    await again.close()
    await store.close()


async def test_a_body_that_goes_to_several_queues_is_stored_once(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    body = b"shared" * 500
    await store.publish("news", [Outgoing(body)])
    copy = killed(path, "b.db")
    assert Path(f"{copy}-log").read_bytes().count(body) == 1
    await (await opened(copy, clock)).close()
    reader = sqlite3.connect(copy)
    assert reader.execute("SELECT refs, length(body) FROM bodies").fetchall() == [(2, len(body))]
    assert reader.execute("SELECT count(*) FROM messages WHERE body IS NULL").fetchone() == (2,)
    reader.close()
    for queue in ("work", "copy"):
        (delivery,) = await take(store, queue)
        assert delivery.body == body
        await store.settle(queue, [Ack(delivery.receipt)])
    await store.close()
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM bodies").fetchone() == (0,)
    reader.close()


async def test_a_body_that_goes_to_a_hundred_queues_is_on_disk_once(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    names = [f"q{n}" for n in range(100)]
    await store.declare(
        Topology(
            (TopicSpec("wide"),),
            tuple(QueueSpec(name) for name in names),
            subscriptions=tuple(Subscription("wide", "queue", name) for name in names),
        )
    )
    body = bytes(100_000)
    await store.publish("wide", [Outgoing(body)])
    await store.close()
    assert path.stat().st_size < 10 * len(body)
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT refs, length(body) FROM bodies").fetchall() == [(100, len(body))]
    assert reader.execute("SELECT count(*) FROM messages WHERE body IS NULL").fetchone() == (100,)
    reader.close()


async def test_nothing_of_a_message_sent_and_deleted_in_one_group_reaches_the_disk(
    tmp_path: Path, clock: VirtualClock
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    assert isinstance(store, Kept)
    head = store.nouns.head("work")
    store.inlet.send(head, Outgoing(b"short-lived"), clock.now())
    (message,) = head.state.receive(1, 1 << 20, clock.now(), store.boot)
    head.state.settle(Ack(receipt_of(message)), clock.now(), store.boot)
    frozen, _ = store.gathering.freeze(clock.now())
    assert (frozen.inserts, frozen.updates, frozen.deletes) == ([], [], [])
    assert len(frozen.queues) == 1
    await store.close()


def receipt_of(message: object) -> Receipt:
    return Receipt(message.place, message.boot, message.receives)  # type: ignore[attr-defined]  # a stored message


async def test_a_damaged_row_is_set_aside_and_counted_never_delivered(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"good one"), Outgoing(b"bad apple"), Outgoing(b"good two")])
    await store.close()
    content = path.read_bytes()
    assert content.count(b"bad apple") == 1
    path.write_bytes(content.replace(b"bad apple", b"bad orple"))
    store = await opened(path, clock)
    assert [delivery.body for delivery in await take(store, "work")] == [b"good one", b"good two"]
    stats = await store.stats()
    assert stats.quarantined == 1
    await store.close()
    assert b"bad orple" in path.read_bytes()


async def test_time_goes_on_over_a_restart_when_the_system_clock_was_set_back(tmp_path: Path) -> None:
    path, clock = tmp_path / "a.db", VirtualClock(1000.0)
    store = await opened(path, clock)
    await clock.advance(500)
    await store.send("work", [Outgoing(b"one")])
    copy = killed(path, "b.db")
    await store.close()
    for left in (path, copy):
        clock = VirtualClock(1200.0)
        store = await opened(left, clock)
        assert clock.now() == 1500.0
        await store.send("work", [Outgoing(b"two")])
        first, second = await take(store, "work")
        assert first.sent_at <= second.sent_at
        await store.close()


async def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    await (await opened(path, clock)).close()
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA user_version = 99")
    writer.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="install a newer pipeflow"):
        await opened(path, clock)
    assert path.read_bytes() == before


async def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "other.db"
    writer = sqlite3.connect(path)
    writer.execute("CREATE TABLE theirs (x)")
    writer.commit()
    writer.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        await opened(path, clock)
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreCorrupt, match=r"other\.db"):
        await opened(path, clock)
    assert before


async def test_a_store_has_one_owner_and_says_who_it_is(tmp_path: Path, clock: VirtualClock) -> None:
    from pipeflow.embedded.sqlite.ownership import Lock

    path = tmp_path / "a.db"
    lock = Lock(path)
    lock.acquire("full")
    with pytest.raises(StoreOwned, match=r"owned by process \d+"):
        await opened(path, clock)
    lock.release()
    await (await opened(path, clock)).close()


async def test_a_second_opener_in_one_process_shares_the_store(tmp_path: Path, clock: VirtualClock) -> None:
    first = await opened(tmp_path / "a.db", clock)
    second = await opened(tmp_path / "a.db", clock)
    await first.send("work", [Outgoing(b"one")])
    await first.close()
    assert [delivery.body for delivery in await take(second, "work")] == [b"one"]
    await second.close()


async def test_openers_at_the_same_time_share_one_recovery(tmp_path: Path, clock: VirtualClock) -> None:
    stores = await asyncio.gather(*(opened(tmp_path / "a.db", clock) for _ in range(3)))
    assert len(set(map(id, stores))) == 1
    for store in stores:
        await store.close()
    with pytest.raises(Unavailable):
        await stores[0].stats()


async def test_a_failed_commit_is_indeterminate_and_closes_the_store(
    tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    assert isinstance(store, Kept)

    async def fail(group: FrozenGroup) -> None:
        raise Indeterminate("the disk said no")

    monkeypatch.setattr(store.journal, "commit", fail)
    with pytest.raises(Indeterminate):
        await store.send("work", [Outgoing(b"lost?")])
    with pytest.raises(Unavailable, match="closed"):
        await store.send("work", [Outgoing(b"never")])
    with pytest.raises(Unavailable):
        await store.receive("work", Want())
    await store.close()


async def test_a_full_disk_refuses_sends_and_lets_deletes_through(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"there")])
    await store.close()
    store = await opened(tmp_path / "a.db", clock, f"?min_free={1 << 60}")
    (refused,) = await store.send("work", [Outgoing(b"more")])
    assert isinstance(refused, Refused)
    assert refused.code == "disk_full"
    assert "free space" in refused.reason
    (delivery,) = await take(store, "work")
    assert await store.settle("work", [Ack(delivery.receipt)]) == [Settled()]
    await store.close()


async def test_a_directory_that_is_not_there_is_named_with_the_remedy(tmp_path: Path, clock: VirtualClock) -> None:
    with pytest.raises(ConfigurationError, match="make it, or name another place"):
        await opened(tmp_path / "nowhere" / "a.db", clock)


async def test_a_directory_is_no_store_and_leaves_nothing_behind(tmp_path: Path, clock: VirtualClock) -> None:
    place = tmp_path / "there"
    place.mkdir()
    with pytest.raises(ConfigurationError, match="is a directory; name a file in it"):
        await opened(place, clock)
    assert list(tmp_path.iterdir()) == [place]


async def test_an_empty_file_becomes_a_store_for_its_user_alone(tmp_path: Path, clock: VirtualClock) -> None:
    path = made(tmp_path / "a.db")
    await (await opened(path, clock)).close()
    assert mode(path) == 0o600


def made(path: Path) -> Path:
    path.touch(0o644)
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_release_costs_no_attempt_also_after_a_restart(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    await store.send("work", [Outgoing(b"one")])
    (delivery,) = await take(store, "work")
    await store.settle("work", [Release(delivery.receipt)])
    await store.close()
    store = await opened(tmp_path / "a.db", clock)
    (again,) = await take(store, "work")
    assert (again.attempt, again.receives) == (1, 2)
    await store.close()


async def test_files_are_for_their_user_alone(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    await store.close()


async def test_a_refused_stream_changes_no_queue_either(tmp_path: Path, clock: VirtualClock) -> None:
    store = await opened(tmp_path / "a.db", clock)
    lake = StreamSpec("lake", "memory://")
    await store.declare(Topology(streams=(lake,)))
    await store.append("lake", [Outgoing(b"waiting")])
    changed = Topology(queues=(QueueSpec("late"),), streams=(StreamSpec("lake", "memory://", durability="memory"),))
    with pytest.raises(SpecConflict, match="lake"):
        await store.declare(changed)
    assert "late" not in [queue.name for queue in (await store.describe()).queues]
    await store.close()


@pytest.mark.parametrize(
    "unfit",
    [
        Outgoing(b"x", attributes={"n": 1 << 70}),
        Outgoing(b"x", attributes={"o": object()}),  # type: ignore[dict-item]  # what a careless caller hands in
        Outgoing(b"x", headers={"h": "\ud800"}),
        Outgoing("text"),  # type: ignore[arg-type]  # what a careless caller hands in
    ],
    ids=["number", "object", "surrogate", "text"],
)
async def test_what_cannot_be_kept_is_refused_by_itself_and_closes_nothing(
    tmp_path: Path, clock: VirtualClock, unfit: Outgoing
) -> None:
    store = await opened(tmp_path / "a.db", clock)
    for answers in (
        await store.send("work", [unfit, Outgoing(b"good")]),
        await store.publish("news", [unfit, Outgoing(b"good")]),
    ):
        assert isinstance(answers[0], Refused)
        assert isinstance(answers[1], Sent)
    first, *_ = await take(store, "work")
    (refused,) = await store.settle("work", [Ack(first.receipt, [Emit("topic", "news", unfit)])])
    assert isinstance(refused, Refused)
    assert await store.settle("work", [Ack(first.receipt)]) == [Settled()]
    await store.close()
