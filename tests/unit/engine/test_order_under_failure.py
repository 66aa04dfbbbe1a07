"""Whatever fails whenever: a group is handled in the order of its sending, all of it in the end (P11)."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import msgspec
import pytest

from pipeflow import App, Batch, Context, Message, Retry
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str


def sent() -> list[Order]:
    return [Order(number, f"c{number % 5}") for number in range(60)]


def expected() -> dict[str, list[int]]:
    return {f"c{group}": list(range(group, 60, 5)) for group in range(5)}


async def misfortune(rolls: Random, ctx: Context) -> None:
    """Take some time, or none, and fail now and then in one way or another."""
    if rolls.random() < 0.5:
        await ctx.sleep(rolls.random() * 20)
    match rolls.randrange(8):
        case 0:
            raise ValueError("no")
        case 1:
            raise Retry(after=rolls.random() * 30)
        case 2:
            await ctx.sleep(1000)  # until the timeout


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("concurrency", [1, 3, 10])
async def test_single_messages_of_a_group_succeed_in_order_p11_H22(seed: int, concurrency: int) -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True, max_receives=None)
    rolls = Random(seed)
    seen: dict[str, list[int]] = defaultdict(list)

    @ledger.handler(timeout=60, concurrency=concurrency)
    async def book(message: Message[Order], ctx: Context) -> None:
        await misfortune(rolls, ctx)
        seen[message.body.customer].append(message.body.id)

    async with harness(app, seed=seed) as h:
        await ledger.send_many(sent(), group=lambda order: order.customer)
        await h.advance(100_000)
        assert seen == expected()
        assert h.queued(ledger) == h.in_flight(ledger) == []
        assert h.runtime.consumers[0].in_hand == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("size", "linger"), [(1, 0.0), (4, 0.0), (7, 5.0), (100, 1.0)])
async def test_batches_acknowledge_the_messages_of_a_group_in_order_p11_H29(
    seed: int, size: int, linger: float
) -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, content_dedup=True, max_receives=None)
    done = app.topic("done", Order)
    rolls = Random(seed)

    @ledger.batch_handler(size=size, linger=linger, timeout=60, concurrency=3)
    async def book(batch: Batch[Order], ctx: Context) -> None:
        await misfortune(rolls, ctx)
        failed: set[str | None] = set()
        for message in batch:
            if rolls.random() < 0.1:
                batch.fail(message, "by chance")
                failed.add(message.group)
            if message.group not in failed:  # what follows a failure in its group is released with it
                ctx.publish(done, message.body)

    async with harness(app, seed=seed) as h:
        await ledger.send_many(sent(), group=lambda order: order.customer)
        await h.advance(100_000)
        seen: dict[str, list[int]] = defaultdict(list)
        for order in h.published(done):
            seen[order.customer].append(order.id)
        assert seen == expected()
        assert h.queued(ledger) == h.in_flight(ledger) == []
        assert h.runtime.consumers[0].in_hand == 0
