"""What fanning out costs: publishing 1 KiB to a topic with 1, 10 and 100 queues, 64 callers each awaiting its commit.

One publish is one call and one commit, and its body is stored once however many queues it reaches. Against `memory://`,
and against plain aiosqlite, which inserts a row into each queue's share of one table, a statement at a time. Rounds are
interleaved, figures medians; `deliveries_per_second` counts a publish once for each queue.

"latency" is one caller alone at full durability: a publish to one store after the other, so that each is disturbed by
the same, with `times_of_one` the ratio of the medians and `cpu_times` that of processor time. `bodies` counts what lies
on disk for the publishes of that store.

    python benchmarks/publish.py [--rounds N] [--seconds S] [--queues N ...] [--forms rate latency] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

from _queueing import BODY, STORES, plain, url
from _rounds import alone, median, quantile, table

from pipeflow.messages import Outgoing
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology

CALLERS = 64
TIMES_OF_ONE = 12.0
"""Target: how much longer one caller's publish to 100 queues may take than one to a single queue."""
TABLES = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, state INTEGER NOT NULL, body BLOB NOT NULL)"
)
INSERT = "INSERT INTO jobs (queue, state, body) VALUES (?, 0, ?)"


async def opened(where: str, queues: int) -> Store:
    store = await open_store(where)
    names = [f"q{n}" for n in range(queues)]
    await store.declare(
        Topology(
            topics=(TopicSpec("t"),),
            queues=tuple(QueueSpec(each) for each in names),
            subscriptions=tuple(Subscription("t", "queue", each) for each in names),
        )
    )
    return store


async def through_pipeflow(name: str, queues: int, seconds: float, folder: Path) -> tuple[float, float]:
    store = await opened(url(name, folder), queues)
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


class Alone:
    """Publishes of one caller to one number of queues."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.took: list[float] = []
        self.cpu = 0.0
        self.bodies = 0

    async def publish(self) -> None:
        cpu, began = time.process_time(), time.perf_counter()
        await self.store.publish("t", [Outgoing(BODY)])
        self.took.append(time.perf_counter() - began)
        self.cpu += time.process_time() - cpu

    async def close(self) -> None:
        await self.store.close()
        with closing(sqlite3.connect(self.path)) as reader:
            ((shared,),) = reader.execute("SELECT count(*) FROM bodies").fetchall()
            ((own,),) = reader.execute("SELECT count(*) FROM messages WHERE body IS NOT NULL").fetchall()
        self.bodies = shared + own


async def latency(queues: Sequence[int], publishes: int) -> dict[int, Alone]:
    """One caller, a store for each number of queues, a publish to each in turn."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        paths = {count: Path(folder) / f"{count}.db" for count in queues}
        callers = {count: Alone(await opened(f"sqlite:///{path}", count), path) for count, path in paths.items()}
        for _ in range(publishes):
            for caller in callers.values():
                await caller.publish()
        for caller in callers.values():
            await caller.close()
    return callers


def tell_latency(rounds: Sequence[dict[int, Alone]], publishes: int) -> None:
    rows = []
    least = min(rounds[0])
    for count in rounds[0]:
        medians = [median(callers[count].took) * 1e3 for callers in rounds]
        ones = [median(callers[least].took) * 1e3 for callers in rounds]
        cpu = median([callers[count].cpu / callers[least].cpu for callers in rounds])
        times = median([mine / one for mine, one in zip(medians, ones, strict=True)])
        result = {
            "form": "latency",
            "store": "full",
            "queues": count,
            "publish_p50_ms": round(median(medians), 3),
            "publish_cpu_us": round(median([callers[count].cpu / publishes * 1e6 for callers in rounds])),
            "times_of_one": round(times, 2),
            "cpu_times": round(cpu, 2),
            "publishes": publishes,
            "bodies": max(callers[count].bodies for callers in rounds),
            "rounds": len(rounds),
        }
        if (least, count) == (1, 100):
            result |= {"target": TIMES_OF_ONE, "reached": times <= TIMES_OF_ONE and result["bodies"] == publishes}
        print(json.dumps(result), flush=True)
        keys = ("publish_p50_ms", "times_of_one", "publish_cpu_us", "cpu_times", "bodies")
        rows.append((count, *(result[key] for key in keys)))
    table(f"one caller, {publishes} publishes", ("queues", "p50 ms", "times", "us CPU", "times", "bodies"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="publishing to 1, 10 and 100 queues")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--forms", nargs="+", choices=["rate", "latency"], default=["rate", "latency"])
    parser.add_argument("--publishes", type=int, default=300, help="of one caller alone, in each round")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.publishes = 1, 0.05, 10
    if "rate" in options.forms:
        compare(options.rounds, options.seconds, options.queues)
    if "latency" in options.forms:
        rounds = [alone(latency(options.queues, options.publishes)) for _ in range(options.rounds)]
        tell_latency(rounds, options.publishes)


def compare(rounds: int, seconds: float, counts: Sequence[int]) -> None:
    found: dict[int, dict[str, list[tuple[float, float]]]] = {
        queues: {store: [] for store in STORES} for queues in counts
    }
    for number in range(rounds):
        for queues in counts:
            for store in STORES if number % 2 == 0 else STORES[::-1]:
                found[queues][store].append(alone(run(store, queues, seconds)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for queues, stores in found.items():
        rows = []
        for store, runs in stores.items():
            rate = median([each[0] for each in runs])
            result: dict[str, object] = {
                "form": "rate",
                "queues": queues,
                "store": store,
                "publishes_per_second": round(rate, 1),
                "deliveries_per_second": round(rate * queues),
                "publish_p99_ms": round(median([each[1] for each in runs]), 3),
                "callers": CALLERS,
                "rounds": rounds,
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
