"""Seeded misfortune in the real engine: workers die, messages come twice, and what was promised still holds."""

import asyncio

import msgspec

from pipeflow import App, Batch, Message
from pipeflow.testing import Chaos, harness


class Order(msgspec.Struct, frozen=True):
    id: str
    customer: str = "ada"


class Receipt(msgspec.Struct, frozen=True):
    order: str


class Shop:
    """A small app with two topics, ready for a test to hang a queue on."""

    def __init__(self) -> None:
        self.app = App("shop", broker="sqlite:///never-opened.db")
        self.orders = self.app.topic("orders", Order)
        self.receipts = self.app.topic("receipts", Receipt)


def orders(count: int) -> list[Order]:
    return [Order(str(number)) for number in range(count)]


async def misfortune(seed: int | None, chaos: Chaos) -> tuple[list[Receipt], list[str], int]:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, max_receives=None)
    calls: list[str] = []

    @billing.handler(emit=shop.receipts, concurrency=3)
    async def charge(order: Order) -> Receipt:
        calls.append(order.id)
        await asyncio.sleep(0)
        return Receipt(order.id)

    async with harness(shop.app, seed=seed, chaos=chaos) as h:
        await shop.orders.publish_many(orders(100))
        await h.advance(3600)
        assert h.queued(billing) == h.in_flight(billing) == h.dead(billing) == []
        return h.published(shop.receipts), calls, h.seed


async def test_chaos_repeats_calls_and_still_every_order_has_exactly_one_receipt() -> None:
    receipts, calls, _ = await misfortune(7, Chaos(crash=0.2, duplicate=0.2))
    assert sorted(int(receipt.order) for receipt in receipts) == list(range(100))
    assert len(calls) > 100


async def test_duplicates_call_twice_and_cost_no_attempt() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, max_receives=1)
    attempts: list[int] = []

    @billing.handler
    async def charge(message: Message[Order]) -> None:
        attempts.append(message.attempt)
        await asyncio.sleep(0)

    async with harness(shop.app, seed=3, chaos=Chaos(duplicate=0.5)) as h:
        await shop.orders.publish_many(orders(50))
        await h.advance(600)
        assert h.dead(billing) == []
        assert len(attempts) > 60
        assert set(attempts) == {1}


async def test_a_crash_costs_the_visibility_timeout_and_an_attempt() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, visibility_timeout=30, max_receives=2)

    @billing.handler
    async def charge(order: Order) -> None: ...

    async with harness(shop.app, chaos=Chaos(crash=1)) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(29)
        assert h.in_flight(billing) == [Order("1")]
        await h.advance(1)
        assert h.in_flight(billing) == [Order("1")]
        await h.advance(30)
        assert h.in_flight(billing) == []
        assert h.dead(billing) == [Order("1")]


async def test_the_same_seed_repeats_the_same_misfortune() -> None:
    chaos = Chaos(crash=0.3, duplicate=0.3)
    first = await misfortune(11, chaos)
    assert first == await misfortune(11, chaos)
    assert first[1] != (await misfortune(12, chaos))[1]


async def test_chaos_keeps_the_order_of_groups() -> None:
    shop = Shop()
    ledger = shop.app.queue("ledger", Order, fifo=True, max_receives=None)
    booked = shop.app.topic("booked", Order)

    @ledger.handler(emit=booked)
    async def book(order: Order) -> Order:
        await asyncio.sleep(0)
        return order

    async with harness(shop.app, seed=5, chaos=Chaos(crash=0.2, duplicate=0.2)) as h:
        for number in range(40):
            await ledger.send(Order(str(number), str(number % 4)), group=str(number % 4))
        await h.advance(36_000)
        for group in range(4):
            ids = [int(order.id) for order in h.published(booked) if order.customer == str(group)]
            assert ids == list(range(group, 40, 4))


async def test_batches_survive_chaos() -> None:
    shop = Shop()
    bulk = shop.app.queue("bulk", Order, shop.orders, max_receives=None)
    loaded: set[str] = set()

    @bulk.batch_handler(size=10)
    async def load(batch: Batch[Order]) -> None:
        loaded.update(message.body.id for message in batch)

    async with harness(shop.app, seed=9, chaos=Chaos(crash=0.2, duplicate=0.2)) as h:
        await shop.orders.publish_many(orders(60))
        await h.advance(3600)
        assert len(loaded) == 60
        assert h.queued(bulk) == h.in_flight(bulk) == h.dead(bulk) == []


async def test_batches_of_groups_survive_chaos_in_order() -> None:
    shop = Shop()
    ledger = shop.app.queue("ledger", Order, fifo=True, max_receives=None)
    booked: dict[str, list[int]] = {}

    @ledger.batch_handler(size=5)
    async def book(batch: Batch[Order]) -> None:
        for message in batch:
            booked.setdefault(message.body.customer, []).append(int(message.body.id))

    async with harness(shop.app, seed=5, chaos=Chaos(crash=0.2, duplicate=0.2)) as h:
        for number in range(40):
            await ledger.send(Order(str(number), str(number % 4)), group=str(number % 4))
        await h.advance(36_000)
        assert h.queued(ledger) == h.in_flight(ledger) == []
    assert sum(map(len, booked.values())) > 40, "some crash made messages come again"
    for group in range(4):
        done = booked[str(group)]
        firsts = list(dict.fromkeys(done))
        assert firsts == list(range(group, 40, 4))
        # Whatever came again came with everything after it that had been done too early.
        assert [number for place, number in enumerate(done) if number not in done[place + 1 :]] == firsts
