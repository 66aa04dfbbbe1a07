"""Bodies above the inline limit are kept aside and are delivered like any other, on every broker."""

from __future__ import annotations

import pytest

from pipeflow.messages import Ack, Bury, Delivery, Emit, Outgoing, Refused, Sent, Want
from pipeflow.protocols import Redrive
from pipeflow.specs import ClaimSpec, FilterPolicy, QueueSpec, Topology
from tests.conformance.conftest import Desk

LARGE = "x" * 5_000
SMALL = "y" * 10


@pytest.fixture(autouse=True)
async def inline(desk: Desk) -> None:
    """Bodies above 1,000 bytes are large."""
    await desk.store.declare(Topology(claims=ClaimSpec(inline_bytes=1_000)))


async def test_a_large_body_is_delivered_like_a_small_one(desk: Desk) -> None:
    await desk.queue()
    await desk.send(LARGE, SMALL, LARGE + "2", attributes={"kind": "big"})
    taken = await desk.take()
    assert [delivery.body.decode() for delivery in taken] == [LARGE, SMALL, LARGE + "2"]
    assert taken[0].attributes == {"kind": "big"}
    await desk.ack(*taken)
    assert await desk.counts() == (0, 0, 0)


async def test_a_large_body_is_the_same_at_every_receive(desk: Desk) -> None:
    await desk.queue(visibility_timeout=10)
    await desk.send(LARGE)
    for _ in range(3):
        assert (await desk.one()).body.decode() == LARGE
        await desk.advance(10)


async def test_a_large_body_that_is_delayed_comes_when_it_is_due(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*[f"{n}{LARGE}" for n in range(8)], delay=60)
    assert await desk.bodies() == []
    await desk.advance(60)
    assert sorted(body[0] for body in await desk.bodies()) == list("01234567")


async def test_large_bodies_keep_the_order_of_their_group(desk: Desk) -> None:
    await desk.queue(fifo=True)
    for n in range(8):
        await desk.send(f"{n}{LARGE if n % 2 else ''}", group="g")
    seen = []
    while taken := await desk.take(1):
        seen.append(taken[0].body.decode()[0])
        await desk.ack(*taken)
    assert seen == list("01234567")


async def test_equal_large_bodies_are_one_where_content_is_what_counts(desk: Desk) -> None:
    await desk.queue(fifo=True, content_dedup=True)
    (first,) = await desk.send(LARGE, group="g")
    (second,) = await desk.send(LARGE, group="g")
    (third,) = await desk.send(LARGE + "!", group="g")
    assert (second.id, second.duplicate, third.duplicate) == (first.id, True, False)
    assert len(await desk.take()) == 2


async def test_a_large_body_is_published_to_all_that_match(desk: Desk) -> None:
    document = f'{{"kind": "big", "text": "{LARGE}"}}'
    await desk.fan_out(
        QueueSpec("a"),
        QueueSpec("b"),
        QueueSpec("c"),
        b=FilterPolicy('{"kind": ["big"]}', scope="body"),
        c=FilterPolicy('{"kind": ["small"]}', scope="body"),
    )
    assert isinstance(await desk.publish(document), Sent)
    assert [len(await desk.bodies(queue=name)) for name in "abc"] == [1, 1, 0]


async def test_a_large_body_lies_in_the_envelope_of_its_topic(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"), raw=False)
    await desk.publish(LARGE)
    assert LARGE in (await desk.one()).body.decode()


async def test_what_a_handler_emits_may_be_large(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a"), QueueSpec("b"))
    await desk.queue("q")
    await desk.send("go")
    delivery = await desk.one()
    emits = [Emit("topic", "t", Outgoing(LARGE.encode())), Emit("queue", "q", Outgoing(LARGE.encode()))]
    await desk.settle(Ack(delivery.receipt, emits))
    for name in ("a", "b", "q"):
        assert await desk.bodies(queue=name) == [LARGE]


async def test_large_dead_letters_come_back(desk: Desk) -> None:
    await desk.queue("dead", max_receives=None)
    await desk.queue(dead_letters="dead")
    await desk.send(LARGE)
    await desk.settle(Bury((await desk.one()).receipt))
    (seen,) = await desk.store.peek("q", dead=True)
    assert (seen.size, seen.body[:5], seen.dead_letter_source) == (5_000, b"xxxxx", "q")
    assert (await desk.store.redrive(Redrive("q"))).moved == 1
    again = await desk.one()
    assert again.body.decode() == LARGE
    await desk.ack(again)


async def test_dead_letters_are_chosen_by_what_is_far_inside_a_large_body(desk: Desk) -> None:
    await desk.queue("dead", max_receives=None)
    await desk.queue(dead_letters="dead")
    for kind in ("a", "b", "a"):
        await desk.send(f'{{"text": "{LARGE}", "kind": "{kind}"}}')
    for delivery in await desk.take():
        await desk.settle(Bury(delivery.receipt))
    where = FilterPolicy('{"body": {"kind": ["a"]}}', scope="body")
    assert [len(seen.body) <= 5_100 for seen in await desk.store.peek("q", dead=True, where=where)] == [True, True]
    assert (await desk.store.redrive(Redrive("q", where=where))).moved == 2


async def test_a_receive_hands_out_no_more_bytes_than_it_wants_and_at_least_one_message(desk: Desk) -> None:
    await desk.queue()
    await desk.send(LARGE, LARGE, LARGE)
    taken = await desk.store.receive("q", Want(limit=10, max_bytes=11_000))
    assert len(taken) == 2
    assert len(await desk.store.receive("q", Want(limit=10, max_bytes=1))) == 1


async def test_what_is_above_the_limit_of_its_queue_is_refused_and_the_rest_of_the_batch_is_not(desk: Desk) -> None:
    await desk.queue(max_body=4_000)
    refused, sent = await desk.store.send("q", [Outgoing(LARGE.encode()), Outgoing(b"z" * 3_000)])
    assert isinstance(refused, Refused)
    assert "the limit is 4000" in refused.reason
    assert isinstance(sent, Sent)
    assert await desk.bodies() == ["z" * 3_000]


async def test_purge_and_deletion_take_large_bodies_too(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*[f"{n}{LARGE}" for n in range(8)])
    assert await desk.store.purge("q") == 8
    await desk.send(LARGE)
    assert await desk.bodies() == [LARGE]
    assert await desk.store.delete_queue("q") == 1


async def test_the_bound_of_memory_holds_for_what_waits(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*[f"{n}{LARGE}" for n in range(30)])
    seen: list[Delivery] = []
    while taken := await desk.take(3):
        seen += taken
        await desk.ack(*taken)
    assert [delivery.body.decode() for delivery in seen] == [f"{n}{LARGE}" for n in range(30)]
