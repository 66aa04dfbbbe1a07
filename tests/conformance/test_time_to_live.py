"""What every broker does with a message that is to be gone after a time of its own (beyond SQS; Q107)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.messages import Ack, Bury, Defer, Emit, Extend, Outgoing, Refused, Sent, Settled, Stale, Want
from pipeflow.protocols import Redrive
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_Q107_a_message_is_there_until_its_time_to_live_ends_and_not_after(desk: Desk) -> None:
    await desk.queue()
    await desk.send("short", ttl=10)
    await desk.send("long", ttl=10.5)
    await desk.send("kept")
    await desk.advance(9.999)
    assert await desk.counts() == (3, 0, 0)
    await desk.advance(0.001)
    assert await desk.counts() == (2, 0, 0)
    assert await desk.bodies() == ["long", "kept"]
    assert (await desk.stats()).expired == 1


async def test_a_receiver_reads_when_the_time_to_live_ends_and_of_a_dead_letter_none(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", dead_letters="dead", max_receives=1))
    await desk.send("short", ttl=10, delay=2)
    await desk.send("kept")
    await desk.publish("copy", ttl=20)
    sent_at = desk.clock.now()
    await desk.advance(2)
    taken = await desk.take()
    assert {each.body: each.expires_at for each in taken} == {
        b"short": sent_at + 10,
        b"kept": None,
        b"copy": sent_at + 20,
    }
    await desk.settle(*(Bury(each.receipt) for each in taken))
    assert [each.expires_at for each in await desk.take(queue="dead")] == [None, None, None]


async def test_a_time_to_live_counts_from_the_send_delay_included(desk: Desk) -> None:
    await desk.queue()
    await desk.send("seen", delay=30, ttl=40)
    await desk.send("late", delay=30, ttl=30.5)
    await desk.advance(30)
    assert await desk.counts() == (2, 0, 0)
    await desk.advance(0.5)
    assert await desk.bodies() == ["seen"]
    assert (await desk.stats()).expired == 1


@pytest.mark.parametrize("fifo", [False, True])
async def test_Q107_a_send_that_would_end_within_the_delay_of_the_queue_is_refused(desk: Desk, fifo: bool) -> None:
    await desk.queue(delay=60, fifo=fifo)
    await desk.queue("work")
    group = "g" if fifo else None
    for delay in (None, 0.0) if fifo else (None,):
        (answer,) = await desk.store.send("q", [Outgoing(b"m", group=group, delay=delay, dedup_id="1", ttl=60)])
        assert isinstance(answer, Refused)
        assert answer.code == "bad_ttl"
        assert answer.reason.startswith("q: ttl is 60 and the queue's delay 60")
    await desk.send("job", queue="work")
    emit = Emit("queue", "q", Outgoing(b"m", group=group, dedup_id="1", ttl=20))
    (settled,) = await desk.settle(Ack((await desk.one("work")).receipt, [emit]), queue="work")
    assert isinstance(settled, Refused), "whoever emits it keeps the message it came from"
    await desk.send("seen", group=group, dedup_id="2", ttl=60.5)
    if not fifo:
        await desk.send("at once", delay=0, ttl=20)
    assert await desk.counts() == (0 if fifo else 1, 1, 0)


async def test_a_delay_of_a_subscribed_queue_may_be_longer_than_a_time_to_live(desk: Desk) -> None:
    """Then this copy is never seen: a publish is not refused for the delay of one of many queues."""
    await desk.fan_out(QueueSpec("q", delay=60))
    for _ in range(20):
        assert isinstance(await desk.publish("never", ttl=20), Sent)
    assert await desk.counts() == (0, 20, 0)
    await desk.advance(20)
    assert await desk.counts() == (0, 0, 0)
    assert (await desk.stats()).expired == 20


async def test_Q2_Q107_a_message_in_flight_ends_with_its_time_to_live(desk: Desk) -> None:
    await desk.queue(visibility_timeout=60, dead_letters="dead", max_receives=1)
    await desk.send("m", ttl=20)
    delivery = await desk.one()
    await desk.advance(19.999)
    assert await desk.settle(Extend(delivery.receipt, 60)) == [Settled()]
    await desk.advance(0.001)
    (result,) = await desk.settle(Ack(delivery.receipt))
    assert isinstance(result, Stale)
    stats = await desk.stats()
    assert (stats.in_flight, stats.expired, stats.dead, stats.acked) == (0, 1, 0, 0)


async def test_Q107_what_waits_for_a_retry_ends_too_and_is_never_dead_lettered(desk: Desk) -> None:
    await desk.queue(dead_letters="dead", max_receives=2)
    await desk.send("m", ttl=20)
    await desk.settle(Defer((await desk.one()).receipt, 5.0))
    await desk.advance(5)
    await desk.settle(Defer((await desk.one()).receipt, 30.0))
    await desk.advance(15)
    stats = await desk.stats()
    assert (stats.delayed, stats.retrying, stats.expired, stats.dead, stats.buried) == (0, 0, 1, 0, 0)


async def test_a_dead_letter_keeps_no_time_to_live(desk: Desk) -> None:
    await desk.queue(dead_letters="dead", max_receives=1)
    await desk.send("m", ttl=20)
    await desk.settle(Defer((await desk.one()).receipt, 0.0))
    assert await desk.bodies() == []
    assert (await desk.stats()).dead == 1
    await desk.advance(1000)
    (letter,) = await desk.store.peek("q", dead=True)
    assert (letter.body, letter.expires_at) == (b"m", None)
    await desk.store.redrive(Redrive("q"))
    await desk.advance(1000)
    assert await desk.bodies() == ["m"]


async def test_retention_ends_what_has_a_longer_time_to_live(desk: Desk) -> None:
    await desk.queue(retention=60)
    await desk.send("m", ttl=3600)
    await desk.advance(60)
    assert await desk.bodies() == []
    assert (await desk.stats()).expired == 1


async def test_peek_says_when_a_message_ends(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", ttl=60)
    await desk.send("b")
    await desk.advance(10)
    found = await desk.store.peek("q")
    assert [message.expires_at for message in found] == [desk.clock.now() + 50, None]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ttl": 0}, "more than 0 s"),
        ({"ttl": -1.0}, "more than 0 s"),
        ({"ttl": float("nan")}, "more than 0 s"),
        ({"ttl": 367 * 86_400.0}, "up to a year"),
        ({"ttl": 30, "delay": 30}, "longer than the delay"),
    ],
)
async def test_a_time_to_live_that_cannot_be_is_refused_with_the_reason(
    desk: Desk, fields: dict[str, float], why: str
) -> None:
    await desk.fan_out(QueueSpec("q"))
    (refused,) = await desk.store.send("q", [Outgoing(b"m", **fields)])  # type: ignore[arg-type]  # two floats
    assert isinstance(refused, Refused)
    assert refused.code == "bad_ttl"
    assert why in refused.reason
    published = await desk.publish("m", None, **fields)
    assert isinstance(published, Refused)
    assert why in published.reason
    assert await desk.counts() == (0, 0, 0)


async def test_every_copy_of_a_publish_has_its_time_to_live(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b", retention=120))
    await desk.publish("x" * 1000, ttl=30)
    await desk.publish("y" * 1000)
    await desk.advance(30)
    assert await desk.bodies(queue="a") == ["y" * 1000]
    assert await desk.bodies(queue="b") == ["y" * 1000]


async def test_what_a_handler_emits_can_have_a_time_to_live(desk: Desk) -> None:
    await desk.queue("next")
    await desk.queue()
    await desk.send("m")
    emit = Emit("queue", "next", Outgoing(b"emitted", ttl=5))
    assert await desk.settle(Ack((await desk.one()).receipt, [emit])) == [Settled()]
    assert await desk.counts("next") == (1, 0, 0)
    await desk.advance(5)
    assert await desk.counts("next") == (0, 0, 0)


async def test_Q107_the_end_of_a_head_frees_its_group(desk: Desk) -> None:
    await desk.queue(fifo=True, visibility_timeout=600)
    await desk.send("a", group="g", ttl=20)
    await desk.send("b", group="g")
    assert await desk.bodies(1) == ["a"]
    assert await desk.bodies() == []
    await desk.advance(20)
    assert await desk.bodies() == ["b"]


async def test_a_duplicate_of_what_has_ended_is_still_one(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g", dedup_id="d", ttl=20)
    await desk.advance(20)
    (again,) = await desk.send("a", group="g", dedup_id="d", ttl=20)
    assert again.duplicate
    assert await desk.counts() == (0, 0, 0)


async def test_messages_behind_others_end_in_time_too(desk: Desk) -> None:
    """Memory may hold the first few only: the others are not counted as ready for ever."""
    await desk.queue()
    for n in range(20):
        await desk.send(f"kept{n}", f"short{n}", ttl=None if n % 2 else 50)
    await desk.send(*(f"later{n}" for n in range(20)), delay=40, ttl=50)
    assert await desk.counts() == (40, 20, 0)
    await desk.advance(49)
    assert await desk.counts() == (60, 0, 0)
    await desk.advance(1)
    assert await desk.counts() == (20, 0, 0)
    assert (await desk.stats()).expired == 40
    assert len(await desk.bodies(100)) == 20


async def test_Q77_groups_behind_others_end_in_time_too(desk: Desk) -> None:
    await desk.queue(fifo=True)
    for n in range(10):
        await desk.send("a", "b", group=f"g{n}", ttl=30 if n % 2 else None)
        await desk.send("c", group=f"g{n}", ttl=40)
    await desk.advance(30)
    assert await desk.counts() == (20, 0, 0)
    await desk.advance(10)
    assert await desk.counts() == (10, 0, 0)
    seen: list[str] = []
    while taken := await desk.take(5):
        seen += [f"{delivery.group}{delivery.body.decode()}" for delivery in taken]
        await desk.ack(*taken)
    assert sorted(seen) == sorted(f"g{n}{body}" for n in range(0, 10, 2) for body in "ab")


async def test_a_receiver_that_waits_gets_what_did_not_end_meanwhile(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q", delay=15))
    await desk.publish("never", ttl=10)
    await desk.send("m")
    async with desk.waiting() as waiting:
        await desk.advance(15)
        assert await waiting.bodies() == ["m"]


async def test_a_thousand_ends_at_many_moments_are_all_counted(desk: Desk) -> None:
    await desk.queue()
    await desk.store.send("q", [Outgoing(b"m", ttl=10 + n / 100) for n in range(1500)])
    await desk.advance(15)
    ready, _, _ = await desk.counts()
    assert abs(ready - 999) <= 5
    await desk.advance(10)
    assert await desk.counts() == (0, 0, 0)
    assert (await desk.stats()).expired == 1500
    assert await desk.store.receive("q", Want()) == []
