"""Queues that hand out at most so many messages a second, on every store (SQS: Q78)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError
from pipeflow.messages import Defer

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_Q78_a_second_has_as_many_messages_as_its_queue_allows_and_no_more(desk: Desk) -> None:
    await desk.queue(max_per_second=4)
    await desk.send(*map(str, range(10)))
    assert await desk.bodies(limit=3) == ["0", "1", "2"]
    await desk.advance(0.5)
    assert await desk.bodies() == ["3"]
    assert await desk.bodies() == []
    await desk.advance(0.4)
    assert await desk.bodies() == []
    await desk.advance(0.1)
    assert await desk.bodies() == ["4", "5", "6"], "a second after the first three"
    await desk.advance(0.5)
    assert await desk.bodies() == ["7"]
    await desk.advance(1)
    assert await desk.bodies() == ["8", "9"]


async def test_Q78_who_waits_is_woken_when_there_is_room_again(desk: Desk) -> None:
    await desk.queue(max_per_second=1)
    await desk.send("a", "b")
    assert await desk.bodies() == ["a"]
    began = desk.clock.now()
    async with desk.waiting() as receiver:
        await desk.advance(5)
        assert await receiver.bodies() == ["b"]
    assert await desk.bodies() == []
    assert desk.clock.now() == began + 5


async def test_Q78_what_is_sent_while_there_is_no_room_waits_for_it(desk: Desk) -> None:
    await desk.queue(max_per_second=0.1)
    await desk.send("a")
    await desk.one()
    async with desk.waiting() as receiver:
        await desk.send("b")
        await desk.advance(9.9)
        assert (await desk.counts())[0] == 1
        await desk.advance(0.1)
        assert await receiver.bodies() == ["b"]


async def test_Q78_another_attempt_counts_like_the_first(desk: Desk) -> None:
    await desk.queue(max_per_second=1, fifo=True)
    await desk.send("a", group="g")
    await desk.settle(Defer((await desk.one()).receipt, 0.0))
    assert await desk.bodies() == []
    await desk.advance(1)
    assert (await desk.one()).attempt == 2


@pytest.mark.parametrize("limit", [1, 10])
async def test_Q78_who_waits_at_a_queue_with_priorities_is_woken_when_there_is_room_again(
    desk: Desk, limit: int
) -> None:
    await desk.queue(max_per_second=2)
    for n in range(6):
        await desk.send(str(n), priority=n % 2)
    assert await desk.bodies(1) == ["1"]
    assert await desk.bodies(1) == ["3"]
    for expected in (["5", "0"], ["2", "4"]):
        async with desk.waiting(limit=limit) as receiver:
            await desk.advance(1)
            seen = await receiver.bodies()
        assert seen + await desk.bodies(2 - len(seen)) == expected


async def test_Q78_a_lower_rate_counts_what_went_before_it(desk: Desk) -> None:
    await desk.queue(max_per_second=4)
    await desk.send(*"abcdefg")
    assert await desk.bodies(3) == ["a", "b", "c"]
    await desk.advance(0.5)
    assert await desk.bodies(1) == ["d"]
    await desk.queue(max_per_second=2)
    assert await desk.bodies() == []
    await desk.advance(0.5)
    assert await desk.bodies() == ["e"], "one of the last second counts"
    await desk.advance(0.5)
    assert await desk.bodies() == ["f"]


async def test_Q78_a_higher_rate_wakes_who_waits_as_soon_as_it_allows(desk: Desk) -> None:
    await desk.queue(max_per_second=0.1)
    await desk.send("a", "b")
    assert await desk.bodies() == ["a"]
    began = desk.clock.now()
    async with desk.waiting() as receiver:
        await desk.queue(max_per_second=0.5)
        await desk.advance(1.9)
        assert (await desk.counts())[0] == 1
        await desk.advance(0.1)
        assert await receiver.bodies() == ["b"]
    assert desk.clock.now() == began + 2, "within the two seconds, without waiting ten"


async def test_Q78_a_rate_may_change_and_go_and_must_be_one(desk: Desk) -> None:
    await desk.queue(max_per_second=1)
    await desk.send(*"abcd")
    assert await desk.bodies() == ["a"]
    await desk.queue(max_per_second=2)
    assert await desk.bodies() == ["b"], "two in this second, the one at the former rate among them"
    await desk.queue()
    assert await desk.bodies() == ["c", "d"]
    for wrong in (0, -1, 1.5, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match="max_per_second is"):
            await desk.queue(max_per_second=wrong)
