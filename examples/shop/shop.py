"""An event-driven shop: orders fan out to a queue that charges them and to files that keep them all."""

from collections.abc import AsyncIterator

import msgspec

from pipeflow import App, Reject


class Order(msgspec.Struct, frozen=True):
    id: str
    customer: str
    total: int


class Receipt(msgspec.Struct, frozen=True):
    order: str


class Payments:
    async def charge(self, customer: str, amount: int, *, key: str) -> None: ...


app = App("shop", broker="sqlite:///shop.db")

orders = app.topic("orders", Order)
receipts = app.topic("receipts", Receipt)
billing = app.queue("billing", Order, orders.where(kind="placed"), max_receives=5)
lake = app.stream("lake", Order, orders, sink="file://./lake", buffer_bytes=5 << 20, buffer_seconds=60)


@app.provide
async def payments() -> AsyncIterator[Payments]:
    yield Payments()


@billing.handler(emit=receipts, concurrency=16)
async def charge(order: Order, payments: Payments) -> Receipt:
    if order.total <= 0:
        raise Reject("nothing to charge")
    await payments.charge(order.customer, order.total, key=order.id)
    return Receipt(order.id)
