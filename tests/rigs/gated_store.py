"""A store with a head of three messages, and gates at which the verbs of its journal can be held back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.opening import Kept
from pipeflow.messages import Ack, Delivery, Outgoing, Want
from pipeflow.protocols import QueueStats
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

SMALL = "?hot_messages=3"
TOPOLOGY = Topology(
    queues=(
        QueueSpec("work", dead_letters="dead", max_receives=50),
        QueueSpec("groups", fifo=True, max_receives=None),
        QueueSpec("late", fifo=True, max_receives=None, delay=60.0),
    )
)


class Gate:
    """One verb of the journal, held back while the gate is closed."""

    def __init__(self, store: Kept, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._open = asyncio.Event()
        self._open.set()
        self._came = asyncio.Event()
        through: Callable[..., Awaitable[Any]] = getattr(store.journal, verb)

        async def held(*arguments: Any) -> Any:
            self.calls += 1
            self._came.set()
            gate = self._open  # the event that was the gate when it came
            await gate.wait()
            return await through(*arguments)

        monkeypatch.setattr(store.journal, verb, held)

    def close(self) -> None:
        self._open.clear()
        self._came.clear()

    def open(self) -> None:
        self._open.set()

    def step(self) -> None:
        """Let through who stands before the gate, and nobody else."""
        self._open.set()
        self._open = asyncio.Event()
        self._came.clear()

    async def reached(self) -> None:
        """Return when somebody stands before the gate."""
        await self._came.wait()


async def opened(path: Path, clock: VirtualClock, options: str = SMALL) -> Kept:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock)
    assert isinstance(store, Kept)
    await store.declare(TOPOLOGY)
    return store


def killed(path: Path, name: str) -> Path:
    """The files of an open store, as a kill would leave them."""
    copy = path.with_name(name)
    return copy_killed(path, copy)


async def turns(store: Kept) -> None:
    """Let everything that can run, run, also on the journal's thread; a task before a gate cannot."""
    for _ in range(3):
        for _ in range(10):
            await asyncio.sleep(0)
        await store.journal.check()  # type: ignore[attr-defined]


async def take(store: Kept, queue: str, limit: int = 10, **want: Any) -> Sequence[Delivery]:
    return await store.receive(queue, Want(limit, **want))


async def drain(store: Kept, queue: str) -> list[bytes]:
    out: list[bytes] = []
    while deliveries := await take(store, queue):
        await store.settle(queue, [Ack(delivery.receipt) for delivery in deliveries])
        out += [delivery.body for delivery in deliveries]
    return out


async def counted(store: Kept, name: str) -> QueueStats:
    return next(queue for queue in (await store.stats()).queues if queue.name == name)


async def rows_of(store: Kept, name: str) -> tuple[int, int, int]:
    """(rows that the queue counts, rows there are, delayed ones among them), everything committed."""
    await store.committed()
    head = store.nouns.head(name)
    keys = await store.journal._read(lambda c: c.execute("SELECT key FROM messages").fetchall())  # type: ignore[attr-defined]
    mine = [key for (key,) in keys if key >> 43 == head.number]
    return head.counters.rows + head.counters.delayed_rows, len(mine), sum(key >> 42 & 1 for key in mine)


def messages(*bodies: str, **each: Any) -> list[Outgoing]:
    return [Outgoing(body.encode(), **each) for body in bodies]
