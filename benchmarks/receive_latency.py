"""How long after a send a waiting receiver has the message: one receiver parked on an empty queue, one send at a time.

From before the call of `send` until `receive` has returned, in one process: "receive" calls the store, "handler" is an
app's async handler, "topic" publishes to a topic that the queue subscribes to. At full durability the message is handed
over while its commit runs (an acknowledgement waits for the commit, a delivery does not), so `sent_ms`, when `send`
itself returns, is later than `p50_ms`. Between two sends the process sleeps for 2 ms, so that each finds it idle.
"hop" is what the event loop alone takes: a task sets a future that another one awaits.

    python benchmarks/receive_latency.py [--rounds N] [--sends N] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from _queueing import BODY, url
from _rounds import alone, median, quantile, table

from pipeflow import App
from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology

TARGET_MS = 1.0
PAUSE = 0.002
STORES = ("memory://", "normal", "full")
WAYS = ("receive", "topic", "handler")

clock = time.perf_counter


class Watch:
    """When the last message was sent and had, and how long each took."""

    def __init__(self) -> None:
        self.began = 0.0
        self.took: list[float] = []
        self.sent: list[float] = []
        self.had = asyncio.Event()

    def note(self) -> None:
        self.took.append(clock() - self.began)
        self.had.set()

    async def send(self, send: Callable[[], Awaitable[object]], count: int) -> None:
        """Send one after the other, each once the last one was had and everything is idle again."""
        for _ in range(count):
            await asyncio.sleep(PAUSE)
            self.had.clear()
            self.began = clock()
            await send()
            self.sent.append(clock() - self.began)
            await self.had.wait()


async def to_receiver(store_url: str, count: int, topic: bool) -> Watch:
    store = await open_store(store_url)
    await store.declare(
        Topology(topics=(TopicSpec("t"),), queues=(QueueSpec("q"),), subscriptions=(Subscription("t", "queue", "q"),))
    )
    watch = Watch()

    async def receive() -> None:
        while len(watch.took) < count:
            taken = await store.receive("q", Want(1, wait=20.0))
            watch.note()
            await store.settle("q", [Ack(each.receipt) for each in taken])

    async def send() -> None:
        await (store.publish("t", [Outgoing(BODY)]) if topic else store.send("q", [Outgoing(BODY)]))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive())
        await watch.send(send, count)
    await store.close()
    return watch


async def to_handler(store_url: str, count: int) -> Watch:
    app = App("latency", broker=store_url)
    queue = app.queue("q", bytes)
    watch = Watch()

    @queue.handler
    async def handle(body: bytes) -> None:
        watch.note()

    async with app:
        await watch.send(lambda: queue.send(BODY), count)
    return watch


async def to_future(count: int) -> Watch:
    watch = Watch()
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def receive() -> None:
        nonlocal future
        while len(watch.took) < count:
            await future
            future = loop.create_future()
            watch.note()

    async def send() -> None:
        future.set_result(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive())
        await watch.send(send, count)
    return watch


def once(store: str, way: str, count: int) -> Watch:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        where = url(store, Path(folder))
        if way == "handler":
            return alone(to_handler(where, count))
        return alone(to_receiver(where, count, way == "topic"))


def main() -> None:
    parser = argparse.ArgumentParser(description="from a send until a waiting receiver has the message")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sends", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.sends = 1, 20
    cells = [("loop", "hop"), *((store, way) for store in STORES for way in WAYS)]
    found: dict[tuple[str, str], list[Watch]] = {cell: [] for cell in cells}
    for number in range(options.rounds):
        for store, way in cells if number % 2 == 0 else cells[::-1]:
            watch = alone(to_future(options.sends)) if way == "hop" else once(store, way, options.sends)
            found[store, way].append(watch)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    rows = []
    for (store, way), watches in found.items():
        ordered = [sorted(watch.took) for watch in watches]
        result: dict[str, object] = {
            "store": store,
            "way": way,
            "p50_ms": round(median([quantile(each, 0.50) for each in ordered]) * 1e3, 4),
            "p99_ms": round(median([quantile(each, 0.99) for each in ordered]) * 1e3, 4),
            "sent_ms": round(median([quantile(sorted(watch.sent), 0.50) for watch in watches]) * 1e3, 4),
            "rounds": options.rounds,
        }
        if way != "hop":
            result |= {"target_ms": TARGET_MS, "reached": result["p50_ms"] < TARGET_MS}  # type: ignore[operator]
        print(json.dumps(result), flush=True)
        rows.append((store, way, result["p50_ms"], result["p99_ms"], result["sent_ms"]))
    table("milliseconds from a send", ("store", "to", "had, p50", "p99", "send returns"), rows)


if __name__ == "__main__":
    main()
