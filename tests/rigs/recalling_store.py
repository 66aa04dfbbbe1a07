"""A store that only remembers what it was asked, and ways to serve it on a socket."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio

from pipeflow.clock import Clock, SystemClock
from pipeflow.embedded.socket import OwnerSocket, connect
from pipeflow.errors import (
    NotFound,
)
from pipeflow.events import Event, Published
from pipeflow.messages import (
    Delivery,
    Failure,
    Outgoing,
    Position,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.moves import Move
from pipeflow.protocols import Features, Peeked, Redrive, Redriven, Store, StoreStats
from pipeflow.specs import FilterPolicy, Topology


class Recalling:
    """A store that remembers what it was asked and answers what it was told to."""

    url = "sqlite:///shop.db"
    features = Features(durable=True, max_delay=7.0)

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.sent: list[Outgoing] = []
        self.settled: list[Settlement] = []
        self.wants: list[Want] = []
        self.deliveries: list[Delivery] = []
        self.demanded: list[tuple[str, str]] = []
        self.topology = Topology()
        self.gate: anyio.Event | None = None
        self.entered = anyio.Event()
        self.left = anyio.Event()
        self.raising: Exception | None = None
        self.emptied_after_cancel = False

    async def _pass(self) -> None:
        self.entered.set()
        if self.raising is not None:
            raise self.raising
        if self.gate is not None:
            await self.gate.wait()

    async def declare(self, topology: Topology) -> None:
        self.topology = topology

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        return await self.send(topic, batch)

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        await self._pass()
        self.sent += batch
        return [Refused("TooLong", "why") if item.body == b"bad" else Sent(f"id-{queue}", 4, True) for item in batch]

    async def cancel_delayed(self, queue: str, key: str) -> bool:
        return (queue, key) == ("q", "key")

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        self.wants.append(want)
        try:
            await self._pass()
        finally:
            self.left.set()
        return self.deliveries

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        self.settled += batch
        return [Stale("gone") if isinstance(item, Release) else Settled() for item in batch]

    async def position(self, source: str) -> bytes | None:
        return None if source == "new" else b"\x00\xff"

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        return [Position(n) if item.body else Refused("Empty", "no") for n, item in enumerate(batch, 1)]

    def demand(self, stream: str, reason: str = "demand") -> None:
        self.demanded.append((stream, reason))

    async def delivered(self, stream: str) -> None:
        await self._pass()

    async def describe(self) -> Topology:
        return self.topology

    async def peek(
        self, queue: str, limit: int = 10, dead: bool = False, where: FilterPolicy | None = None
    ) -> list[Peeked]:
        failure = Failure(1.0, 1, "ValueError", "bad", "00ff00ff")
        return [Peeked("m1", queue, "ready", b"{}", limit, 1.5, 9, {"raw": b"\xff"}, "g", None, [failure], None)]

    async def purge(self, queue: str) -> int:
        raise NotFound(f"no queue {queue!r}; declare it first")

    async def delete_queue(self, queue: str) -> int:
        raise NotFound(f"there is no queue {queue}")

    async def redrive(self, request: Redrive) -> Redriven:
        return Redriven(3, 2, 1, [request.queue])

    async def start_move(self, request: Redrive) -> Move:
        return self._move(request)

    async def moves(self, queue: str | None = None) -> list[Move]:
        return [self._move(Redrive(queue or "all"))]

    async def cancel_move(self, id: str) -> Move:
        raise NotFound(f"there is no move {id}")

    @staticmethod
    def _move(request: Redrive) -> Move:
        return Move("m", request.queue, "dead", request.to, request.where, request.limit, request.rate, 9, 1.0, 3)

    async def stats(self) -> StoreStats:
        return StoreStats(self.url, "store", "full", 1, os.getpid(), [], [], [])

    async def watch(self) -> AsyncIterator[Event]:
        try:
            yield Published(1.0, "orders", 2)
            yield Published(2.0, "orders", 3)
            await anyio.sleep_forever()
        finally:
            self.left.set()

    async def close(self) -> None:
        pass


@asynccontextmanager
async def serving(store: Recalling, path: Path) -> AsyncIterator[OwnerSocket]:
    async with anyio.create_task_group() as group:
        owner = OwnerSocket()
        await owner.start(cast(Store, store), path, group)
        try:
            yield owner
        finally:
            await owner.close()


@asynccontextmanager
async def served(store: Recalling, path: Path) -> AsyncIterator[Store]:
    async with serving(store, path):
        client = await connect(path, store.url, SystemClock(), patience=0)
        try:
            yield client
        finally:
            await client.close()
