"""What fanning out costs: publishing 1 KiB to a topic with 1, 10 and 100 queues, 64 callers each awaiting its commit.

One publish is one call and one commit, and its body is stored once however many queues it reaches. Against `memory://`,
and against plain aiosqlite, which inserts a row into each queue's share of one table, a statement at a time. Rounds are
interleaved, figures medians; `deliveries_per_second` counts a publish once for each queue.
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

from _queueing import BODY, STORES, plain, url
from _rounds import alone, median, quantile, table

from pipeflow.messages import Outgoing
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology

CALLERS = 64
TABLES = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, state INTEGER NOT NULL, body BLOB NOT NULL)"
)
INSERT = "INSERT INTO jobs (queue, state, body) VALUES (?, 0, ?)"


async def through_pipeflow(name: str, queues: int, seconds: float, folder: Path) -> tuple[float, float]:
    store = await open_store(url(name, folder))
    names = [f"q{n}" for n in range(queues)]
    await store.declare(
        Topology(
            topics=(TopicSpec("t"),),
            queues=tuple(QueueSpec(each) for each in names),
            subscriptions=tuple(Subscription("t", "queue", each) for each in names),
        )
    )
    instant = not store.features.durable

    async def publish() -> None:
        await store.publish("t", [Outgoing(BODY)])
        if instant:
            await asyncio.sleep(0)

    figures = await drive(publish, seconds)
    await store.close()
    return figures


async def through_plain(synchronous: str, queues: int, seconds: float, folder: Path) -> tuple[float, float]:
    connection = await plain(folder, synchronous, TABLES)

    async def publish() -> None:
        for queue in range(queues):
            await connection.execute_insert(INSERT, (queue, BODY))

    figures = await drive(publish, seconds)
    await connection.close()
    return figures


async def drive(publish: Callable[[], Awaitable[None]], seconds: float) -> tuple[float, float]:
    """Publishes a second, and the 99th hundredth of their times in milliseconds."""
    took: list[float] = []
    over = False

    async def call() -> None:
        while not over:
            began = time.perf_counter()
            await publish()
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        began = time.perf_counter()
        for _ in range(CALLERS):
            tasks.create_task(call())
        await asyncio.sleep(seconds)
        over = True
    # Whole publishes only, over the time until the last one ended: one to 100 queues may take long.
    return len(took) / (time.perf_counter() - began), quantile(sorted(took), 0.99) * 1e3


async def run(name: str, queues: int, seconds: float) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        if name.startswith("plain"):
            return await through_plain(name.removeprefix("plain "), queues, seconds, Path(folder))
        return await through_pipeflow(name, queues, seconds, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description="publishing to 1, 10 and 100 queues")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.05
    found: dict[int, dict[str, list[tuple[float, float]]]] = {
        queues: {store: [] for store in STORES} for queues in options.queues
    }
    for number in range(options.rounds):
        for queues in options.queues:
            for store in STORES if number % 2 == 0 else STORES[::-1]:
                found[queues][store].append(alone(run(store, queues, options.seconds)))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    for queues, stores in found.items():
        rows = []
        for store, runs in stores.items():
            rate = median([each[0] for each in runs])
            result: dict[str, object] = {
                "queues": queues,
                "store": store,
                "publishes_per_second": round(rate, 1),
                "deliveries_per_second": round(rate * queues),
                "publish_p99_ms": round(median([each[1] for each in runs]), 3),
                "callers": CALLERS,
                "rounds": options.rounds,
            }
            others = stores.get(f"plain {store}")
            times = median([a[0] / b[0] for a, b in zip(runs, others, strict=True)]) if others else None
            if times is not None:
                result["of plain aiosqlite"] = round(times, 2)
            print(json.dumps(result), flush=True)
            rows.append(
                (
                    store,
                    f"{rate:,.0f}",
                    f"{rate * queues:,.0f}",
                    f"{times:.1f}x" if times is not None else "",
                    result["publish_p99_ms"],
                )
            )
        table(f"to {queues} queues", ("store", "publishes/s", "deliveries/s", "of plain", "p99 ms"), rows)


if __name__ == "__main__":
    main()
