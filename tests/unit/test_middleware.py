"""Middleware around batch handlers: it surrounds every message, and a guard guards batches too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio
import msgspec
import pytest

from pipeflow import App, Batch, Context, Delivery, Handle, Queue, Reject
from pipeflow.events import Released
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int


def shop(
    *, size: int = 10, fifo: bool = False, fails: Callable[[Batch[Order]], None] = lambda batch: None
) -> tuple[App, Queue[Order], list[list[int]]]:
    app = App("shop")
    bulk = app.queue("bulk", Order, fifo=fifo, max_receives=2)
    batches: list[list[int]] = []

    @bulk.batch_handler(size=size, linger=1, concurrency=1)
    async def load(batch: Batch[Order]) -> None:
        batches.append([message.body.id for message in batch])
        fails(batch)

    return app, bulk, batches


def number(delivery: Delivery) -> int:
    return msgspec.json.decode(delivery.body, type=Order).id


async def test_a_guard_holds_for_batches_and_what_it_keeps_back_is_acknowledged() -> None:
    app, bulk, batches = shop()

    @app.middleware
    async def tenant(delivery: Delivery, call_next: Handle) -> object:
        if delivery.attributes.get("tenant") == "blocked":
            return None
        return await call_next(delivery)

    async with harness(app) as h:
        await bulk.send(Order(1))
        await bulk.send(Order(2), tenant="blocked")
        await bulk.send(Order(3))
        await h.advance(10)
        assert batches == [[1, 3]]
        assert h.queued(bulk) == h.in_flight(bulk) == h.dead(bulk) == []


async def test_a_batch_of_which_nothing_gets_through_is_not_handled() -> None:
    app, bulk, batches = shop()

    @app.middleware
    async def closed(delivery: Delivery, call_next: Handle) -> object:
        return None

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2)])
        await h.advance(10)
        assert batches == []
        assert h.queued(bulk) == h.in_flight(bulk) == []


async def test_a_message_whose_middleware_raises_fails_alone() -> None:
    app, bulk, batches = shop()

    @app.middleware
    async def guard(delivery: Delivery, call_next: Handle) -> object:
        if number(delivery) == 2:
            raise Reject("not this one")
        return await call_next(delivery)

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2), Order(3)])
        await h.advance(10)
        assert batches == [[1, 3]]
        assert h.dead(bulk) == [Order(2)]


async def test_middleware_surrounds_each_message_and_hears_what_became_of_it() -> None:
    def fails(batch: Batch[Order]) -> None:
        trail.append("handled")
        batch.fail(batch.messages[1], Reject("odd"))

    app, bulk, _ = shop(fails=fails)
    trail: list[str] = []

    @app.middleware
    async def outer(delivery: Delivery, call_next: Handle) -> object:
        trail.append(f"begin {number(delivery)}")
        try:
            assert await call_next(delivery) is None
        except Reject as error:
            trail.append(f"{error} {number(delivery)}")
            raise
        finally:
            trail.append(f"end {number(delivery)}")
        return None

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2), Order(3)])
        await h.advance(10)
        assert h.dead(bulk) == [Order(2)]
    # Nested as calls are: the first in is the last out.
    assert trail == ["begin 1", "begin 2", "begin 3", "handled", "end 3", "odd 2", "end 2", "end 1"]


async def test_middleware_may_wait_on_both_sides_and_keep_what_nests() -> None:
    app, bulk, batches = shop()
    current: ContextVar[int] = ContextVar("current", default=0)
    seen: list[tuple[int, int]] = []

    @app.middleware
    async def scoped(delivery: Delivery, call_next: Handle) -> object:
        token = current.set(number(delivery))
        with anyio.fail_after(5):
            await asyncio.sleep(0)
            result = await call_next(delivery)
            await asyncio.sleep(0)
        seen.append((number(delivery), current.get()))
        current.reset(token)
        return result

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2), Order(3)])
        await h.advance(10)
        assert batches == [[1, 2, 3]]
        assert seen == [(3, 3), (2, 2), (1, 1)]
        assert h.in_flight(bulk) == []


async def test_a_batch_that_raises_is_split_and_middleware_answers_for_the_message_that_is_alone() -> None:
    def fails(batch: Batch[Order]) -> None:
        if any(message.body.id == 3 for message in batch):
            raise ValueError("three")

    app, bulk, batches = shop(fails=fails)
    heard: list[int] = []

    @app.middleware
    async def forgiving(delivery: Delivery, call_next: Handle) -> object:
        try:
            return await call_next(delivery)
        except ValueError:
            heard.append(number(delivery))
            return None

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2), Order(3), Order(4)])
        await h.advance(10)
        assert batches == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]
        assert heard == [4, 3, 2, 1, 4, 3, 3]
        assert h.dead(bulk) == h.queued(bulk) == h.in_flight(bulk) == []


async def test_what_a_forgiven_batch_published_goes_nowhere() -> None:
    app = App("shop")
    bulk, receipts = app.queue("bulk", Order), app.topic("receipts", Order)

    @bulk.batch_handler()
    async def load(batch: Batch[Order], ctx: Context) -> None:
        ctx.publish(receipts, Order(9))
        raise ValueError

    @app.middleware
    async def forgiving(delivery: Delivery, call_next: Handle) -> object:
        try:
            return await call_next(delivery)
        except ValueError:
            return None

    async with harness(app) as h:
        await bulk.send(Order(1))
        await h.settle()
        assert h.queued(bulk) == h.published(receipts) == []


async def test_middleware_may_change_what_the_batch_sees() -> None:
    app, bulk, batches = shop()

    @app.middleware
    async def tenfold(delivery: Delivery, call_next: Handle) -> object:
        body = msgspec.json.encode(Order(10 * number(delivery)))
        return await call_next(msgspec.structs.replace(delivery, body=body))

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2)])
        await h.advance(10)
        assert batches == [[10, 20]]


async def test_nothing_of_a_group_runs_before_the_message_its_middleware_failed_p11() -> None:
    app, bulk, batches = shop(fifo=True)
    tried: list[int] = []

    @app.middleware
    async def shaky(delivery: Delivery, call_next: Handle) -> object:
        tried.append(number(delivery))
        if tried == [1]:
            raise ConnectionError("not yet")
        return await call_next(delivery)

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2)], group="a")
        await bulk.send(Order(3), group="b")
        await h.advance(10)
        assert batches == [[3], [1, 2]]


async def test_cancelling_the_batch_ends_all_of_its_middleware() -> None:
    app = App("shop")
    bulk = app.queue("bulk", Order)
    ended: list[int] = []

    @bulk.batch_handler(size=2)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        await ctx.sleep(1000)

    @app.middleware
    async def watching(delivery: Delivery, call_next: Handle) -> object:
        try:
            return await call_next(delivery)
        finally:
            ended.append(number(delivery))

    async with harness(app) as h:
        await bulk.send_many([Order(1), Order(2)])
        await h.settle()
    assert ended == [2, 1]
    (released,) = [event for event in h.events if isinstance(event, Released)]
    assert len(released.ids) == 2  # given back, which is no attempt


async def in_a_task_of_its_own(delivery: Delivery, call_next: Handle) -> object:
    async def go_on() -> object:
        return await call_next(delivery)

    return await asyncio.create_task(go_on())


async def twice(delivery: Delivery, call_next: Handle) -> object:
    await call_next(delivery)
    return await call_next(delivery)


@pytest.mark.parametrize(("layer", "text"), [(in_a_task_of_its_own, "asyncio.timeout"), (twice, "call it once")])
async def test_what_cannot_be_around_a_batch_fails_with_the_remedy(
    layer: Callable[[Delivery, Handle], Awaitable[object]], text: str
) -> None:
    app, bulk, _ = shop()
    app.middleware(layer)
    async with harness(app) as h:
        await bulk.send(Order(1))
        await h.advance(1000)
        (dead,) = await h.runtime.store.peek("bulk", 10, True)
        assert text in dead.failures[-1].message


async def test_a_batch_of_thousands_goes_through_middleware() -> None:
    app, bulk, batches = shop(size=3000)

    @app.middleware
    async def passing(delivery: Delivery, call_next: Handle) -> object:
        return await call_next(delivery)

    async with harness(app) as h:
        await bulk.send_many([Order(n) for n in range(3000)])
        await h.advance(10)
        assert batches == [list(range(3000))]
        assert h.in_flight(bulk) == []
