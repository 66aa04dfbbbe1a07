"""Middleware: a function around every handler of the app."""

from pipeflow import Delivery, Handle
from shop import app


@app.middleware
async def tenant(delivery: Delivery, call_next: Handle) -> object:
    if delivery.attributes.get("tenant") == "blocked":
        return None  # acknowledged, handler never called
    return await call_next(delivery)  # a plain call: no task, no queue in between
