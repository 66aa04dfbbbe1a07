"""How many messages a second the engine puts through an empty async handler, and what the pieces cost.

`loop` is the limit: decode and await the handler in a plain loop. `engine` is everything above a broker that costs
nothing: intake, workers, settler, heartbeat. The others are whole apps on memory://, a backlog behind: the payload
alone, with its context and an emit, in batches of 100, and in a FIFO queue. Rounds are interleaved, figures medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from math import inf

import msgspec

from pipeflow import App, Batch, Context
from pipeflow.clock import Signal
from pipeflow.messages import Delivery, Receipt, Settled, Settlement, Want
from pipeflow.protocols import Features, Store
from pipeflow.registry import open_store


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str = "ada"


BODY = msgspec.json.encode(Order(1))


class FreeStore:
    """Hands out as much as is wanted until it has handed out `total`, and settles at no cost."""

    def __init__(self, store: Store, total: int, done: asyncio.Event) -> None:
        self._store = store
        self._left = total
        self._unsettled = total
        self._done = done
        self.clock = store.clock
        self.features: Features = store.features
        self._template = Delivery("id", "work", BODY, Receipt(1, 1, 1), 1, 0.0, store.clock.now() + 3600, 1)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        count = min(want.limit, self._left)
        if not count:
            await self.clock.wait(Signal(), inf)
        self._left -= count
        return [self._template] * count

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled]:
        self._unsettled -= len(batch)
        if not self._unsettled:
            self._done.set()
        return [Settled()] * len(batch)


async def loop(count: int) -> float:
    """No engine: decode and call."""
    decode = msgspec.json.Decoder(Order).decode

    async def handle(order: Order) -> None: ...

    started = time.perf_counter()
    for _ in range(count):
        await handle(decode(BODY))
    return time.perf_counter() - started


async def engine(count: int) -> float:
    """The engine over a broker that costs nothing."""
    app = App("bench")
    queue = app.queue("work", Order)

    @queue.handler
    async def handle(order: Order) -> None: ...

    done = asyncio.Event()
    store = await open_store("memory://")
    free = FreeStore(store, count, done)
    started = time.perf_counter()
    async with app.running(store=free):  # type: ignore[arg-type]  # the rest is delegated
        await done.wait()
        seconds = time.perf_counter() - started
    await store.close()
    return seconds


async def whole(count: int, declare: Callable[[App, Callable[[int], None]], None], fifo: bool = False) -> float:
    """An app on memory:// with a backlog of `count` when its handlers start."""
    app = App("bench")
    app.queue("work", Order, fifo=fifo)
    left = count
    done = asyncio.Event()

    def handled(number: int) -> None:
        nonlocal left
        left -= number
        if left <= 0:
            done.set()

    declare(app, handled)
    store = await open_store("memory://")
    async with app.running(store=store, handlers=False):
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            if fifo:
                await app.queues[0].send_many(
                    [Order(n) for n in numbers],
                    group=lambda order: f"g{order.id % 50}",
                    dedup_id=lambda order: str(order.id),
                )
            else:
                await app.queues[0].send_many([Order(n) for n in numbers])
    started = time.perf_counter()
    async with app.running(store=store) as runtime:
        await done.wait()
        await runtime.until_idle()
        seconds = time.perf_counter() - started
    await store.close()
    return seconds


def plain(app: App, handled: Callable[[int], None]) -> None:
    @app.queues[0].handler
    async def handle(order: Order) -> None:
        handled(1)


def emitting(app: App, handled: Callable[[int], None]) -> None:
    out = app.topic("out", Order)

    @app.queues[0].handler(emit=out)
    async def handle(order: Order, ctx: Context) -> Order:
        handled(1)
        return order


def batches(app: App, handled: Callable[[int], None]) -> None:
    @app.queues[0].batch_handler(size=100)
    async def handle(batch: Batch[Order]) -> None:
        handled(len(batch))


CASES: dict[str, Callable[[int], Awaitable[float]]] = {
    "loop": loop,
    "engine": engine,
    "memory": lambda count: whole(count, plain),
    "memory, emitting": lambda count: whole(count, emitting),
    "memory, batches of 100": lambda count: whole(count, batches),
    "memory, FIFO, 50 groups": lambda count: whole(count, plain, fifo=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.count = 1, 500
    uvloop = find_spec("uvloop") is not None
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if uvloop:
        import uvloop as fast

        factory = fast.new_event_loop
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(options.rounds):
        for name, case in CASES.items():
            with asyncio.Runner(loop_factory=factory) as runner:
                seconds[name].append(runner.run(_timed(case, options.count)))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    limit = statistics.median(seconds["loop"])
    for name, times in seconds.items():
        median = statistics.median(times)
        result = {
            "benchmark": "handlers",
            "case": name,
            "messages_per_second": round(options.count / median),
            "microseconds_per_message": round(median / options.count * 1e6, 2),
            "times_the_loop": round(median / limit, 1),
            "messages": options.count,
            "rounds": options.rounds,
            "uvloop": uvloop,
        }
        print(json.dumps(result), flush=True)


async def _timed(case: Callable[[int], Awaitable[float]], count: int) -> float:
    return await case(count)


if __name__ == "__main__":
    main()
