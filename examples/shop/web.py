"""The app inside a web process: handlers run in it, leaving drains them.

The application mounts no operations console: this version of pipeflow has its console on the command line only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shop import Order, app, orders


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with app:  # handlers run inside the web process; leaving drains them
        yield


web = FastAPI(lifespan=lifespan)


@web.post("/orders", status_code=202)
async def place(order: dict[str, object]) -> dict[str, str]:
    return {"id": await orders.publish(Order("1", "ada", 5), kind="placed")}
