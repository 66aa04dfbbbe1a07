"""What every broker does with a standard queue (SQS: Q1-Q4, Q17, Q18, Q33, Q46-Q51, Q55, Q56)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeflow.errors import NotFound
from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Extend,
    Failure,
    Outgoing,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_Q1_Q102_a_message_is_in_exactly_one_state_and_counted_there(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a")
    assert await desk.counts() == (1, 0, 0)
    await desk.send("b", delay=60)
    assert await desk.counts() == (1, 1, 0)
    delivery = await desk.one()
    assert await desk.counts() == (0, 1, 1)
    await desk.ack(delivery)
    assert await desk.counts() == (0, 1, 0)
    await desk.advance(60)
    assert await desk.counts() == (1, 0, 0)


async def test_Q2_Q4_a_delayed_message_is_visible_at_its_due_moment_and_not_before(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", delay=10)
    await desk.advance(9.999)
    assert await desk.bodies() == []
    await desk.advance(0.001)
    assert await desk.bodies() == ["a"]


async def test_Q2_Q4_a_message_in_flight_is_visible_again_at_its_deadline_and_not_before(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30)
    await desk.send("a")
    delivery = await desk.one()
    assert delivery.deadline == desk.clock.now() + 30
    await desk.advance(29.999)
    assert await desk.bodies() == []
    await desk.advance(0.001)
    assert (await desk.one()).attempt == 2


async def test_Q2_a_receive_with_no_visibility_timeout_counts_and_leaves_the_message_visible(desk: Desk) -> None:
    await desk.queue(max_receives=None)
    await desk.send("a")
    first = await desk.one(visibility_timeout=0)
    assert first.deadline == desk.clock.now()
    assert first.attempt == 1
    again = await desk.one(visibility_timeout=0)
    assert again.attempt == 2
    assert await desk.counts() == (1, 0, 0)
    await desk.ack(again)
    assert await desk.counts() == (0, 0, 0)


async def test_Q3_in_flight_is_received_and_neither_deleted_nor_visible_again(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30)
    await desk.send(*"abc")
    first, _, _ = await desk.take()
    assert await desk.counts() == (0, 0, 3)
    await desk.ack(first)
    assert await desk.counts() == (0, 0, 2)
    await desk.advance(30)
    assert await desk.counts() == (2, 0, 0)


async def test_Q17_a_new_visibility_timeout_or_delay_leaves_what_was_sent_or_received_alone(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30, delay=10)
    await desk.send("held")
    await desk.advance(10)
    assert (await desk.one()).deadline == desk.clock.now() + 30
    await desk.send("delayed")
    await desk.queue(visibility_timeout=100, delay=0)
    assert await desk.bodies() == []
    await desk.advance(10)
    assert await desk.bodies() == ["delayed"]
    await desk.advance(20)
    assert await desk.bodies() == ["held"]


async def test_Q18_a_lower_retention_expires_what_is_there(desk: Desk) -> None:
    await desk.queue(retention=1000)
    await desk.send("old")
    await desk.advance(100)
    await desk.send("new")
    await desk.queue(retention=50)
    assert await desk.bodies() == ["new"]
    assert (await desk.stats()).expired == 1


async def test_Q33_a_delay_of_its_own_beats_that_of_the_queue_zero_included(desk: Desk) -> None:
    await desk.queue(delay=60)
    await desk.send("at once", delay=0)
    await desk.send("soon", delay=5)
    await desk.send("later")
    assert await desk.bodies() == ["at once"]
    await desk.advance(5)
    assert await desk.bodies() == ["soon"]
    await desk.advance(55)
    assert "later" in await desk.bodies()


async def test_a_delay_may_be_days_and_a_bad_one_is_refused_by_itself(desk: Desk) -> None:
    await desk.queue(retention=30 * 86_400)
    results = await desk.store.send("q", [Outgoing(b"a", delay=20 * 86_400), Outgoing(b"b", delay=-1), Outgoing(b"c")])
    assert isinstance(results[1], Refused)
    assert await desk.bodies() == ["c"]
    await desk.advance(20 * 86_400)
    assert "a" in await desk.bodies()


async def test_Q46_a_receive_takes_no_more_than_its_limit(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*"abcdefg")
    assert await desk.bodies(1) == ["a"]
    assert await desk.bodies(3) == ["b", "c", "d"]
    assert await desk.bodies() == ["e", "f", "g"]


async def test_Q46_a_receive_takes_no_more_bytes_than_it_may_but_always_one_message(desk: Desk) -> None:
    await desk.queue()
    await desk.send("x" * 100, "y" * 100, "z")
    assert len(await desk.store.receive("q", Want(max_bytes=10))) == 1
    assert len(await desk.store.receive("q", Want(max_bytes=101))) == 2


async def test_Q47_Q48_an_empty_queue_answers_at_once_or_after_the_wait(desk: Desk) -> None:
    await desk.queue()
    assert await desk.take() == []
    async with desk.waiting(wait=20) as receiver:
        await desk.advance(20)
        assert await receiver.bodies() == []


async def test_Q48_a_long_poll_wakes_on_a_new_send_and_does_not_wait_to_fill_its_batch(desk: Desk) -> None:
    await desk.queue()
    async with desk.waiting() as receiver:
        await desk.send("a")
        assert await receiver.bodies() == ["a"]


async def test_Q48_a_long_poll_wakes_when_a_delay_ends(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", delay=5)
    async with desk.waiting() as receiver:
        await desk.advance(5)
        assert await receiver.bodies() == ["a"]


async def test_Q48_a_long_poll_wakes_when_a_visibility_timeout_runs_out(desk: Desk) -> None:
    await desk.queue(visibility_timeout=5)
    await desk.send("a")
    await desk.one()
    async with desk.waiting() as receiver:
        await desk.advance(5)
        assert await receiver.bodies() == ["a"]


@pytest.mark.parametrize("how", ["extend", "defer", "release"])
async def test_Q48_a_long_poll_wakes_when_a_message_is_given_back(desk: Desk, how: str) -> None:
    await desk.queue()
    await desk.send("a")
    receipt = (await desk.one()).receipt
    ways: dict[str, Settlement] = {
        "extend": Extend(receipt, 0),
        "defer": Defer(receipt, 0),
        "release": Release(receipt),
    }
    async with desk.waiting() as receiver:
        await desk.settle(ways[how])
        assert await receiver.bodies() == ["a"]


async def test_Q48_every_waiting_receiver_gets_its_message(desk: Desk) -> None:
    await desk.queue()
    async with desk.waiting(limit=1) as one, desk.waiting(limit=1) as other:
        await desk.send("a", "b")
        assert sorted(await one.bodies() + await other.bodies()) == ["a", "b"]


async def test_Q49_a_short_poll_sees_the_whole_queue(desk: Desk) -> None:
    await desk.queue()
    sent = [str(n) for n in range(50)]
    await desk.send(*sent)
    got: list[str] = []
    while bodies := await desk.bodies():
        got += bodies
    assert got == sent


async def test_Q50_a_receive_may_have_a_visibility_timeout_of_its_own(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30)
    await desk.send("a", "b")
    assert (await desk.one(visibility_timeout=5)).deadline == desk.clock.now() + 5
    assert (await desk.one()).deadline == desk.clock.now() + 30
    await desk.advance(5)
    assert await desk.bodies() == ["a"]


async def test_Q51_each_receive_counts_and_mints_a_receipt_that_is_never_used_again(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10, max_receives=None)
    await desk.send("a")
    first_received = desk.clock.now()
    receipts = set()
    for attempt in (1, 2, 3):
        delivery = await desk.one()
        assert (delivery.attempt, delivery.receives) == (attempt, attempt)
        assert delivery.first_received_at == first_received
        receipts.add(delivery.receipt)
        await desk.advance(10)
    assert len(receipts) == 3


async def test_Q55_the_oldest_visible_message_comes_first(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a", "b")
    assert await desk.bodies(1) == ["a"]
    await desk.send("c")
    await desk.advance(10)
    # "a" became visible last.
    assert await desk.bodies() == ["b", "c", "a"]


async def test_Q56_at_the_in_flight_cap_nothing_more_is_handed_out(desk: Desk) -> None:
    await desk.queue(max_in_flight=2)
    await desk.send(*"abc")
    taken = await desk.take()
    assert len(taken) == 2
    assert await desk.take() == []
    async with desk.waiting() as receiver:
        await desk.ack(taken[0])
        assert await receiver.bodies() == ["c"]


async def test_Q56_a_long_poll_at_the_cap_ends_empty_without_an_error(desk: Desk) -> None:
    await desk.queue(max_in_flight=1, visibility_timeout=100)
    await desk.send("a", "b")
    await desk.one()
    async with desk.waiting(wait=20) as receiver:
        await desk.advance(20)
        assert await receiver.bodies() == []


async def test_what_was_sent_is_what_is_received(desk: Desk) -> None:
    await desk.queue()
    attributes = {"s": "text", "n": 1.5, "i": 7, "b": b"\xff", "t": True, "l": ["a", 1, None]}
    (sent,) = await desk.store.send("q", [Outgoing(b"\x00body", attributes, {"trace": "1"}, group="g")])  # type: ignore[arg-type]  # every kind
    delivery = await desk.one()
    assert delivery.body == b"\x00body"
    assert delivery.attributes == attributes
    assert delivery.headers == {"trace": "1"}
    assert delivery.group == "g"
    assert delivery.sent_at == desk.clock.now()
    assert delivery.id == sent.id  # type: ignore[union-attr]  # it was accepted


async def test_Q26_Q27_a_message_over_the_limit_is_refused_by_itself_and_one_at_it_is_not(desk: Desk) -> None:
    await desk.queue(max_body=100)
    at, over, other = await desk.store.send(
        "q", [Outgoing(b"x" * 100), Outgoing(b"x" * 101), Outgoing(b"x" * 99, {"name": "v"})]
    )
    assert not isinstance(at, Refused)
    assert isinstance(over, Refused)
    assert isinstance(other, Refused), "attributes count"
    assert "100" in over.reason


async def test_an_unknown_queue_is_not_found_by_every_verb(desk: Desk) -> None:
    await desk.queue("billing")
    with pytest.raises(NotFound, match=r"biling.*billing"):
        await desk.send("a", queue="biling")
    with pytest.raises(NotFound):
        await desk.take(queue="biling")
    with pytest.raises(NotFound):
        await desk.settle(queue="biling")
    with pytest.raises(NotFound):
        await desk.store.publish("biling", [Outgoing(b"")])


async def test_a_release_is_no_attempt_and_goes_to_the_front(desk: Desk) -> None:
    await desk.queue(max_receives=1)
    await desk.send("a", "b")
    for _ in range(3):
        delivery = await desk.one()
        assert (delivery.body, delivery.attempt) == (b"a", 1)
        assert await desk.settle(Release(delivery.receipt)) == [Settled()]
    assert delivery.receives == 3


async def test_a_deferred_message_waits_its_delay_and_keeps_its_failure(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a")
    failure = Failure(desk.clock.now(), 1, "ValueError", "no")
    assert await desk.settle(Defer((await desk.one()).receipt, 7, failure)) == [Settled()]
    assert await desk.counts() == (0, 1, 0)
    await desk.advance(6.9)
    assert await desk.take() == []
    await desk.advance(0.1)
    delivery = await desk.one()
    assert delivery.attempt == 2
    assert delivery.failures == [failure]


async def test_failures_are_kept_up_to_a_bound_newest_last(desk: Desk) -> None:
    await desk.queue(max_receives=None)
    await desk.send("a")
    for attempt in range(1, 15):
        delivery = await desk.one()
        await desk.settle(Defer(delivery.receipt, 0, Failure(0.0, attempt, "E", "m")))
    kept = [failure.attempt for failure in (await desk.one()).failures]
    assert kept == list(range(5, 15))


async def test_a_receipt_of_another_boot_or_place_is_stale(desk: Desk) -> None:
    """SQS: Q58."""
    await desk.queue()
    await desk.send("a")
    receipt = (await desk.one()).receipt
    for wrong in (
        type(receipt)(receipt.place + 1, receipt.boot, receipt.receive),
        type(receipt)(receipt.place, receipt.boot + 1, receipt.receive),
        type(receipt)(receipt.place, receipt.boot, receipt.receive + 1),
    ):
        (result,) = await desk.settle(Ack(wrong))
        assert isinstance(result, Stale)
        (result,) = await desk.settle(Bury(wrong))
        assert isinstance(result, Stale)
    assert await desk.counts() == (0, 0, 1)


@pytest.mark.parametrize("wrong", ["5", True, b"5"])
async def test_Q43_an_option_of_the_wrong_type_is_refused_and_keeps_out_no_neighbour(desk: Desk, wrong: object) -> None:
    await desk.queue()
    builder: Any = Outgoing
    batch = [
        Outgoing(b"a"),
        builder(b"b", delay=wrong),
        builder(b"c", ttl=wrong),
        builder(b"d", ttl=5, delay=wrong),
        builder(b"e", group=5),
        Outgoing(b"f"),
    ]
    answers = await desk.store.send("q", batch)
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert [answer.code for answer in refused] == ["bad_delay", "bad_ttl", "bad_delay", "bad_group"]
    assert all("q: " in answer.reason and "number of seconds" in answer.reason for answer in refused[:3])
    assert await desk.bodies() == ["a", "f"]


async def test_Q43_a_refused_message_of_a_batch_does_not_keep_out_its_neighbours(desk: Desk) -> None:
    await desk.queue(max_body=10)
    batch = [
        Outgoing(b"a"),
        Outgoing(b"x" * 11),
        Outgoing(b"b", delay=-1),
        Outgoing(b"c", group="no space"),
        Outgoing(b"d"),
    ]
    answers = await desk.store.send("q", batch)
    assert [isinstance(answer, Sent) for answer in answers] == [True, False, False, False, True]
    assert [answer.code for answer in answers if isinstance(answer, Refused)] == ["too_large", "bad_delay", "bad_group"]
    assert await desk.bodies() == ["a", "d"]


async def test_Q34_a_send_answers_with_the_id_of_the_message(desk: Desk) -> None:
    await desk.queue()
    sent = await desk.send("a", "b")
    assert [delivery.id for delivery in await desk.take()] == [each.id for each in sent]
    await desk.queue("line", fifo=True)
    first, second = await desk.send("a", "b", queue="line", group="g")
    taken = await desk.take(queue="line")
    assert [(each.id, each.sequence) for each in taken] == [(each.id, each.sequence) for each in (first, second)]
    assert 0 < first.sequence < second.sequence


async def test_a_message_released_for_later_waits_so_long_and_has_not_been_tried(desk: Desk) -> None:
    await desk.queue(max_receives=2, visibility_timeout=100)
    await desk.send("a")
    for _ in range(5):
        delivery = await desk.one()
        assert delivery.attempt == 1
        (answer,) = await desk.settle(Release(delivery.receipt, 30))
        assert isinstance(answer, Settled)
        await desk.advance(29)
        assert await desk.bodies() == []
        await desk.advance(1)
    delivery = await desk.one()
    (refused,) = await desk.settle(Release(delivery.receipt, 1e9))
    assert isinstance(refused, Refused)
    await desk.ack(delivery)
