"""What every broker does with a FIFO queue (SQS: Q69-Q77, Q79, Q80, Q91, Q93)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from pipeflow.errors import SpecConflict
from pipeflow.messages import Ack, Bury, Defer, Extend, Outgoing, Refused, Release, Settled, Stale

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def fifo(desk: Desk, *bodies: str, **options: Any) -> None:
    """A FIFO queue with messages whose group is their first letter."""
    await desk.queue(fifo=True, **options)
    for body in bodies:
        await desk.send(body, group=body[0])


async def test_Q38_a_group_is_needed_and_of_a_certain_alphabet(desk: Desk) -> None:
    await desk.queue(fifo=True)
    results = await desk.store.send(
        "q",
        [Outgoing(b"x"), Outgoing(b"x", group="a b"), Outgoing(b"x", group=""), Outgoing(b"x", group="g" * 129)],
    )
    assert all(isinstance(result, Refused) for result in results)
    assert await desk.counts() == (0, 0, 0)


@pytest.mark.parametrize("fields", [{"group": ""}, {"group": "a b"}, {"dedup_id": ""}, {"dedup_id": "i" * 129}])
@pytest.mark.parametrize("fifo", [False, True])
async def test_Q38_ids_are_of_that_alphabet_on_every_queue(desk: Desk, fifo: bool, fields: dict[str, str]) -> None:
    await desk.queue(fifo=fifo)
    given = ({"group": "g"} if fifo else {}) | fields
    (result,) = await desk.store.send("q", [Outgoing(b"x", **given)])  # type: ignore[arg-type]  # texts all of them
    assert isinstance(result, Refused)
    assert result.code == f"bad_{next(iter(fields))}"


async def test_Q69_sequences_rise_and_groups_are_in_order(desk: Desk) -> None:
    await desk.queue(fifo=True)
    sent = [(await desk.send(str(n), group="ab"[n % 2]))[0] for n in range(12)]
    sequences = [each.sequence for each in sent]
    assert sequences == sorted(set(sequences))
    seen: dict[str | None, list[int]] = {}
    while taken := await desk.take(3):
        for delivery in taken:
            seen.setdefault(delivery.group, []).append(int(delivery.body))
        await desk.ack(*taken)
    assert seen == {"a": [0, 2, 4, 6, 8, 10], "b": [1, 3, 5, 7, 9, 11]}


async def test_Q70_Q71_a_duplicate_within_five_minutes_answers_with_the_original(desk: Desk) -> None:
    await desk.queue(fifo=True)
    (first,) = await desk.send("a", group="g", dedup_id="1")
    await desk.ack(await desk.one())
    await desk.advance(299)
    (again,) = await desk.send("b", group="g", dedup_id="1")
    assert (again.id, again.duplicate) == (first.id, True)
    assert await desk.counts() == (0, 0, 0), "the record outlives the message"
    await desk.advance(1)
    (later,) = await desk.send("c", group="g", dedup_id="1")
    assert not later.duplicate, "a duplicate does not extend the window"
    assert await desk.bodies() == ["c"]


async def test_Q72_a_duplicate_repeats_the_sequence_and_uses_none_up(desk: Desk) -> None:
    await desk.queue(fifo=True)
    (first,) = await desk.send("a", group="g", dedup_id="1")
    (again,) = await desk.send("a", group="g", dedup_id="1")
    assert again.sequence == first.sequence
    (next_one,) = await desk.send("b", group="g", dedup_id="2")
    assert next_one.sequence == first.sequence + 1


async def test_Q70_content_deduplication_goes_by_the_body_and_an_explicit_id_wins(desk: Desk) -> None:
    await desk.queue(fifo=True, content_dedup=True)
    await desk.send("a", group="g")
    (same,) = await desk.send("a", group="g", attributes={"other": 1})
    assert same.duplicate
    (explicit,) = await desk.send("a", group="g", dedup_id="mine")
    assert not explicit.duplicate
    (hashed,) = await desk.send("z", group="g", dedup_id=sha256(b"a").hexdigest())
    assert hashed.duplicate


async def test_Q71_Q44_duplicates_inside_one_batch_are_found(desk: Desk) -> None:
    await desk.queue(fifo=True)
    results = await desk.send("a", "b", group="g", dedup_id="1")
    assert [result.duplicate for result in results] == [False, True]
    assert await desk.bodies() == ["a"]


async def test_Q73_the_scope_of_deduplication_is_the_queue_or_the_group(desk: Desk) -> None:
    await desk.queue("by_queue", fifo=True)
    await desk.queue("by_group", fifo=True, dedup_scope="group")
    for queue, duplicate in (("by_queue", True), ("by_group", False)):
        await desk.send("a", queue=queue, group="g", dedup_id="1")
        (other,) = await desk.send("a", queue=queue, group="h", dedup_id="1")
        assert other.duplicate is duplicate
        (same,) = await desk.send("a", queue=queue, group="g", dedup_id="1")
        assert same.duplicate


async def test_Q71_a_purge_does_not_forget_deduplication(desk: Desk) -> None:
    """SQS: Q68."""
    await desk.queue(fifo=True)
    await desk.send("a", group="g", dedup_id="1")
    await desk.store.purge("q")
    (again,) = await desk.send("a", group="g", dedup_id="1")
    assert again.duplicate


async def test_q75a_one_receive_may_take_several_of_a_group_in_order(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "a3")
    assert await desk.bodies(2) == ["a1", "a2"]


async def test_q75b_while_one_is_in_flight_later_ones_are_withheld_new_ones_too(desk: Desk) -> None:
    await fifo(desk, "a1", "a2")
    held = await desk.one()
    assert await desk.bodies() == []
    await desk.send("a3", group="a")
    assert await desk.bodies() == []
    await desk.ack(held)
    assert await desk.bodies() == ["a2", "a3"]


@pytest.mark.parametrize("kept", [1, 2, 3])
async def test_q75c_messages_before_the_first_that_is_held_come_back(desk: Desk, kept: int) -> None:
    await fifo(desk, "a1", "a2", "a3", visibility_timeout=10, max_receives=None)
    taken = await desk.take()
    await desk.settle(Extend(taken[kept - 1].receipt, 100))
    await desk.advance(10)
    assert await desk.bodies() == [f"a{n}" for n in range(1, kept)]


async def test_q75d_deleting_a_message_releases_the_next(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "a3")
    for expected in ("a1", "a2", "a3"):
        delivery = await desk.one()
        assert delivery.body.decode() == expected
        assert await desk.bodies() == []
        await desk.ack(delivery)


async def test_q75e_a_group_without_earlier_messages_is_free(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "a3")
    first, second = await desk.take(2)
    await desk.ack(second)
    assert await desk.bodies() == [], "a1 is still held"
    await desk.ack(first)
    assert await desk.bodies() == ["a3"]


async def test_Q75_a_deferred_message_blocks_its_group_until_it_is_back(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "b1", max_receives=None, visibility_timeout=100)
    delivery = await desk.one()
    await desk.settle(Defer(delivery.receipt, 30))
    assert await desk.bodies() == ["b1"]
    await desk.advance(30)
    assert await desk.bodies() == ["a1", "a2"]


async def test_Q75_a_message_released_for_later_blocks_its_group_until_it_is_back(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "b1", max_receives=2, visibility_timeout=100)
    for _ in range(5):
        delivery = await desk.one()
        assert (delivery.body, delivery.attempt) == (b"a1", 1), "that was no attempt"
        await desk.settle(Release(delivery.receipt, 30))
        await desk.advance(30)
    await desk.settle(Release((await desk.one()).receipt, 30))
    assert await desk.bodies() == ["b1"]
    await desk.advance(30)
    assert await desk.bodies() == ["a1", "a2"]


async def test_Q75_a_released_message_comes_back_in_its_place(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "a3")
    first, second, third = await desk.take()
    await desk.settle(Release(third.receipt), Release(second.receipt))
    assert await desk.bodies() == [], "a1 is still held"
    await desk.settle(Release(first.receipt))
    assert await desk.bodies() == ["a1", "a2", "a3"]


async def test_Q48_a_long_poll_wakes_when_a_group_is_unlocked(desk: Desk) -> None:
    await fifo(desk, "a1", "a2")
    held = await desk.one()
    async with desk.waiting() as receiver:
        await desk.ack(held)
        assert await receiver.bodies() == ["a2"]


async def test_Q76_one_group_is_drained_before_the_next_oldest_head_first(desk: Desk) -> None:
    await fifo(desk, "a1", "b1", "a2", "b2", "c1")
    assert await desk.bodies(3) == ["a1", "a2", "b1"]
    assert await desk.bodies() == ["c1"], "b is held"


async def test_Q77_Q80_a_blocked_group_with_a_backlog_hides_no_other(desk: Desk) -> None:
    await fifo(desk, *(f"a{n}" for n in range(100)))
    await desk.one()
    await desk.send("b1", group="b")
    await desk.send("c1", group="c")
    assert await desk.bodies() == ["b1", "c1"]


async def test_Q77_there_is_no_limit_on_groups(desk: Desk) -> None:
    await desk.queue(fifo=True)
    for n in range(200):
        await desk.store.send("q", [Outgoing(str(n).encode(), group=f"g{n}")])
    got: list[str] = []
    while bodies := await desk.bodies():
        got += bodies
    assert sorted(got, key=int) == [str(n) for n in range(200)]


async def test_Q61_an_expired_receipt_does_not_acknowledge_and_one_extended_in_time_does(desk: Desk) -> None:
    await fifo(desk, "a1", "b1", visibility_timeout=10, max_receives=None)
    expired, extended = await desk.take()
    await desk.advance(5)
    await desk.settle(Extend(extended.receipt, 100))
    await desk.advance(5)
    results = await desk.settle(Ack(expired.receipt), Ack(extended.receipt))
    assert [type(result) for result in results] == [Stale, Settled]
    assert await desk.bodies() == ["a1"]


async def test_Q61_superseded_receipts_are_not_good_enough_on_fifo(desk: Desk) -> None:
    await fifo(desk, "a1", visibility_timeout=10, max_receives=None)
    old = await desk.one()
    await desk.advance(10)
    await desk.one()
    assert isinstance((await desk.settle(Ack(old.receipt, superseded_ok=True)))[0], Stale)


async def test_Q79_a_receive_without_visibility_timeout_gives_a_receipt_that_is_expired(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", max_receives=None)
    delivery = await desk.one(visibility_timeout=0)
    assert isinstance((await desk.settle(Ack(delivery.receipt)))[0], Stale)
    assert await desk.bodies() == ["a1", "a2"]


async def test_Q33_a_fifo_queue_delays_as_a_whole(desk: Desk) -> None:
    await desk.queue(fifo=True, delay=10)
    (refused,) = await desk.store.send("q", [Outgoing(b"x", group="g", delay=5)])
    assert isinstance(refused, Refused)
    await desk.send("a", group="g", delay=0)
    assert await desk.bodies() == [], "an explicit 0 does not cancel the queue's delay"
    await desk.advance(10)
    assert await desk.bodies() == ["a"]


async def test_Q17_a_new_delay_of_a_fifo_queue_holds_for_messages_still_delayed(desk: Desk) -> None:
    await desk.queue(fifo=True, delay=100)
    await desk.send("a", group="g")
    await desk.advance(10)
    await desk.queue(fifo=True, delay=20)
    await desk.advance(9)
    assert await desk.bodies() == []
    await desk.advance(1)
    assert await desk.bodies() == ["a"]


async def test_Q91_a_fifo_dead_letter_keeps_its_group_and_takes_its_id_for_deduplication(desk: Desk) -> None:
    await desk.queue(fifo=True, dead_letters="dead")
    (sent,) = await desk.send("a", group="g", dedup_id="1")
    await desk.settle(Bury((await desk.one()).receipt))
    dead = await desk.one("dead")
    assert (dead.id, dead.group, dead.dedup_id) == (sent.id, "g", sent.id)


async def test_Q92_retention_of_fifo_dead_letters_starts_again(desk: Desk) -> None:
    await desk.queue("dead", fifo=True, retention=100, max_receives=None)
    await desk.queue(fifo=True, dead_letters="dead", dead_letter_age="sent")
    await desk.send("a", group="g")
    await desk.advance(60)
    await desk.settle(Bury((await desk.one()).receipt))
    await desk.advance(60)
    assert (await desk.stats()).dead == 1


async def test_Q93_a_dead_lettered_head_frees_its_group(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", max_receives=1, dead_letters="dead", visibility_timeout=10)
    await desk.one()
    await desk.advance(10)
    assert await desk.bodies() == ["a2"]
    assert await desk.bodies(queue="dead") == ["a1"]


async def test_Q93_burying_the_head_frees_its_group(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", dead_letters="dead")
    delivery = await desk.one()
    await desk.settle(Bury(delivery.receipt))
    assert await desk.bodies() == ["a2"]


async def test_Q102_blocked_messages_of_a_group_count_as_ready(desk: Desk) -> None:
    await fifo(desk, "a1", "a2", "a3")
    await desk.one()
    assert await desk.counts() == (2, 0, 1)


async def test_Q107_an_expired_head_frees_its_group(desk: Desk) -> None:
    await desk.queue(fifo=True, retention=100, visibility_timeout=1000)
    await desk.send("a1", group="a")
    await desk.advance(50)
    await desk.send("a2", group="a")
    await desk.one()
    await desk.advance(50)
    assert await desk.bodies() == ["a2"]


async def test_Q56_the_in_flight_cap_of_a_fifo_queue_is_silent(desk: Desk) -> None:
    await fifo(desk, "a1", "b1", "c1", max_in_flight=2)
    taken = await desk.take()
    assert len(taken) == 2
    assert await desk.take() == []
    await desk.ack(taken[0])
    assert await desk.bodies() == ["c1"]


async def test_Q7_a_queue_is_fifo_or_standard_for_life(desk: Desk) -> None:
    await desk.queue(fifo=True)
    with pytest.raises(SpecConflict, match="fifo"):
        await desk.queue(fifo=False)


async def test_Q68_a_purge_frees_every_group(desk: Desk) -> None:
    await fifo(desk, *(f"a{n}" for n in range(10)))
    await desk.one()
    assert await desk.store.purge("q") == 10
    await desk.send("a10", group="a")
    assert await desk.bodies() == ["a10"]
