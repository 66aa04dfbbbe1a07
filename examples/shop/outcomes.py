"""What a handler can say: return, raise, or fail single messages of a batch."""

from pipeflow import Batch, Context, Message, Reject, Retry
from shop import Order, Receipt, app, orders, receipts

retries = app.queue("retries", Order, orders)
audit = app.queue("audit", Order, orders)
bulk = app.queue("bulk", Order, orders, visibility_timeout=120)


@retries.handler  # no parentheses when there is nothing to say
async def ship(message: Message[Order]) -> None:  # ask for the envelope by naming its type
    if message.attempt == 1:
        raise Retry(after=30)  # not an error: "later"
    if message.body.total > 1_000_000:
        raise Reject("needs a human")  # dead letters now
    # any other exception: backoff, then dead letters; returning: acknowledged


@audit.handler(timeout=10)
async def record(order: Order, ctx: Context) -> None:
    ctx.publish(receipts, Receipt(order.id))  # leaves with the acknowledgement, in one commit; dropped if we raise


@bulk.batch_handler(size=500, linger=0.5)
async def load(batch: Batch[Order]) -> None:
    for message in batch:
        if message.body.total < 0:
            batch.fail(message, "negative total")  # the others are acknowledged; raising makes pipeflow bisect
