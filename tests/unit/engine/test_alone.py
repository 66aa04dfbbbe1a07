"""What was in flight at two kills runs with nothing beside it, through a real store and whatever kind of handler."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from killed_store import copy_killed

from pipeflow import App, Batch, Context
from pipeflow.clock import VirtualClock
from pipeflow.messages import Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store


class Order(msgspec.Struct, frozen=True):
    id: str


def shop(kind: str, beside: dict[str, set[str]]) -> App:
    """Two queues whose handlers take a second and note what runs while they do; each message stands for itself."""
    app = App("shop")
    work, other = app.queue("work", Order), app.queue("other", Order)
    running: list[set[str]] = []

    async def note(ids: set[str], ctx: Context) -> None:
        running.append(ids)
        for _ in range(4):
            await ctx.sleep(0.25)
            now = set().union(*running)
            for each in ids:
                beside.setdefault(each, set()).update(now - {each})
        running.remove(ids)

    if kind == "batch":

        @work.batch_handler(size=4, linger=0.5)
        async def load(batch: Batch[Order], ctx: Context) -> None:
            await note({message.body.id for message in batch}, ctx)
    else:

        @work.handler
        async def handle(order: Order, ctx: Context) -> None:
            await note({order.id}, ctx)

    @other.handler
    async def handle_other(order: Order, ctx: Context) -> None:
        await note({order.id}, ctx)

    return app


async def opened(path: Path, app: App, clock: VirtualClock) -> Store:
    store = await open_store(f"sqlite:///{path}", clock=clock, seed=1)
    await store.declare(app.topology())
    return store


async def take(store: Store, count: int) -> None:
    """Have this many in flight, in as many receives as it takes: some may come from the disk."""
    held = 0
    while held < count:
        deliveries = await store.receive("work", Want(limit=10))
        assert deliveries
        held += len(deliveries)
    assert held == count


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_nothing_runs_beside_what_was_in_flight_at_two_kills(tmp_path: Path, kind: str) -> None:
    clock = VirtualClock(1000.0)
    beside: dict[str, set[str]] = {}
    app = shop(kind, beside)
    stores = [await opened(tmp_path / "0.db", app, clock)]
    for crash in (1, 2):
        async with app.running(store=stores[-1], handlers=False, clock=clock):
            await app.queues[0].send(Order(f"deadly {crash}"))
        await take(stores[-1], crash)
        async with app.running(store=stores[-1], handlers=False, clock=clock):
            await app.queues[1].send(Order(f"innocent {crash}"))  # commits what was written behind
        copy_killed(tmp_path / f"{crash - 1}.db", tmp_path / f"{crash}.db")
        stores.append(await opened(tmp_path / f"{crash}.db", app, clock))
    async with app.running(store=stores[-1], clock=clock, seed=1, grace=0.0):
        for number in range(6):
            await app.queues[0].send(Order(f"new {number}"))
            await app.queues[1].send(Order(f"other {number}"))
        await clock.advance(60)
        assert len(beside) == 16
        assert beside["deadly 1"] == set()
        assert len(beside["new 5"]) >= 2
    for store in stores:
        await store.close()


async def test_a_batch_that_was_in_flight_at_two_kills_lingers_for_nobody(tmp_path: Path) -> None:
    """Each runs alone, one right after the other: waiting for company would take as many lingers as messages."""
    clock = VirtualClock(1000.0)
    app = App("shop")
    work = app.queue("work", Order)
    sizes: list[int] = []

    @work.batch_handler(size=500, linger=60.0)
    async def load(batch: Batch[Order]) -> None:
        sizes.append(len(batch))

    stores = [await opened(tmp_path / "0.db", app, clock)]
    async with app.running(store=stores[0], handlers=False, clock=clock):
        await work.send_many([Order(str(number)) for number in range(8)])
    for crash in (1, 2):
        await take(stores[-1], 8)
        async with app.running(store=stores[-1], handlers=False, clock=clock):
            await work.send(Order("commits what was written behind"), delay=500.0)
        copy_killed(tmp_path / f"{crash - 1}.db", tmp_path / f"{crash}.db")
        stores.append(await opened(tmp_path / f"{crash}.db", app, clock))
    async with app.running(store=stores[-1], clock=clock, seed=1, grace=0.0):
        await clock.advance(0.01)
        assert sizes == [1] * 8
    for store in stores:
        await store.close()
