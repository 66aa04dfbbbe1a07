"""What every broker does with priorities: in a standard queue the highest that is ready comes first (beyond SQS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import NotFound
from pipeflow.messages import Ack, Bury, Defer, Emit, Extend, Outgoing, Refused, Release, Settled, Stale, Want
from pipeflow.protocols import Redrive
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_the_highest_priority_comes_first_and_in_one_the_longest_visible(desk: Desk) -> None:
    await desk.queue()
    for body, priority in (("a", 0), ("b", 3), ("c", 9), ("d", 3), ("e", 0), ("f", 1)):
        await desk.send(body, priority=priority)
    assert await desk.bodies() == ["c", "b", "d", "f", "a", "e"]


async def test_a_receiver_reads_the_priority_also_of_a_dead_letter_and_of_a_copy(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", dead_letters="dead", max_receives=1))
    await desk.send("plain")
    await desk.publish("copy", priority=4)
    await desk.send("high", priority=9)
    taken = await desk.take()
    assert [(each.body, each.priority) for each in taken] == [(b"high", 9), (b"copy", 4), (b"plain", 0)]
    await desk.settle(*(Bury(each.receipt) for each in taken))
    assert [each.priority for each in await desk.take(queue="dead")] == [9, 4, 0]


async def test_a_high_one_sent_behind_many_low_ones_is_next(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"low{n}" for n in range(100)))
    assert await desk.bodies(1) == ["low0"]
    await desk.send("high", priority=5)
    assert await desk.bodies(2) == ["high", "low1"]


async def test_many_of_each_come_out_in_order(desk: Desk) -> None:
    await desk.queue()
    for n in range(90):
        await desk.send(f"{n % 3}-{n:02}", priority=n % 3)
    expected = sorted((f"{n % 3}-{n:02}" for n in range(90)), key=lambda body: (-int(body[0]), body))
    seen: list[str] = []
    while taken := await desk.take(7):
        await desk.ack(*taken)
        seen += [delivery.body.decode() for delivery in taken]
    assert seen == expected


async def test_Q56_one_receive_brings_several_priorities_within_its_bounds(desk: Desk) -> None:
    await desk.queue(max_in_flight=4)
    await desk.send("aaaa", priority=2)
    await desk.send("bbbb", priority=1)
    await desk.send("cccc", "dddd", "eeee")
    first = await desk.store.receive("q", Want(limit=10, max_bytes=10))
    assert sum(len(delivery.body) for delivery in first) <= 10
    assert first[0].body == b"aaaa"
    rest = await desk.take(10)
    assert [delivery.body for delivery in [*first, *rest]] == [b"aaaa", b"bbbb", b"cccc", b"dddd"]
    assert await desk.take(1) == []
    await desk.ack(first[0])
    assert await desk.bodies() == ["eeee"]


async def test_a_delayed_high_one_is_next_when_it_comes_due(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"low{n}" for n in range(20)))
    await desk.send(*(f"high{n}" for n in range(8)), priority=7, delay=30)
    assert await desk.bodies(1) == ["low0"]
    await desk.advance(30)
    assert await desk.bodies(9) == [*(f"high{n}" for n in range(8)), "low1"]


async def test_a_high_one_whose_visibility_timeout_ended_is_next(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30)
    await desk.send(*(f"low{n}" for n in range(20)))
    await desk.send("high", priority=7)
    assert await desk.bodies(1) == ["high"]
    await desk.advance(29)
    assert await desk.bodies(1) == ["low0"]
    await desk.advance(1)
    (again,) = await desk.take(1)
    assert (again.body, again.attempt) == (b"high", 2)


async def test_what_is_given_back_keeps_its_priority(desk: Desk) -> None:
    await desk.queue()
    await desk.send("low")
    await desk.send("one", "two", priority=4)
    one, two = await desk.take(2)
    assert await desk.settle(Defer(one.receipt, 0.0), Release(two.receipt)) == [Settled(), Settled()]
    assert await desk.bodies(3) == ["two", "one", "low"]


async def test_receipts_of_every_priority_are_good_once(desk: Desk) -> None:
    await desk.queue()
    await desk.send("low")
    await desk.send("high", priority=9)
    high, low = await desk.take(2)
    assert await desk.settle(Extend(high.receipt, 60), Extend(low.receipt, 60)) == [Settled(), Settled()]
    await desk.ack(high, low)
    assert [type(answer) for answer in await desk.settle(Ack(high.receipt), Ack(low.receipt))] == [Stale, Stale]
    stats = await desk.stats()
    assert (stats.sent, stats.acked, stats.ready, stats.in_flight) == (2, 2, 0, 0)


async def test_receipts_and_sequences_of_one_queue_are_all_different(desk: Desk) -> None:
    await desk.queue()
    sent = [await desk.send("m", priority=priority) for priority in (0, 5, 0, 5, 9)]
    sequences = [each.sequence for (each,) in sent]
    assert sequences == sorted(set(sequences))
    assert len({delivery.receipt.place for delivery in await desk.take(5)}) == 5


async def test_a_dead_letter_keeps_its_priority_there_and_back(desk: Desk) -> None:
    await desk.queue(dead_letters="dead", max_receives=1)
    await desk.send("low")
    await desk.send("high", priority=6)
    high, low = await desk.take(2)
    await desk.settle(Bury(low.receipt), Defer(high.receipt, 0.0))
    assert await desk.bodies() == []
    assert (await desk.stats()).dead == 2
    letters = await desk.store.peek("q", dead=True)
    assert [(letter.body, letter.priority) for letter in letters] == [(b"high", 6), (b"low", 0)]
    assert await desk.bodies(1, queue="dead") == ["high"]
    await desk.send("new")
    (redriven,) = [await desk.store.redrive(Redrive("q"))]
    assert (redriven.examined, redriven.moved) == (2, 1)
    await desk.advance(60)
    await desk.store.redrive(Redrive("q"))
    assert await desk.bodies() == ["high", "new", "low"]
    assert (await desk.stats()).redriven == 2


async def test_a_move_of_dead_letters_takes_every_priority(desk: Desk) -> None:
    await desk.queue(dead_letters="dead", max_receives=1)
    for n in range(20):
        await desk.send(f"m{n}", priority=n % 4)
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take(20)))
    move = await desk.store.start_move(Redrive("q"))
    await desk.advance(1)
    (ended,) = [each for each in await desk.store.moves("q") if each.id == move.id]
    assert (ended.state, ended.moved) == ("completed", 20)
    assert len(await desk.bodies(30)) == 20


async def test_a_purge_takes_every_priority(desk: Desk) -> None:
    await desk.queue()
    for n in range(30):
        await desk.send(f"m{n}", priority=n % 10)
    await desk.send("later", priority=3, delay=60)
    assert await desk.store.purge("q") == 31
    assert await desk.counts() == (0, 0, 0)
    await desk.send("new", priority=3)
    assert await desk.bodies() == ["new"]


async def test_Q105_a_deleted_queue_takes_every_priority_along(desk: Desk) -> None:
    await desk.queue()
    for n in range(30):
        await desk.send(f"m{n}", priority=n % 10)
    assert await desk.store.delete_queue("q") == 30
    with pytest.raises(NotFound):
        await desk.store.receive("q", Want())
    await desk.queue()
    await desk.send("new", priority=4)
    assert await desk.bodies() == ["new"]


async def test_new_options_hold_for_every_priority(desk: Desk) -> None:
    await desk.queue(retention=3600)
    await desk.send("low")
    await desk.send("high", priority=2)
    await desk.advance(60)
    await desk.queue(retention=60)
    assert await desk.counts() == (0, 0, 0)
    assert (await desk.stats()).expired == 2


async def test_a_receiver_that_waits_is_woken_by_any_priority(desk: Desk) -> None:
    await desk.queue()
    async with desk.waiting() as waiting:
        await desk.send("high", priority=8)
        assert await waiting.bodies() == ["high"]
    async with desk.waiting() as waiting:
        await desk.send("low")
        assert await waiting.bodies() == ["low"]
    await desk.send("late", priority=8, delay=5)
    async with desk.waiting() as waiting:
        await desk.advance(5)
        assert await waiting.bodies() == ["late"]


async def test_fairness_holds_within_a_priority(desk: Desk) -> None:
    """Priority first: a noisy tenant's high ones go before a quiet one's low ones, and its low ones after those."""
    await desk.queue(visibility_timeout=600)
    await desk.send(*(f"noisy low{n}" for n in range(100)), group="noisy")
    assert len(await desk.take(40)) == 40
    await desk.send("quiet low", group="quiet")
    await desk.send("noisy high", group="noisy", priority=1)
    assert await desk.bodies(3) == ["noisy high", "quiet low", "noisy low40"]


async def test_every_copy_of_a_publish_has_its_priority(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    await desk.publish("x" * 1000)
    await desk.publish("y" * 1000, priority=4)
    assert await desk.bodies(1, queue="a") == await desk.bodies(1, queue="b") == ["y" * 1000]


async def test_what_a_handler_emits_can_have_a_priority(desk: Desk) -> None:
    await desk.queue("next")
    await desk.queue()
    await desk.send("first", queue="next")
    await desk.send("m", priority=1)
    emit = Emit("queue", "next", Outgoing(b"emitted", priority=5))
    assert await desk.settle(Ack((await desk.one()).receipt, [emit])) == [Settled()]
    assert await desk.bodies(queue="next") == ["emitted", "first"]


async def test_a_time_to_live_ends_in_every_priority(desk: Desk) -> None:
    await desk.queue()
    for n in range(20):
        await desk.send(f"m{n}", priority=n % 5, ttl=30)
    await desk.send("kept", priority=2)
    await desk.advance(30)
    assert await desk.counts() == (1, 0, 0)
    assert (await desk.stats()).expired == 20


async def test_peek_shows_the_highest_priority_first(desk: Desk) -> None:
    await desk.queue()
    await desk.send("low")
    await desk.send("high", priority=9)
    assert [(each.body, each.priority) for each in await desk.store.peek("q")] == [(b"high", 9), (b"low", 0)]


@pytest.mark.parametrize("priority", [-1, 10, 1.5, "high"])
async def test_a_priority_that_cannot_be_is_refused_with_the_reason(desk: Desk, priority: object) -> None:
    await desk.fan_out(QueueSpec("q"))
    (refused,) = await desk.store.send("q", [Outgoing(b"m", priority=priority)])  # type: ignore[arg-type]
    assert isinstance(refused, Refused)
    assert (refused.code, "use 0 to 9" in refused.reason) == ("bad_priority", True)
    published = await desk.publish("m", priority=priority)
    assert isinstance(published, Refused)
    assert await desk.counts() == (0, 0, 0)


async def test_a_fifo_queue_refuses_priorities_with_the_reason(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", fifo=True), fifo=True)
    (refused,) = await desk.store.send("q", [Outgoing(b"m", group="g", priority=1)])
    assert isinstance(refused, Refused)
    assert "in the order of sending" in refused.reason
    published = await desk.publish("m", group="g", dedup_id="d", priority=1)
    assert isinstance(published, Refused)
    assert published.code == "bad_priority"


async def test_a_key_is_one_whatever_the_priority(desk: Desk) -> None:
    """A delayed message is replaced or cancelled by its key also by one of another priority."""
    await desk.queue()
    for n in range(20):
        await desk.send(f"other{n}", delay=60, priority=n % 3, key=f"k{n}")
    (first,) = await desk.send("first", delay=60, priority=2, key="k")
    (second,) = await desk.send("second", delay=60, key="k")
    (third,) = await desk.send("third", delay=60, priority=7, key="k")
    assert (first.replaced, second.replaced, third.replaced) == (False, True, True)
    assert await desk.store.cancel_delayed("q", "k4")
    assert await desk.counts() == (0, 20, 0)
    await desk.advance(60)
    bodies = await desk.bodies(30)
    assert bodies[0] == "third"
    assert sorted(bodies[1:]) == sorted(f"other{n}" for n in range(20) if n != 4)
