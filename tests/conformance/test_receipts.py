"""What every broker does with receipts (SQS: Q58-Q68)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError
from pipeflow.messages import Ack, Bury, Defer, Extend, Refused, Release, Settled, Settlement, Stale, Want

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_Q59_an_acknowledgement_is_idempotent_in_effect(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a")
    delivery = await desk.one()
    await desk.ack(delivery)
    assert isinstance((await desk.settle(Ack(delivery.receipt)))[0], Stale)
    assert (await desk.stats()).acked == 1


async def test_Q59_a_timed_out_receipt_without_successor_still_acknowledges(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a")
    delivery = await desk.one()
    await desk.advance(10)
    assert await desk.counts() == (1, 0, 0)
    await desk.ack(delivery)
    assert await desk.bodies() == []


async def test_Q60_an_older_receipt_is_stale_unless_the_caller_says_that_it_is_good_enough(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a")
    old = await desk.one()
    await desk.advance(10)
    new = await desk.one()
    assert isinstance((await desk.settle(Ack(old.receipt)))[0], Stale)
    assert await desk.counts() == (0, 0, 1)
    assert await desk.settle(Ack(old.receipt, superseded_ok=True)) == [Settled()]
    assert await desk.counts() == (0, 0, 0)
    assert isinstance((await desk.settle(Ack(new.receipt)))[0], Stale)


@pytest.mark.parametrize("kind", ["defer", "extend", "bury", "release"])
async def test_Q60_an_older_receipt_settles_nothing(desk: Desk, kind: str) -> None:
    await desk.queue(visibility_timeout=10, dead_letters="dead")
    await desk.send("a")
    old = (await desk.one()).receipt
    await desk.advance(10)
    new = await desk.one()
    attempts: dict[str, Settlement] = {
        "defer": Defer(old, 0),
        "extend": Extend(old, 0),
        "bury": Bury(old),
        "release": Release(old),
    }
    assert isinstance((await desk.settle(attempts[kind]))[0], Stale)
    assert await desk.counts() == (0, 0, 1)
    await desk.ack(new)


async def test_Q62_an_extension_counts_from_the_call_and_replaces_the_remainder(desk: Desk) -> None:
    await desk.queue(visibility_timeout=30, max_receives=None)
    await desk.send("a")
    delivery = await desk.one()
    await desk.advance(20)
    assert await desk.settle(Extend(delivery.receipt, 15)) == [Settled()]
    await desk.advance(14.9)
    assert await desk.take() == []
    await desk.advance(0.1)
    again = await desk.one()
    assert again.deadline == desk.clock.now() + 30, "the next receive uses the queue's own again"
    assert await desk.settle(Extend(again.receipt, 5)) == [Settled()]
    await desk.advance(5)
    assert (await desk.one()).attempt == 3


async def test_Q62_an_extension_of_zero_makes_the_message_visible_at_once(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a")
    assert await desk.settle(Extend((await desk.one()).receipt, 0)) == [Settled()]
    assert await desk.counts() == (1, 0, 0)
    assert (await desk.one()).attempt == 2


async def test_Q62_many_extensions_keep_a_message_for_as_long_as_they_come(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a")
    delivery = await desk.one()
    for _ in range(20):
        await desk.advance(9)
        assert await desk.settle(Extend(delivery.receipt, 10)) == [Settled()]
    assert await desk.counts() == (0, 0, 1)
    await desk.ack(delivery)


async def test_Q64_an_extension_after_the_deadline_has_no_effect(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a")
    delivery = await desk.one()
    await desk.advance(10)
    assert isinstance((await desk.settle(Extend(delivery.receipt, 100)))[0], Stale)
    assert await desk.bodies() == ["a"]


async def test_Q65_an_extension_of_a_message_that_is_gone_is_stale(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a")
    delivery = await desk.one()
    await desk.ack(delivery)
    assert isinstance((await desk.settle(Extend(delivery.receipt, 10)))[0], Stale)


async def test_Q66_Q61_deferring_or_releasing_after_the_deadline_changes_nothing(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send("a")
    receipt = (await desk.one()).receipt
    await desk.advance(10)
    assert [type(result) for result in await desk.settle(Defer(receipt, 100), Release(receipt))] == [Stale, Stale]
    assert (await desk.one()).attempt == 2


async def test_Q67_a_batch_is_settled_entry_by_entry_in_order(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*"abcd")
    a, b, c, d = await desk.take()
    results = await desk.settle(
        Ack(a.receipt), Ack(a.receipt), Extend(b.receipt, 0), Release(c.receipt), Defer(d.receipt, 5)
    )
    assert [type(result) for result in results] == [Settled, Stale, Settled, Settled, Settled]
    assert await desk.counts() == (2, 1, 0)


async def test_Q68_a_purge_deletes_everything_in_whatever_state(desk: Desk) -> None:
    await desk.queue()
    await desk.send("held", *(str(n) for n in range(10)))
    held = await desk.one()
    await desk.send("delayed", delay=60)
    assert await desk.store.purge("q") == 12
    assert await desk.counts() == (0, 0, 0)
    assert isinstance((await desk.settle(Ack(held.receipt)))[0], Stale)
    assert (await desk.stats()).purged == 12
    await desk.advance(100)
    assert await desk.bodies() == []
    await desk.send("after")
    assert await desk.bodies() == ["after"]


async def test_Q68_messages_sent_after_a_purge_are_all_there(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"old{n}" for n in range(10)))
    await desk.store.purge("q")
    new = [f"new{n}" for n in range(10)]
    await desk.send(*new)
    got: list[str] = []
    while bodies := await desk.bodies(3):
        got += bodies
    assert got == new


async def test_Q63_one_receive_hides_a_message_for_twelve_hours_at_most_extensions_included(desk: Desk) -> None:
    await desk.queue(visibility_timeout=40_000)
    await desk.send("a")
    delivery = await desk.one()
    (refused,) = await desk.settle(Extend(delivery.receipt, 43_201))
    assert isinstance(refused, Refused)
    assert "43200 s at most" in refused.reason
    await desk.advance(30_000)
    assert isinstance((await desk.settle(Extend(delivery.receipt, 13_201)))[0], Refused)
    assert await desk.settle(Extend(delivery.receipt, 13_200)) == [Settled()]
    await desk.advance(13_199)
    assert isinstance((await desk.settle(Extend(delivery.receipt, 10)))[0], Refused)
    assert await desk.counts() == (0, 0, 1)
    await desk.advance(1)
    assert (await desk.one()).attempt == 2, "counted from the new receive again"


async def test_Q50_a_receive_cannot_ask_for_more_than_twelve_hours(desk: Desk) -> None:
    await desk.queue()
    with pytest.raises(ConfigurationError, match="use 0 to 43200 s"):
        await desk.store.receive("q", Want(visibility_timeout=43_201))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
async def test_a_time_that_never_comes_is_refused_and_leaves_the_message_with_its_receiver(
    desk: Desk, seconds: float
) -> None:
    """A delay that is no number would stand before all others in the line of what comes due."""
    await desk.queue()
    await desk.send("a", "b")
    first, second = await desk.store.receive("q", Want(2))
    for settlement in (Defer(first.receipt, seconds), Extend(first.receipt, seconds)):
        (answer,) = await desk.settle(settlement)
        assert isinstance(answer, Refused)
    assert await desk.settle(Defer(second.receipt, 1.0)) == [Settled()]
    await desk.advance(1)
    assert [each.body for each in await desk.store.receive("q", Want(2))] == [b"b"]
    assert await desk.settle(Ack(first.receipt)) == [Settled()]


@pytest.mark.parametrize("want", [Want(0), Want(-1), Want(1, wait=float("nan"))])
async def test_Q46_a_receive_of_nothing_or_of_no_time_is_refused(desk: Desk, want: Want) -> None:
    await desk.queue()
    with pytest.raises(ConfigurationError, match="q: "):
        await desk.store.receive("q", want)
