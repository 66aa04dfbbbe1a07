"""What a search through a long queue costs, and whom it holds up.

A queue of messages of 200 bytes, all but its head on disk, is searched for what no message has, so that all of them are
looked at, while somebody sends. `turn_ms` is how long the loop, and `page_ms` how long the journal's thread was kept at
most, in time of the processor: that is what a send may have to wait for, and what other programs on the machine do not
change. `turns_over_2ms` is how often it was the loop for longer than that. `added_mib` is what the search added to the
most memory that the process ever had. Sends are timed by the clock, with it and without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anyio
from _rounds import quantile
from large_bodies import most

from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.filters import parse_where
from pipeflow.messages import Outgoing
from pipeflow.protocols import Search, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

BATCH = 5_000
SEARCHES = {
    "where": Search("q", where=parse_where("body.customer=nobody", 0.0)),
    "contains": Search("q", contains=b"nobody"),
}


def message(number: int) -> Outgoing:
    body = json.dumps({"customer": f"customer-{number % 1000}", "number": number, "text": ""}).encode()
    return Outgoing(body[:-2] + b"x" * (200 - len(body)) + body[-2:])


async def fill(store: Store, count: int) -> None:
    await store.declare(Topology(queues=(QueueSpec("q"), QueueSpec("other"))))
    for start in range(0, count, BATCH):
        await store.send("q", [message(number) for number in range(start, min(count, start + BATCH))])


@contextmanager
def pages(spans: list[float]) -> Iterator[None]:
    """While inside, what the journal reads is timed on its thread."""
    read = SqliteJournal._read

    async def timed(self: SqliteJournal, function: Callable[[sqlite3.Connection], Any]) -> Any:
        def run(connection: sqlite3.Connection) -> Any:
            began = time.thread_time()
            try:
                return function(connection)
            finally:
                spans.append(time.thread_time() - began)

        return await read(self, run)

    SqliteJournal._read = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        SqliteJournal._read = read  # type: ignore[method-assign]


class Watcher:
    """Sends and watches the loop while something else runs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sends: list[float] = []
        self.longest = 0.0
        self.long = 0
        self.done = False

    async def send(self) -> None:
        while not self.done:
            began = time.perf_counter()
            await self.store.send("other", [message(0)])
            self.sends.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)

    async def watch(self) -> None:
        while not self.done:
            began = time.thread_time()
            await asyncio.sleep(0)
            took = time.thread_time() - began
            self.longest = max(self.longest, took)
            self.long += took > 0.002

    async def run(self, work: Callable[[], Any]) -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.send)
            tasks.start_soon(self.watch)
            result = await work()
            self.done = True
        return result


HIGHEST = ("added_mib", "turn_ms", "page_ms")


def of_rounds(measured: list[dict[str, Any]]) -> dict[str, object]:
    """One result for all rounds."""
    words = ("benchmark", "way", "messages", "examined")
    kept = {name: measured[0][name] for name in words}
    for name in measured[0].keys() - set(words):
        values = [each[name] for each in measured]
        kept[name] = max(values) if name in HIGHEST else median(values)
    return {name: kept[name] for name in measured[0]} | {"rounds": len(measured)}


async def measure(url: str, count: int, way: str) -> dict[str, Any]:
    store = await open_store(url)
    await store.peek("q", 1)  # the head of the queue is in memory from here on
    alone = Watcher(store)
    await alone.run(lambda: asyncio.sleep(1.0))
    spans: list[float] = []
    watcher, base = Watcher(store), most()
    with pages(spans):
        began, cpu = time.perf_counter(), time.process_time()
        found = await watcher.run(lambda: store.search(SEARCHES[way]))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    await store.close()
    assert found.complete
    for measured in (watcher.sends, alone.sends):
        measured.sort()
    return {
        "benchmark": "searching",
        "way": way,
        "messages": count,
        "examined": found.examined,
        "seconds": round(took, 2),
        "cpu_us_per_message": round(cpu / found.examined * 1e6, 1),
        "added_mib": round(most() - base, 1),
        "turn_ms": round(watcher.longest * 1000, 2),
        "turns_over_2ms": watcher.long,
        "page_ms": round(max(spans, default=0.0) * 1000, 2),
        "send_p50_ms": round(quantile(watcher.sends, 0.5) * 1000, 2),
        "send_p99_ms": round(quantile(watcher.sends, 0.99) * 1000, 2),
        "send_p50_ms_alone": round(quantile(alone.sends, 0.5) * 1000, 2),
        "send_p99_ms_alone": round(quantile(alone.sends, 0.99) * 1000, 2),
    }


async def run(count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pipeflow-searching-") as folder:
        url = f"sqlite:///{Path(folder)}/store.db?durability=normal"
        store = await open_store(url)
        await fill(store, count)
        await store.close()
        measured: dict[str, list[dict[str, Any]]] = {way: [] for way in SEARCHES}
        for _ in range(rounds):
            for way in SEARCHES:
                measured[way].append(await measure(url, count, way))
        for results in measured.values():
            print(json.dumps(of_rounds(results)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="A small queue: does it run?")
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    anyio.run(run, 30_000 if options.quick else options.messages, 1 if options.quick else options.rounds)


if __name__ == "__main__":
    main()
