"""pipeflow: a store in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from _brokers.peer import Taken
from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology


class Pipeflow:
    """Every caller uses the store as it is."""

    server = None

    def __init__(self, store: Store) -> None:
        self._store = store

    async def sender(self) -> Pipeflow:
        return self

    async def taker(self) -> Pipeflow:
        return self

    async def send(self, bodies: Sequence[bytes]) -> object:
        return await self._store.send("q", [Outgoing(body) for body in bodies])

    async def take(self, limit: int) -> Sequence[Taken]:
        return [(each.body, each.receipt) for each in await self._store.receive("q", Want(limit, wait=0.2))]

    async def ack(self, taken: Sequence[Taken]) -> object:
        return await self._store.settle("q", [Ack(receipt) for _, receipt in taken])

    def end(self) -> None:
        return

    async def left(self) -> int:
        (queue,) = (await self._store.stats()).queues
        return queue.ready + queue.delayed + queue.in_flight

    async def close(self) -> None:
        await self._store.close()


async def open_peer(setting: str, folder: Path) -> Pipeflow:
    store = await open_store(f"sqlite:///{folder}/pipeflow.db?durability={setting}")
    await store.declare(Topology(queues=(QueueSpec("q", visibility_timeout=300.0, max_in_flight=1_000_000),)))
    return Pipeflow(store)
