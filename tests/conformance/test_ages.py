"""How old the oldest message of a queue is, on every broker (SQS: ApproximateAgeOfOldestMessage, by Q2, Q90, Q92)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.messages import Ack, Bury, Defer
from pipeflow.specs import DAY

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def age(desk: Desk, queue: str = "q") -> float:
    """What an operator is told of the queue."""
    return (await desk.stats(queue)).oldest_age


@pytest.mark.parametrize("fifo", [False, True])
async def test_Q2_a_message_that_came_back_behind_younger_ones_is_still_the_oldest(desk: Desk, fifo: bool) -> None:
    await desk.queue(fifo=fifo, visibility_timeout=30)
    for body in "abcdefgh":
        await desk.send(body, group=body if fifo else None)
        await desk.advance(1)
    await desk.one()
    await desk.advance(30)
    assert await age(desk) == 38


@pytest.mark.parametrize("fifo", [False, True])
async def test_Q2_what_is_in_flight_or_waits_for_a_retry_is_there(desk: Desk, fifo: bool) -> None:
    await desk.queue(fifo=fifo, max_receives=None)
    await desk.send("a", group="g" if fifo else None)
    await desk.advance(10)
    taken = await desk.one()
    assert await age(desk) == 10
    await desk.settle(Defer(taken.receipt, 100))
    await desk.advance(10)
    assert await age(desk) == 20
    await desk.advance(100)
    await desk.settle(Ack((await desk.one()).receipt))
    assert await age(desk) == 0


async def test_Q2_what_nobody_could_have_had_yet_has_no_age(desk: Desk) -> None:
    await desk.queue()
    await desk.send("soon", delay=100)
    await desk.send("later", delay=30 * DAY)
    await desk.advance(50)
    assert await age(desk) == 0
    await desk.advance(50)
    assert await age(desk) == 100
    await desk.ack(await desk.one())
    await desk.advance(30 * DAY - 90)
    assert await age(desk) == 10


async def test_Q90_Q92_a_dead_letter_counts_from_when_it_died(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send("a")
    await desk.advance(1000)
    await desk.settle(Bury((await desk.one()).receipt))
    await desk.advance(5)
    assert await age(desk, "dead") == 5


async def test_Q2_an_expired_message_has_no_age_and_one_of_another_priority_has(desk: Desk) -> None:
    await desk.queue(retention=100)
    await desk.send("a", priority=4)
    await desk.advance(60)
    await desk.send("b", priority=9)
    await desk.send("c", ttl=20)
    await desk.advance(10)
    assert await age(desk) == 70
    await desk.advance(30)
    assert await age(desk) == 40
