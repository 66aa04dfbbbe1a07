"""A partitioned stream with a transform that runs before anything is written."""

from shop import Order, app, orders

archive = app.stream(
    "archive",
    Order,
    orders,
    sink="s3://company-lake/orders?region=eu-west-1",
    partition_by=lambda order: order.customer,
    buffer_bytes=64 << 20,
    buffer_seconds=300,
    compression="zstd",
)


@archive.transform
async def anonymise(order: Order) -> Order | None:
    # None drops the record; raising sends it to errors/, beside the good ones.
    return None if order.customer == "test" else order
