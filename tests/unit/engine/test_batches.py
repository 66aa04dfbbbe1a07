"""Batches: when they are full enough, and who fails when one fails."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pipeflow import App, Batch, Context, Delivery, Handle, Message, Reject, Retry
from pipeflow.events import Buried, Released
from pipeflow.messages import Ack, Outgoing
from pipeflow.testing import Chaos, harness


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str = "ada"


def orders(*ids: int) -> list[Order]:
    return [Order(number) for number in ids]


def ids(batch: Batch[Order]) -> list[int]:
    return [message.body.id for message in batch]


async def test_a_batch_is_called_when_it_is_full_or_its_first_message_has_waited_long_enough_H12_H13() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=3, linger=5)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4))
        await h.settle()
        assert batches == [[1, 2, 3]]
        await h.advance(2)
        await bulk.send(Order(5))
        await h.advance(2)
        assert batches == [[1, 2, 3]]
        await h.advance(1)
        assert batches == [[1, 2, 3], [4, 5]]


async def test_without_linger_a_batch_is_what_one_receive_returned_H13() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=10)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3))
        await h.settle()
        assert batches == [[1, 2, 3]]


async def test_messages_named_by_fail_are_tried_again_alone_and_the_others_are_acknowledged_H25() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, max_receives=2)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=10, linger=1)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))
        for message in batch:
            if message.body.id % 2:
                batch.fail(message, "odd")
                batch.fail(message, "still odd")  # twice is once (H30)

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4))
        await h.advance(100)
        assert batches[0] == [1, 2, 3, 4]
        assert sorted(number for batch in batches[1:] for number in batch) == [1, 3]
        assert sorted(order.id for order in h.dead(bulk)) == [1, 3]
        failures = {event.failure.message for event in h.events if isinstance(event, Buried) and event.failure}
        assert failures == {"still odd"}


async def test_returning_without_naming_anybody_acknowledges_all_whatever_is_returned_H26_H28_H71() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)

    @bulk.batch_handler(size=10)
    async def load(batch: Batch[Order]) -> dict[str, list[str]]:
        return {"batchItemFailures": [message.id for message in batch]}

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2))
        await h.advance(1000)
        assert h.queued(bulk) == h.in_flight(bulk) == h.dead(bulk) == []


async def test_naming_a_message_of_another_batch_fails_the_whole_batch_H27() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, max_receives=1)
    strangers: list[Message[Order]] = []

    @bulk.batch_handler(size=2)
    async def load(batch: Batch[Order]) -> None:
        strangers.append(batch.messages[0])
        batch.fail(strangers[0])

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2))
        await h.settle()
        await bulk.send_many(orders(3))
        await h.settle()
        assert Order(3) in h.dead(bulk)


async def test_fail_may_say_how_with_an_exception() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    seen: list[tuple[int, int]] = []

    @bulk.batch_handler(size=2)
    async def load(batch: Batch[Order]) -> None:
        for message in batch:
            seen.append((message.body.id, message.attempt))
            if message.attempt == 1:
                batch.fail(message, Reject("no") if message.body.id == 1 else Retry(after=50))

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2))
        await h.settle()
        assert h.dead(bulk) == [Order(1)]
        await h.advance(49)
        assert seen == [(1, 1), (2, 1)]
        await h.advance(1)
        assert seen == [(1, 1), (2, 1), (2, 2)]


@pytest.mark.parametrize("fifo", [False, True])
async def test_a_batch_that_raises_is_split_until_the_culprits_fail_alone_H55(fifo: bool) -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, max_receives=1, fifo=fifo, content_dedup=fifo)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=8, linger=1, concurrency=1)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))
        if 3 in ids(batch):
            raise ValueError("three")

    async with harness(app) as h:
        await bulk.send_many(orders(*range(1, 8)), group=(lambda order: str(order.id)) if fifo else None)
        await h.advance(10)
        # The first half is the larger one, and runs first; splitting costs no attempt, so max_receives=1 suffices.
        assert batches == [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4], [1, 2], [3, 4], [3], [4], [5, 6, 7]]
        assert h.dead(bulk) == [Order(3)]
        assert h.queued(bulk) == h.in_flight(bulk) == []


async def test_a_later_half_never_runs_what_follows_a_failure_in_its_group_p11_H29() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, fifo=True, content_dedup=True)
    done: list[int] = []
    failed: list[int] = []

    @bulk.batch_handler(size=8, linger=1)
    async def load(batch: Batch[Order]) -> None:
        if 2 in ids(batch) and not failed:
            if len(batch) == 1:
                failed.append(2)
            raise ValueError("two, once")
        done.extend(ids(batch))

    async with harness(app) as h:
        sent = [Order(n, "ada" if n % 2 == 0 else "bob") for n in range(1, 9)]
        await bulk.send_many(sent, group=lambda order: order.customer)
        await h.advance(1)
        # Of ada's group nothing after 2 has run, in whichever half it was; bob's is done.
        assert done == [1, 3, 5, 7] or sorted(done) == [1, 3, 5, 7]
        released = [event for event in h.events if isinstance(event, Released)]
        assert sum(len(event.ids) for event in released) == 3
        await h.advance(600)
        assert [number for number in done if number % 2 == 0] == [2, 4, 6, 8]


async def test_named_failures_in_a_group_hold_back_its_later_messages_H29() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, fifo=True, content_dedup=True)
    seen: list[tuple[int, int]] = []

    @bulk.batch_handler(size=4, linger=1)
    async def load(batch: Batch[Order]) -> None:
        for message in batch:
            seen.append((message.body.id, message.attempt))
            if message.body.id == 2 and message.attempt == 1:
                batch.fail(message, "once")

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4), group="g")
        await h.advance(600)
        # 3 and 4 ran in the batch of 2, were released with it, and come again behind it, with their first attempt.
        assert seen == [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 1), (4, 1)]


async def test_retry_of_a_whole_batch_is_not_split() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=4, linger=1)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))
        if len(batches) == 1:
            raise Retry(after=60)

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3))
        await h.advance(1)
        assert batches == [[1, 2, 3]]
        await h.advance(61)
        assert batches == [[1, 2, 3], [1, 2, 3]]


async def test_what_a_batch_published_leaves_with_its_acknowledgement_and_once() -> None:
    app = App("shop")
    bulk, sums = app.queue("bulk", Order), app.topic("sums", int)

    @bulk.batch_handler(size=4, linger=1)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        ctx.publish(sums, sum(ids(batch)))
        if 4 in ids(batch) and len(batch) > 1:
            raise ValueError

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4))
        await h.advance(10)
        assert h.published(sums) == [3, 3, 4]  # [1, 2], then [3] and [4]


async def test_what_a_batch_published_is_not_lost_with_a_message_that_somebody_else_has() -> None:
    app = App("shop")
    bulk, receipts = app.queue("bulk", Order), app.topic("receipts", Order)

    @bulk.batch_handler()
    async def load(batch: Batch[Order], ctx: Context) -> None:
        for message in batch:
            ctx.publish(receipts, message.body)
        held = list(h.runtime.consumers[0].holding())
        await h.runtime.store.settle("bulk", [Ack(held[0].receipt)])  # as if a second worker had handled it

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3))
        await h.settle()
        assert h.published(receipts) == orders(1, 2, 3)
        assert h.queued(bulk) == h.in_flight(bulk) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fifo", [False, True])
async def test_under_misfortune_a_batch_loses_nothing_of_what_it_published(seed: int, fifo: bool) -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, fifo=fifo, content_dedup=fifo, max_receives=50)
    receipts = app.topic("receipts", Order)

    @app.middleware
    async def waiting(delivery: Delivery, call_next: Handle) -> object:
        await asyncio.sleep(0)
        return await call_next(delivery)

    @bulk.batch_handler(size=7, linger=0.3, concurrency=3)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        for message in batch:
            await asyncio.sleep(0)
            ctx.publish(receipts, message.body)

    async with harness(app, seed=seed, chaos=Chaos(crash=0.1, duplicate=0.1)) as h:
        await bulk.send_many(orders(*range(60)), group=(lambda order: str(order.id % 4)) if fifo else None)
        await h.advance(5000)
        assert {order.id for order in h.published(receipts)} == set(range(60))
        assert h.queued(bulk) == h.in_flight(bulk) == h.dead(bulk) == []


async def test_a_refused_emit_of_a_batch_fails_the_message_that_published_it_and_no_other() -> None:
    app = App("shop")
    bulk, small = app.queue("bulk", Order, max_receives=1), app.queue("small", Order, max_body=40)

    @bulk.batch_handler()
    async def load(batch: Batch[Order], ctx: Context) -> None:
        for message in batch:
            ctx.send(small, Order(message.body.id, "x" * 100 if message.body.id == 2 else ""))

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4))
        await h.settle()
        assert sorted(order.id for order in h.queued(small)) == [1, 3, 4]
        assert h.dead(bulk) == orders(2)
        assert h.in_flight(bulk) == []


async def test_a_body_that_does_not_decode_is_dead_and_the_others_of_its_batch_are_handled() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=3, linger=1)
    async def load(batch: Batch[Order]) -> None:
        batches.append(ids(batch))

    async with harness(app) as h:
        await bulk.send(Order(1))
        await h.runtime.send("bulk", [Outgoing(b"?")])
        await bulk.send(Order(2))
        await h.settle()
        assert batches == [[1, 2]]
        assert len([event for event in h.events if isinstance(event, Buried)]) == 1


async def test_a_batch_that_takes_too_long_is_split_like_one_that_raises_H31() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, max_receives=1)

    @bulk.batch_handler(size=2, timeout=10)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        if 1 in ids(batch):
            await ctx.sleep(100)

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2))
        await h.advance(20)
        assert h.dead(bulk) == [Order(1)]
        assert h.in_flight(bulk) == h.queued(bulk) == []


async def test_a_group_is_in_one_batch_at_a_time_p11() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order, fifo=True, content_dedup=True)
    running: list[int] = []
    seen: list[int] = []

    @bulk.batch_handler(size=2)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        assert running == []
        running.extend(ids(batch))
        await ctx.sleep(1)
        seen.extend(ids(batch))
        running.clear()

    async with harness(app) as h:
        await bulk.send_many(orders(1, 2, 3, 4, 5), group="g")
        await h.advance(10)
        assert seen == [1, 2, 3, 4, 5]
