"""A module of its own: a router that the app includes."""

from pipeflow import Router
from shop import Order, orders

router = Router(prefix="invoicing-")
queue = router.queue("orders", Order, orders)


@queue.handler
async def invoice(order: Order) -> None: ...
