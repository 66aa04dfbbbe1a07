"""Messages in order per group, a stream that trades safety for speed, and a source that knows where it was."""

from collections.abc import AsyncIterator

from pipeflow import At
from shop import Order, app, orders

ledger = app.queue("ledger", Order, fifo=True)  # `ledger.fifo` at the AWS door
# Fastest: may lose the open buffer in a crash.
clicks = app.stream("clicks", bytes, sink="file://./clicks", durability="memory")


@ledger.handler  # messages of one group in order, groups in parallel
async def book(order: Order) -> None: ...


@app.source(orders)  # the position commits with what was published: a restart goes on exactly there
async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
    for n in range((position or 0) + 1, 1000):
        yield At(n, Order(str(n), "ada", n))
