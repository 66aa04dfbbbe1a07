"""What every broker does with retention, dead letters and redrive (SQS: Q89-Q95, Q99, Q107)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError, NotFound
from pipeflow.filters import parse_where
from pipeflow.messages import Bury, Defer, Delivery, Failure, Settled
from pipeflow.protocols import Redrive

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def fail(desk: Desk, times: int, queue: str = "q") -> Delivery:
    """Let the one message of a queue fail some times."""
    for attempt in range(1, times + 1):
        delivery = await desk.one(queue)
        await desk.settle(Defer(delivery.receipt, 0, Failure(0.0, attempt, "ValueError", "no")), queue=queue)
    return delivery


async def test_Q89_a_message_is_seen_max_receives_times_and_moved_by_the_next_receive(desk: Desk) -> None:
    await desk.queue(max_receives=3, dead_letters="dead")
    await desk.send("a")
    assert (await fail(desk, 3)).attempt == 3
    assert await desk.bodies() == []
    assert await desk.bodies(queue="dead") == ["a"]
    assert (await desk.stats()).buried == 1


async def test_Q89_a_visibility_timeout_that_runs_out_counts_like_a_failure(desk: Desk) -> None:
    await desk.queue(max_receives=2, dead_letters="dead", visibility_timeout=10)
    await desk.send("a")
    for _ in range(2):
        await desk.one()
        await desk.advance(10)
    assert await desk.bodies() == []
    assert await desk.bodies(queue="dead") == ["a"]


async def test_Q89_no_timer_moves_a_message_that_nobody_receives(desk: Desk) -> None:
    await desk.queue(max_receives=1, dead_letters="dead", visibility_timeout=10)
    await desk.send("a")
    await desk.one()
    await desk.advance(3600)
    assert (await desk.stats("dead")).ready == 0
    assert await desk.counts() == (1, 0, 0)


async def test_Q89_one_dead_letter_does_not_hide_the_next_message(desk: Desk) -> None:
    await desk.queue(max_receives=1, dead_letters="dead", visibility_timeout=10)
    await desk.send("a", "b")
    await desk.one()
    await desk.advance(10)
    assert await desk.bodies() == ["b"]
    assert await desk.bodies() == []
    assert await desk.bodies(queue="dead") == ["a"]


async def test_Q48_Q89_a_receiver_of_the_dead_letters_is_woken(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send("a")
    delivery = await desk.one()
    async with desk.waiting("dead") as receiver:
        await desk.settle(Bury(delivery.receipt))
        assert await receiver.bodies() == ["a"]


async def test_without_max_receives_a_message_is_never_moved(desk: Desk) -> None:
    await desk.queue(max_receives=None, dead_letters="dead")
    await desk.send("a")
    await fail(desk, 20)
    assert (await desk.one()).attempt == 21


async def test_Q90_a_dead_letter_keeps_all_that_it_was_and_says_where_it_came_from(desk: Desk) -> None:
    await desk.queue(max_receives=1, dead_letters="dead")
    (sent,) = await desk.send("a", attributes={"kind": "x"}, headers={"h": "1"}, group="g")
    sent_at = desk.clock.now()
    await desk.advance(100)
    await fail(desk, 1)
    await desk.bodies()
    dead = await desk.one("dead")
    assert (dead.id, dead.body, dead.attributes, dead.headers, dead.group) == (
        sent.id,
        b"a",
        {"kind": "x"},
        {"h": "1"},
        "g",
    )
    assert dead.sent_at == sent_at
    assert dead.dead_letter_source == "q"
    assert (dead.receives, dead.attempt) == (2, 1), "the receive count goes on, in a queue of its own"
    assert [failure.type for failure in dead.failures] == ["ValueError"]


async def test_bury_moves_at_once_with_the_reason(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send("a")
    failure = Failure(desk.clock.now(), 1, "Reject", "nothing to charge", "0badf00d")
    assert await desk.settle(Bury((await desk.one()).receipt, failure)) == [Settled()]
    (peeked,) = await desk.store.peek("q", dead=True)
    assert peeked.failures == [failure]
    assert (await desk.stats()).dead == 1


@pytest.mark.parametrize("age", ["arrival", "sent"])
async def test_Q92_retention_in_the_dead_letters_counts_from_arrival_or_from_the_send(desk: Desk, age: str) -> None:
    await desk.queue("dead", retention=100, max_receives=None)
    await desk.queue(max_receives=1, dead_letters="dead", dead_letter_age=age)
    await desk.send("a")
    await desk.advance(60)
    await desk.settle(Bury((await desk.one()).receipt))
    await desk.advance(60)
    assert (await desk.stats()).dead == (1 if age == "arrival" else 0)
    await desk.advance(40)
    assert (await desk.stats()).dead == 0


async def test_Q94_a_dead_letter_is_subject_to_neither_delay_nor_size_of_its_new_queue(desk: Desk) -> None:
    await desk.queue("dead", delay=60, max_body=10, max_receives=None)
    await desk.queue(dead_letters="dead")
    await desk.send("x" * 100)
    await desk.settle(Bury((await desk.one()).receipt))
    assert await desk.bodies(queue="dead") == ["x" * 100]


async def test_Q95_dead_letters_may_have_dead_letters(desk: Desk) -> None:
    await desk.queue("last", max_receives=None)
    await desk.queue("dead", max_receives=2, dead_letters="last")
    await desk.queue(max_receives=3, dead_letters="dead")
    await desk.send("a")
    await fail(desk, 3)
    assert await desk.bodies() == []
    delivery = await fail(desk, 2, "dead")
    assert (delivery.attempt, delivery.receives) == (2, 5)
    assert await desk.bodies(queue="dead") == []
    delivery = await desk.one("last")
    assert (delivery.attempt, delivery.receives) == (1, 6)
    (peeked,) = await desk.store.peek("dead", dead=True)
    assert peeked.attempt == 6, "an operator is told how often it was tried at all"


async def test_Q95_a_dead_letter_that_is_sent_back_has_all_its_attempts_again(desk: Desk) -> None:
    await desk.queue(max_receives=2, dead_letters="dead")
    await desk.send("a")
    await fail(desk, 2)
    assert await desk.bodies() == []
    assert (await desk.store.redrive(Redrive("q"))).moved == 1
    assert (await fail(desk, 2)).receives == 2
    assert await desk.bodies() == []
    assert (await desk.stats()).dead == 1


async def test_Q87_dead_letters_are_of_the_kind_of_their_queue(desk: Desk) -> None:
    await desk.queue("dead", max_receives=None)
    with pytest.raises(ConfigurationError, match="FIFO"):
        await desk.queue("f", fifo=True, dead_letters="dead")


async def test_Q99_a_redriven_message_is_new(desk: Desk) -> None:
    await desk.queue(max_receives=1, dead_letters="dead", retention=1000)
    (sent,) = await desk.send("a", attributes={"kind": "x"})
    await fail(desk, 1)
    await desk.bodies()
    await desk.advance(900)
    done = await desk.store.redrive(Redrive("q"))
    assert (done.examined, done.matched, done.moved) == (1, 1, 1)
    await desk.advance(900)
    delivery = await desk.one()
    assert delivery.id != sent.id
    assert (delivery.body, delivery.attributes) == (b"a", {"kind": "x"})
    assert (delivery.attempt, delivery.receives) == (1, 1)
    assert delivery.sent_at == desk.clock.now() - 900
    assert delivery.dead_letter_source is None
    assert (await desk.stats()).redriven == 1


async def test_Q99_redriven_messages_come_oldest_first_and_wake_receivers(desk: Desk) -> None:
    await desk.queue(max_receives=1, dead_letters="dead")
    await desk.send(*(str(n) for n in range(10)))
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take()))
    async with desk.waiting() as receiver:
        assert (await desk.store.redrive(Redrive("q"))).moved == 10
        first = await receiver.bodies()
    assert first
    assert first + await desk.bodies() == [str(n) for n in range(10)]


async def test_a_redrive_takes_what_its_filter_lets_through_up_to_a_limit(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send(*(f'{{"n": {n}}}' for n in range(8)))
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take()))
    where = parse_where("body.n>=2", desk.clock.now())
    tried = await desk.store.redrive(Redrive("q", where=where, dry_run=True))
    assert (tried.matched, tried.moved) == (6, 0)
    assert (await desk.stats()).dead == 8
    done = await desk.store.redrive(Redrive("q", where=where, limit=3))
    assert done.moved == 3
    assert await desk.bodies() == ['{"n": 2}', '{"n": 3}', '{"n": 4}']
    assert (await desk.stats()).dead == 5


async def test_a_redrive_may_go_to_another_queue_and_needs_dead_letters(desk: Desk) -> None:
    await desk.queue("lenient")
    await desk.queue(dead_letters="dead")
    await desk.send("a")
    await desk.settle(Bury((await desk.one()).receipt))
    assert (await desk.store.redrive(Redrive("q", to="lenient"))).moved == 1
    assert await desk.bodies(queue="lenient") == ["a"]
    with pytest.raises(NotFound, match="lenient"):
        await desk.store.redrive(Redrive("lenient"))


async def test_Q107_an_expired_message_is_neither_received_nor_dead_lettered(desk: Desk) -> None:
    await desk.queue(retention=100, max_receives=1, dead_letters="dead", visibility_timeout=10)
    await desk.send(*"abcde")
    await desk.one()
    await desk.advance(100)
    assert await desk.bodies() == []
    stats = await desk.stats()
    assert (stats.ready, stats.in_flight, stats.expired, stats.buried, stats.dead) == (0, 0, 5, 0, 0)


async def test_Q2_Q107_messages_in_flight_and_delayed_expire_too(desk: Desk) -> None:
    await desk.queue(retention=100, visibility_timeout=1000)
    await desk.send("held")
    await desk.one()
    await desk.send("delayed", delay=500)
    await desk.advance(99)
    assert await desk.counts() == (0, 1, 1)
    await desk.advance(1)
    assert await desk.counts() == (0, 0, 0)


async def test_peek_shows_messages_without_touching_them(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send(*"abcdef")
    held = await desk.one()
    await desk.send("late", delay=50)
    peeked = await desk.store.peek("q", limit=20)
    assert {each.body.decode(): each.state for each in peeked} == {
        "a": "in_flight",
        **dict.fromkeys("bcdef", "ready"),
        "late": "delayed",
    }
    assert [each.body for each in peeked if each.state == "ready"] == [b"b", b"c", b"d", b"e", b"f"]
    await desk.ack(held)
    assert [delivery.attempt for delivery in await desk.take(5)] == [1, 1, 1, 1, 1]
