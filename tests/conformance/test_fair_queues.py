"""What every broker does with tenants on a standard queue (SQS: Q54, Q81-Q85)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.messages import Delivery, Outgoing, Want
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk

MANY = 30
"""What a tenant may have before it can be noisy (SQS: Q82)."""


async def next_one(desk: Desk) -> Delivery:
    """Receive one message, waiting for it where the store has to read first."""
    (delivery,) = await desk.store.receive("q", Want(limit=1, wait=5.0))
    return delivery


async def handle(desk: Desk, count: int) -> list[str]:
    """Receive and acknowledge one message after the other; whose they were."""
    tenants: list[str] = []
    for _ in range(count):
        delivery = await next_one(desk)
        await desk.ack(delivery)
        tenants.append(delivery.group or "")
    return tenants


async def test_Q54_Q81_a_group_on_a_standard_queue_is_seen_and_neither_orders_nor_locks(desk: Desk) -> None:
    await desk.queue()
    await desk.send("a", "b", group="g")
    first, second = await desk.take()
    assert (first.group, second.group) == ("g", "g")
    await desk.ack(second)
    await desk.ack(first)


async def test_Q81_quiet_tenants_are_served_as_any_standard_queue_serves(desk: Desk) -> None:
    await desk.queue()
    for n in range(20):
        await desk.send(str(n), group=f"t{n % 3}" if n % 4 else None)
    assert await desk.bodies(20) == [str(n) for n in range(20)]


async def test_Q82_Q83_a_flood_holds_another_tenant_up_for_thirty_messages_at_most(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"a{n}" for n in range(300)), group="A")
    await desk.send("b", group="B")
    await desk.send("plain")
    tenants = await handle(desk, MANY + 2)
    assert (tenants[:MANY], sorted(tenants[MANY:])) == (["A"] * MANY, ["", "B"])
    assert sorted(await handle(desk, 270)) == ["A"] * 270


@pytest.mark.parametrize("floods", [2, 5])
async def test_Q82_Q83_where_several_flood_another_tenant_waits_for_thirty_of_each_at_most(
    desk: Desk, floods: int
) -> None:
    await desk.queue()
    for n in range(MANY + 10):
        for flood in range(floods):
            await desk.send(f"{n}", group=f"A{flood}")
    await desk.send("b", group="B")
    assert (await handle(desk, MANY * floods + 1))[-1] == "B"


async def test_Q82_of_ten_tenants_that_flood_alike_none_has_more_than_a_tenth_and_none_is_noisy(desk: Desk) -> None:
    await desk.queue()
    for n in range(MANY + 10):
        for flood in range(10):
            await desk.send(f"{n}", group=f"A{flood}")
    await desk.send("b", group="B")
    assert "B" not in await handle(desk, 10 * MANY + 1)


async def test_Q82_a_tenant_whose_messages_are_in_flight_is_noisy_from_thirty_on_and_a_tenth(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"a{n}" for n in range(200)), group="A")
    await desk.send(*(f"b{n}" for n in range(5)), group="B")
    taken = await desk.take(MANY + 10)
    assert [delivery.group for delivery in taken] == ["A"] * MANY + ["B"] * 5 + ["A"] * 5


async def test_Q84_a_noisy_tenant_is_quiet_again_when_it_has_sent_nothing_for_five_minutes(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10_000)
    await desk.send(*(f"a{n}" for n in range(100)), group="A")
    assert await handle(desk, MANY) == ["A"] * MANY
    await desk.send("b", group="B")
    assert await handle(desk, 2) == ["B", "A"]
    await desk.send("b", group="B")
    await desk.advance(299)
    assert await handle(desk, 2) == ["B", "A"]
    await desk.send("b", group="B")
    await desk.advance(1)
    assert await handle(desk, 1) == ["A"], "quiet: its message is the older one, so it comes first"


async def test_Q84_a_noisy_tenant_is_quiet_again_when_its_backlog_is_empty(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(f"a{n}" for n in range(MANY + 5)), group="A")
    assert await handle(desk, MANY + 5) == ["A"] * (MANY + 5)
    assert await desk.bodies() == []
    await desk.send("a", group="A")
    await desk.send("b", group="B")
    assert await handle(desk, 2) == ["A", "B"]


async def test_Q83_nothing_of_a_noisy_tenant_is_lost_or_doubled(desk: Desk) -> None:
    await desk.queue()
    for n in range(120):
        await desk.send(f"a{n}", group="A")
        if n % 10 == 0:
            await desk.send(f"b{n}", group="B")
        if n % 15 == 0:
            await desk.send(f"p{n}")
    bodies: list[str] = []
    while taken := await desk.take(7):
        bodies += [delivery.body.decode() for delivery in taken]
        await desk.ack(*taken)
    expected = (
        [f"a{n}" for n in range(120)] + [f"b{n}" for n in range(0, 120, 10)] + [f"p{n}" for n in range(0, 120, 15)]
    )
    assert sorted(bodies) == sorted(expected)
    assert await desk.counts() == (0, 0, 0)


async def test_Q85_a_standard_topic_hands_the_group_on_to_its_queues(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"))
    await desk.store.publish("t", [Outgoing(b"x", group="tenant")])
    assert (await desk.one()).group == "tenant"
