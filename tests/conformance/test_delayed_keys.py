"""What every broker does with long delays, and with delayed messages that have a key or a deduplication id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import NotFound, RefusedError
from pipeflow.messages import Ack, Defer, Emit, Outgoing, Refused, Sent, Settled
from pipeflow.specs import YEAR, QueueSpec, Topology

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk

DAY = 86_400.0


async def others(desk: Desk) -> None:
    """More delayed messages than the small head has room for: what comes due after them is on disk only."""
    await desk.send(*"123456", delay=59 * DAY)


async def taken_and_gone(desk: Desk, queue: str) -> list[str]:
    taken = await desk.take(queue=queue)
    await desk.ack(*taken, queue=queue)
    return [delivery.body.decode() for delivery in taken]


async def test_Q33_a_message_delayed_for_a_leap_year_is_visible_after_it_and_then_kept_for_its_retention(
    desk: Desk,
) -> None:
    await desk.queue(retention=4 * DAY)
    await desk.send("a", "b", delay=YEAR)
    await desk.advance(YEAR - 0.001)
    assert await desk.bodies() == []
    assert await desk.counts() == (0, 2, 0)
    await desk.advance(0.001)
    await desk.ack(await desk.one())
    await desk.advance(4 * DAY - 1)
    assert await desk.counts() == (1, 0, 0)
    await desk.advance(1)
    assert await desk.bodies() == []
    assert (await desk.stats()).expired == 1


async def test_Q2_the_retention_of_a_delay_that_sqs_has_counts_from_the_send(desk: Desk) -> None:
    await desk.queue(retention=600.0)
    await desk.send("a", delay=900)
    await desk.advance(900)
    assert await desk.bodies() == []
    assert (await desk.stats()).expired == 1


async def test_Q18_a_queue_that_delays_for_longer_than_it_keeps_messages_loses_none(desk: Desk) -> None:
    for fifo in (False, True):
        name = f"fifo-{fifo}"
        await desk.queue(name, fifo=fifo, delay=10 * DAY, retention=DAY)
        await desk.send(*"abcdef", queue=name, group="g")
    await desk.advance(5 * DAY)
    await desk.queue("fifo-True", fifo=True, delay=20 * DAY, retention=DAY)  # for what is delayed, too (Q17)
    await desk.advance(5 * DAY)
    assert await desk.bodies(queue="fifo-False") == [*"abcdef"]
    assert await desk.bodies(queue="fifo-True") == []
    await desk.advance(10 * DAY)
    taken = [body for _ in "abcdef" for body in await taken_and_gone(desk, "fifo-True")]
    assert taken == [*"abcdef"]


async def test_Q33_a_longer_delay_is_refused_with_the_limit(desk: Desk) -> None:
    await desk.queue()
    (refused,) = await desk.store.send("q", [Outgoing(b"a", delay=YEAR + 1)])
    assert isinstance(refused, Refused)
    assert refused.code == "bad_delay"
    assert "366 days" in refused.reason
    assert "31622400 s" in refused.reason


async def test_a_send_with_the_key_of_a_delayed_message_takes_its_place_with_an_id_of_its_own(desk: Desk) -> None:
    await desk.queue()
    await others(desk)
    (first,) = await desk.send("old", key="k", delay=60 * DAY, attributes={"n": 1})
    (second,) = await desk.send("new", key="k", delay=70 * DAY, attributes={"n": 2})
    assert second.id != first.id
    assert (first.replaced, second.replaced) == (False, True)
    assert await desk.counts() == (0, 7, 0)
    await desk.advance(59 * DAY)
    await desk.ack(*await desk.take())
    await desk.advance(11 * DAY - 1)
    assert await desk.bodies() == []
    await desk.advance(1)
    delivery = await desk.one()
    assert (delivery.body, delivery.id, delivery.attributes) == (b"new", second.id, {"n": 2})
    await desk.ack(delivery)
    stats = await desk.stats()
    assert (stats.sent, stats.acked, stats.cancelled) == (8, 7, 1)


async def test_a_replacement_may_come_earlier_or_at_once(desk: Desk) -> None:
    await desk.queue()
    await others(desk)
    await desk.send("late", key="k", delay=60 * DAY)
    await desk.send("soon", key="k", delay=5)
    await desk.advance(5)
    assert await desk.bodies() == ["soon"]
    await desk.send("late", key="k", delay=60 * DAY)
    assert [sent.replaced for sent in await desk.send("now", key="k")] == [True]
    assert await desk.bodies() == ["now"]
    assert await desk.counts() == (0, 6, 2)


async def test_one_batch_replaces_within_itself_in_order(desk: Desk) -> None:
    await desk.queue()
    await others(desk)
    sent = await desk.send("a", "b", "c", key="k", delay=60 * DAY)
    assert [each.replaced for each in sent] == [False, True, True]
    await desk.advance(60 * DAY)
    assert sorted(await desk.bodies()) == [*"123456", "c"]


async def test_a_cancelled_message_is_never_seen_and_only_a_delayed_one_can_be_cancelled(desk: Desk) -> None:
    await desk.queue()
    await others(desk)
    for key in ("near", "far"):
        assert not await desk.store.cancel_delayed("q", key)
        await desk.send(key, key=key, delay=5 if key == "near" else 60 * DAY)
        assert await desk.store.cancel_delayed("q", key)
        assert not await desk.store.cancel_delayed("q", key)
    assert await desk.counts() == (0, 6, 0)
    assert (await desk.stats()).cancelled == 2
    await desk.advance(60 * DAY)
    assert sorted(await desk.bodies()) == [*"123456"]


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
async def test_a_key_is_free_once_its_message_is_visible(desk: Desk, far: bool) -> None:
    await desk.queue()
    await others(desk)
    delay = 60 * DAY if far else 5
    await desk.send("first", key="k", delay=delay)
    await desk.advance(delay)
    assert not await desk.store.cancel_delayed("q", "k")
    (again,) = await desk.send("second", key="k", delay=5)
    assert not again.replaced
    assert "first" in await desk.bodies()
    await desk.advance(5)
    assert await desk.bodies() == ["second"]


async def test_a_message_that_waits_for_its_retry_has_no_key_any_more(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", key="k", delay=5)
    await desk.advance(5)
    await desk.settle(Defer((await desk.one()).receipt, 100))
    assert not await desk.store.cancel_delayed("q", "k")
    assert not (await desk.send("b", key="k", delay=5))[0].replaced


async def test_keys_of_two_queues_have_nothing_to_do_with_each_other(desk: Desk) -> None:
    await desk.queue()
    await desk.queue("other")
    await others(desk)
    await desk.send("a", key="k", delay=60 * DAY)
    assert not (await desk.send("b", queue="other", key="k", delay=60 * DAY))[0].replaced
    assert await desk.store.cancel_delayed("q", "k")
    assert (await desk.counts("other")) == (0, 1, 0)


async def test_a_refused_or_duplicate_send_replaces_nothing(desk: Desk) -> None:
    await desk.queue(max_body=10)
    await others(desk)
    await desk.send("a", key="k", delay=60 * DAY, dedup_id="1")
    (refused,) = await desk.store.send("q", [Outgoing(b"x" * 11, key="k", delay=5)])
    assert isinstance(refused, Refused)
    (duplicate,) = await desk.send("b", key="k", delay=5, dedup_id="1")
    assert (duplicate.duplicate, duplicate.replaced) == (True, False)
    (bad,) = await desk.store.send("q", [Outgoing(b"x", key="a b", delay=5)])
    assert isinstance(bad, Refused)
    assert bad.code == "bad_key"
    await desk.advance(60 * DAY)
    assert sorted(await desk.bodies()) == [*"123456", "a"]


async def test_a_purge_frees_keys(desk: Desk) -> None:
    await desk.queue()
    await others(desk)
    await desk.send("a", key="k", delay=60 * DAY)
    await desk.store.purge("q")
    assert not await desk.store.cancel_delayed("q", "k")
    assert not (await desk.send("b", key="k", delay=5))[0].replaced
    assert await desk.counts() == (0, 1, 0)


async def test_Q33_a_fifo_queue_refuses_a_key_and_says_why(desk: Desk) -> None:
    await desk.queue(fifo=True, delay=10)
    (refused,) = await desk.store.send("q", [Outgoing(b"a", group="g", key="k")])
    assert isinstance(refused, Refused)
    assert refused.code == "bad_key"
    assert "FIFO queues have none" in refused.reason
    with pytest.raises(RefusedError, match="FIFO queues have none"):
        await desk.store.cancel_delayed("q", "k")
    with pytest.raises(NotFound):
        await desk.store.cancel_delayed("nowhere", "k")


async def test_what_a_handler_sends_with_a_key_replaces_in_the_commit_of_its_acknowledgement(desk: Desk) -> None:
    await desk.queue()
    await desk.queue("work")
    await others(desk)
    await desk.send("old", key="k", delay=60 * DAY)
    await desk.send("job", queue="work")
    delivery = await desk.one("work")
    emit = Emit("queue", "q", Outgoing(b"new", key="k", delay=61 * DAY))
    assert await desk.settle(Ack(delivery.receipt, [emit]), queue="work") == [Settled()]
    assert await desk.counts() == (0, 7, 0)
    await desk.advance(61 * DAY)
    assert sorted(await desk.bodies()) == [*"123456", "new"]


async def test_an_operator_sees_the_key_until_it_is_free(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", key="k", delay=5)
    assert [peeked.key for peeked in await desk.store.peek("q")] == ["k"]
    await desk.advance(5)
    assert [peeked.key for peeked in await desk.store.peek("q")] == [None]


async def test_Q71_a_dedup_id_on_a_standard_queue_works_as_on_a_fifo_queue(desk: Desk) -> None:
    await desk.queue()
    (first,) = await desk.send("a", dedup_id="1")
    (again,) = await desk.send("b", dedup_id="1")
    assert again == Sent(first.id, first.sequence, duplicate=True)
    (delivery,) = await desk.take()
    assert (delivery.body, delivery.dedup_id) == (b"a", "1")
    await desk.ack(delivery)
    await desk.advance(299.9)
    assert (await desk.send("c", dedup_id="1"))[0] == again
    await desk.advance(0.1)
    assert not (await desk.send("d", dedup_id="1"))[0].duplicate
    assert await desk.bodies() == ["d"]


async def test_Q71_a_cancelled_or_replaced_message_is_still_the_answer_to_its_dedup_id(desk: Desk) -> None:
    await desk.store.declare(Topology(queues=(QueueSpec("q"),)))
    (first,) = await desk.send("a", key="k", delay=60, dedup_id="1")
    await desk.store.cancel_delayed("q", "k")
    assert (await desk.send("a", dedup_id="1"))[0] == Sent(first.id, first.sequence, duplicate=True)


async def test_a_key_names_one_message_of_its_queue_whatever_the_priorities(desk: Desk) -> None:
    await desk.queue()
    for priority in (0, 5):
        await desk.send(*"123456", delay=59 * DAY, priority=priority)
    await desk.send("low", key="k", delay=60 * DAY)
    assert [sent.replaced for sent in await desk.send("high", key="k", delay=61 * DAY, priority=9)] == [True]
    assert [sent.replaced for sent in await desk.send("middle", key="k", delay=62 * DAY, priority=5)] == [True]
    assert await desk.counts() == (0, 13, 0)
    await desk.advance(62 * DAY)
    assert "middle" in await desk.bodies(100)
    await desk.send("again", key="k", delay=60 * DAY, priority=5)
    assert await desk.store.cancel_delayed("q", "k")
    assert not await desk.store.cancel_delayed("q", "k")
    assert (await desk.stats()).cancelled == 3
