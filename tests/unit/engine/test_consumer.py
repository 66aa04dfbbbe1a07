"""One queue's workers: what runs at a time, in which order, and what becomes of what was in hand."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from pipeflow import App, Batch, Context, Delivery, Handle, Message, Reject, Retry
from pipeflow.events import Buried, Handled, Lost, Refusal, Released, Retried
from pipeflow.messages import Extend, Outgoing, Release, Want
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str = "ada"


def orders(*ids: int) -> list[Order]:
    return [Order(number) for number in ids]


async def test_no_more_handlers_run_than_the_concurrency_allows_H20_H70() -> None:
    app = App("shop")
    work = app.queue("work", Order)
    running: list[int] = []
    most: list[int] = []

    @work.handler(concurrency=3)
    async def handle(order: Order, ctx: Context) -> None:
        running.append(order.id)
        most.append(len(running))
        await ctx.sleep(5)
        running.remove(order.id)

    async with harness(app) as h:
        await work.send_many(orders(*range(10)))
        await h.settle()
        assert len(h.in_flight(work)) == 3  # nothing is received that no slot is free for
        await h.advance(60)
        assert max(most) == 3
        assert len(most) == 10


@pytest.mark.parametrize("threads", [True, False])
async def test_the_default_is_ten_coroutines_or_four_threads(threads: bool) -> None:
    app = App("shop")
    work = app.queue("work", Order)
    go = threading.Event()
    gone = asyncio.Event()

    def sync(order: Order) -> None:
        go.wait()

    async def coroutine(order: Order) -> None:
        await gone.wait()

    if threads:
        work.handler(sync)
    else:
        work.handler(coroutine)
    async with harness(app) as h:
        await work.send_many(orders(*range(20)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(h.in_flight(work)) == (4 if threads else 10)
        go.set()
        gone.set()
        await h.settle()
        assert h.in_flight(work) == []


async def test_a_sync_handler_runs_in_a_thread_and_may_publish_from_there_H70() -> None:
    app = App("shop")
    work, copies = app.queue("work", Order), app.topic("copies", Order)
    names: list[str] = []

    @work.handler
    def handle(order: Order, ctx: Context) -> None:
        names.append(threading.current_thread().name)
        ctx.publish(copies, order)

    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
        assert names != [threading.main_thread().name]
        assert h.published(copies) == [Order(1)]


@pytest.mark.parametrize("batches", [False, True])
async def test_a_coroutine_that_nobody_awaits_is_a_failure_and_no_acknowledgement(batches: bool) -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=1)

    async def later() -> None:
        raise AssertionError("nobody awaits it")

    def single(order: Order) -> object:
        return later()

    def many(batch: Batch[Order]) -> object:
        return later()

    if batches:
        work.batch_handler(many)
    else:
        work.handler(single)
    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
        (dead,) = await work.peek(dead=True)
        assert "is no `async def` and returned a coroutine, of which nothing has run" in dead.failures[-1].message


@pytest.mark.parametrize("batches", [False, True])
async def test_a_handler_reads_the_priority_and_the_end_of_the_time_to_live(batches: bool) -> None:
    app = App("shop")
    work = app.queue("work", Order)
    seen: list[tuple[int, int, float | None]] = []

    def see(message: Message[Order]) -> None:
        seen.append((message.body.id, message.priority, message.expires_at))

    async def one(message: Message[Order]) -> None:
        see(message)

    async def many(batch: Batch[Order]) -> None:
        for message in batch:
            see(message)

    if batches:
        work.batch_handler(size=2)(many)
    else:
        work.handler(concurrency=1)(one)
    async with harness(app) as h:
        now = h.clock.now()
        await work.send(Order(1))
        await work.send(Order(2), priority=9, ttl=60)
        await h.settle()
        assert sorted(seen) == [(1, 0, None), (2, 9, now + 60)]


async def test_what_a_failing_handler_published_goes_nowhere() -> None:
    app = App("shop")
    work, copies = app.queue("work", Order), app.topic("copies", Order)

    @work.handler
    async def handle(message: Message[Order], ctx: Context) -> None:
        ctx.publish(copies, Order(message.attempt))
        if message.attempt == 1:
            raise Retry(after=1)

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(10)
        assert h.published(copies) == [Order(2)]


@pytest.mark.parametrize("options", [{"ttl": "5"}, {"delay": "5"}, {"group": 5}, {"priority": "9"}])
async def test_an_option_of_the_wrong_type_fails_its_message_only(options: dict[str, Any]) -> None:
    app = App("shop")
    work, copies = app.queue("work", Order, max_receives=1), app.queue("copies", Order)

    @work.handler
    async def handle(order: Order, ctx: Context) -> None:
        ctx.send(copies, order, **(options if order.id == 1 else {}))

    async with harness(app) as h:
        await work.send_many(orders(1, 2))
        await h.settle()
        assert h.dead(work) == [Order(1)]
        assert h.queued(copies) == [Order(2)]


@pytest.mark.parametrize("after", ["30", True, float("nan"), 1e12])
async def test_a_retry_after_no_time_waits_as_after_any_failure_and_says_so(
    after: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop")
    work = app.queue("work", Order)
    seen: list[int] = []

    @work.handler
    async def handle(message: Message[Order]) -> None:
        seen.append(message.attempt)
        if message.attempt == 1:
            raise Retry(after=after)

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(10)
        assert seen == [1, 2]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f" raised Retry(after={after!r}); use a number of seconds" in warning


async def test_middleware_that_swallows_an_error_swallows_what_was_published_too() -> None:
    app = App("shop")
    work, copies = app.queue("work", Order), app.topic("copies", Order)

    @work.handler
    async def handle(order: Order, ctx: Context) -> None:
        ctx.publish(copies, order)
        raise ValueError

    @app.middleware
    async def forgiving(delivery: Delivery, call_next: Handle) -> object:
        try:
            return await call_next(delivery)
        except ValueError:
            return None

    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
        assert h.published(copies) == h.queued(work) == h.in_flight(work) == []


async def test_a_failing_message_comes_back_and_ends_in_the_dead_letters() -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=3)
    attempts: list[int] = []

    @work.handler
    async def handle(message: Message[Order]) -> None:
        attempts.append(message.attempt)
        raise ValueError("no")

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(3600)
        assert attempts == [1, 2, 3]
        assert h.dead(work) == [Order(1)]
        assert [type(event) for event in h.events if isinstance(event, Retried | Buried)] == [Retried, Retried, Buried]


async def test_a_slot_is_free_while_its_failed_message_waits() -> None:
    app = App("shop")
    work = app.queue("work", Order)
    seen: list[int] = []

    @work.handler(concurrency=1)
    async def handle(message: Message[Order]) -> None:
        seen.append(message.body.id)
        if message.attempt == 1 and message.body.id == 1:
            raise Retry(after=100)

    async with harness(app) as h:
        await work.send_many(orders(1, 2, 3))
        await h.settle()
        assert seen == [1, 2, 3]
        await h.advance(100)
        assert seen == [1, 2, 3, 1]


async def test_a_body_that_does_not_decode_is_dead_at_once() -> None:
    app = App("shop")
    work = app.queue("work", Order)

    @work.handler
    async def handle(order: Order) -> None: ...

    async with harness(app) as h:
        await h.runtime.send("work", [Outgoing(b"not json")])
        await h.settle()
        (buried,) = [event for event in h.events if isinstance(event, Buried)]
        assert buried.attempt == 1
        assert buried.failure is not None
        assert buried.failure.type == "CodecError"


async def test_a_timeout_is_a_failure_and_its_slot_goes_on_H31() -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=1)
    done: list[int] = []

    @work.handler(timeout=10, concurrency=1)
    async def handle(order: Order, ctx: Context) -> None:
        if order.id == 1:
            await ctx.sleep(100)
        done.append(order.id)

    async with harness(app) as h:
        await work.send_many(orders(1, 2))
        await h.advance(9)
        assert h.dead(work) == []
        await h.advance(1)
        assert h.dead(work) == [Order(1)]
        assert done == [2]
        (buried,) = [event for event in h.events if isinstance(event, Buried)]
        assert buried.failure is not None
        assert buried.failure.type == "TimeoutError"


async def test_a_handler_that_shrugs_its_timeout_off_has_failed_all_the_same_H31() -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=1)

    @work.handler(timeout=10)
    async def handle(order: Order, ctx: Context) -> None:
        try:
            await ctx.sleep(100)
        except asyncio.CancelledError:
            pass

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(10)
        assert h.dead(work) == [Order(1)]


async def test_something_cancelled_inside_a_handler_is_its_failure_and_not_the_end_of_the_worker() -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=1)

    @work.handler(concurrency=1)
    async def handle(order: Order) -> None:
        if order.id == 1:
            raise asyncio.CancelledError

    async with harness(app) as h:
        await work.send_many(orders(1, 2))
        await h.settle()
        assert h.dead(work) == [Order(1)]
        assert h.queued(work) == h.in_flight(work) == []


@pytest.mark.parametrize(
    "error",
    [SystemExit(2), RecursionError("deep"), ExceptionGroup("all", [ValueError()]), type("Odd", (BaseException,), {})()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["coroutine", "thread", "batch"])
async def test_whatever_a_handler_raises_is_its_messages_failure_and_not_the_end_of_the_program(
    kind: str, error: BaseException
) -> None:
    app = App("shop")
    work = app.queue("work", Order, max_receives=2)
    if kind == "coroutine":

        @work.handler
        async def handle(order: Order) -> None:
            raise error
    elif kind == "thread":

        @work.handler
        def handle_in_thread(order: Order) -> None:
            raise error
    else:

        @work.batch_handler()
        async def handle_batch(batch: Batch[Order]) -> None:
            raise error

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(100)
        assert h.dead(work) == [Order(1)]
        (dead,) = await h.runtime.store.peek("work", 1, True)
        assert [failure.type for failure in dead.failures] == [type(error).__name__] * 2


async def test_a_long_handler_keeps_its_message_by_heartbeats() -> None:
    app = App("shop")
    work = app.queue("work", Order, visibility_timeout=30)
    attempts: list[int] = []

    @work.handler
    async def handle(message: Message[Order], ctx: Context) -> None:
        attempts.append(message.attempt)
        await ctx.sleep(1000)

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(999)
        assert h.in_flight(work) == [Order(1)]
        await h.advance(2)
        assert attempts == [1]
        assert h.in_flight(work) == h.queued(work) == []


async def test_a_lost_message_cancels_its_handler_and_its_fate_is_not_decided_here() -> None:
    app = App("shop")
    work = app.queue("work", Order, visibility_timeout=30)
    ends: list[str] = []

    @work.handler(concurrency=1)
    async def handle(message: Message[Order], ctx: Context) -> None:
        try:
            await ctx.sleep(100 if message.attempt == 1 else 0)
            ends.append("returned")
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
        (held,) = h.runtime.consumers[0].holding()
        await h.runtime.store.settle("work", [Extend(held.receipt, 0)])  # somebody takes it away
        thief = await h.runtime.store.receive("work", Want(limit=1))
        await h.advance(15)
        assert ends == ["cancelled"]
        assert any(isinstance(event, Lost) for event in h.events)
        await h.runtime.store.settle("work", [Release(each.receipt) for each in thief])
        await h.settle()
        assert ends == ["cancelled", "returned"]


async def test_an_idle_queue_arms_no_timer() -> None:
    app = App("shop")
    work = app.queue("work", Order)

    @work.handler
    async def handle(order: Order) -> None: ...

    async with harness(app) as h:
        await work.send(Order(1))
        await h.advance(3600)
        armed = [consumer.heartbeat._armed for consumer in h.runtime.consumers]
        assert armed == [float("inf")]


async def test_messages_of_a_group_run_one_after_the_other_and_groups_beside_each_other_H22_p11() -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True)
    running: set[str] = set()
    seen: dict[str, list[int]] = {}
    together: list[int] = []

    @ledger.handler
    async def book(order: Order, ctx: Context) -> None:
        assert order.customer not in running
        running.add(order.customer)
        together.append(len(running))
        await ctx.sleep(1)
        seen.setdefault(order.customer, []).append(order.id)
        running.remove(order.customer)

    async with harness(app) as h:
        await ledger.send_many([Order(n, f"c{n % 3}") for n in range(12)], group=lambda order: order.customer)
        await h.advance(60)
    assert seen == {"c0": [0, 3, 6, 9], "c1": [1, 4, 7, 10], "c2": [2, 5, 8, 11]}
    assert max(together) == 3


@pytest.mark.parametrize("error", [Retry(after=5), ValueError("no"), TimeoutError()])
async def test_a_failure_releases_every_later_message_of_its_group_in_hand_p11_H22(error: Exception) -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True)
    seen: list[tuple[int, int]] = []

    @ledger.handler
    async def book(message: Message[Order]) -> None:
        seen.append((message.body.id, message.attempt))
        if message.body.id == 2 and message.attempt == 1:
            raise error

    async with harness(app) as h:
        await ledger.send_many(orders(1, 2, 3, 4), group="g")
        await h.settle()
        assert seen == [(1, 1), (2, 1)]
        assert [event for event in h.events if isinstance(event, Released)]
        await h.advance(600)
        # Released is not an attempt: the later ones come with their first.
        assert seen == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]


async def test_a_dead_head_lets_its_group_go_on_in_order_p11() -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True)
    seen: list[int] = []

    @ledger.handler
    async def book(order: Order) -> None:
        seen.append(order.id)
        if order.id == 1:
            raise Reject("never")

    async with harness(app) as h:
        await ledger.send_many(orders(1, 2, 3), group="g")
        await h.settle()
        assert seen == [1, 2, 3]
        assert h.dead(ledger) == [Order(1)]


async def test_a_refused_emit_is_a_failure_of_its_message() -> None:
    app = App("shop")
    small = app.queue("small", bytes, max_body=10)
    work = app.queue("work", Order, max_receives=1)

    @work.handler
    async def handle(order: Order, ctx: Context) -> None:
        ctx.send(small, b"x" * (100 if order.id == 1 else 1))

    async with harness(app) as h:
        await work.send_many(orders(1, 2))
        await h.settle()
        assert h.dead(work) == [Order(1)]
        assert h.queued(small) == [b"x"]
        assert any(isinstance(event, Refusal) for event in h.events)
        assert h.runtime.consumers[0].in_hand == 0


async def test_a_refused_emit_in_a_group_stops_the_later_messages_p11() -> None:
    app = App("shop")
    small = app.queue("small", bytes, max_body=10)
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True)
    seen: list[int] = []

    @ledger.handler
    async def book(message: Message[Order], ctx: Context) -> None:
        seen.append(message.body.id)
        ctx.send(small, b"x" * (100 if message.body.id == 1 and message.attempt == 1 else 1))

    async with harness(app) as h:
        await ledger.send_many(orders(1, 2), group="g")
        await h.settle()
        assert seen == [1]
        await h.advance(600)
        assert seen == [1, 1, 2]


async def test_handled_is_told_after_the_settlement_and_once_a_batch() -> None:
    app = App("shop")
    work = app.queue("work", Order)

    @work.handler
    async def handle(order: Order) -> None: ...

    async with harness(app) as h:
        await work.send_many(orders(*range(10)))
        await h.settle()
        handled = [event for event in h.events if isinstance(event, Handled)]
        assert sum(len(event.ids) for event in handled) == 10
        assert len(handled) < 10


async def test_others_run_between_handlers_that_never_wait() -> None:
    app = App("shop")
    work = app.queue("work", Order)
    seen: list[int] = []

    @work.handler(concurrency=200)
    async def handle(order: Order) -> None:
        seen.append(order.id)

    async with harness(app) as h:
        await work.send_many(orders(*range(200)))
        between: set[int] = set()
        while len(seen) < 200:
            await asyncio.sleep(0)
            between.add(len(seen))
        assert between - {0, 200}, "200 handlers ran without anybody else getting the loop"
        await h.settle()


async def test_a_message_that_was_in_flight_at_two_crashes_runs_with_nothing_beside_it() -> None:
    app = App("shop")
    work = app.queue("work", Order)
    running: set[int] = set()
    beside: dict[int, set[int]] = {}

    @work.handler
    async def handle(order: Order, ctx: Context) -> None:
        running.add(order.id)
        await ctx.sleep(1)
        for each in running:
            beside.setdefault(each, set()).update(running - {each})
        running.remove(order.id)

    async with harness(app) as h:
        consumer = h.runtime.consumers[0]
        put = consumer.work.put
        consumer.work.put = lambda arrived: put(  # type: ignore[method-assign,assignment]  # as recovery marks them
            [msgspec.structs.replace(each, alone=b'"id":2' in each.body) for each in arrived]
        )
        await work.send_many(orders(*range(5)))
        await h.advance(10)
        assert beside[2] == set()
        assert beside[4] != set()
        assert len(beside) == 5
        assert h.in_flight(work) == []
