"""What a message costs while 1,000, 100,000 and 1,000,000 others wait, or 10,000,000, and what opening the store costs.

A store is filled for each size, then a process of its own opens it, round after round, the sizes interleaved: 64
callers each send a message of 200 B, receive the oldest and acknowledge it, each awaiting its own commit, so that the
backlog stays as long as it is. What counts is the processor time of a message, all threads, and its ratio to the other
sizes; `start_ms` is from opening until the first message is in hand, `peak_mb` the most resident memory of the whole
life (VmHWM). Ten million take about 4 GB of disk and minutes to fill, so they are asked for; `--folder` keeps what was
filled, for the next run to use. With `--groups` the queue is FIFO and has so many groups.

    python benchmarks/backlog_scale.py [--rounds N] [--sizes N ...] [--messages N] [--groups N] [--folder DIR]
        [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from _rounds import alone, median, table

from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

BODY = bytes(200)
CALLERS = 64
BATCH = 1_000
WARM = 2_000
"""Messages before those that are counted: the first part of the tail is in memory then."""
FLAT, OF_LEAST, PEAK_MB, START_MS = 1.3, 4.0, 200, 5_000
"""Targets: times of 100,000 waiting, times of the least, and of the life at ten million."""


async def opened(url: str, groups: int) -> Store:
    store = await open_store(url)
    await store.declare(Topology(queues=(QueueSpec("backlog", fifo=groups > 0),)))
    return store


def message(number: int, groups: int) -> Outgoing:
    return Outgoing(BODY, group=f"g{number % groups}" if groups else None)


async def fill(url: str, size: int, groups: int) -> dict[str, float]:
    """Send what is missing of `size`, four callers at a time: while one group commits, the next is made."""
    store = await opened(url, groups)
    queue = (await store.stats()).queues[0]
    left = iter(range(queue.ready, size, BATCH))

    async def send() -> None:
        for start in left:
            batch = [message(number, groups) for number in range(start, min(start + BATCH, size))]
            await store.send("backlog", batch)

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(send() for _ in range(4)))
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    await store.close()
    sent = size - queue.ready
    return {"us": cpu / sent * 1e6, "per_second": sent / took} if sent > 0 else {}


async def work(url: str, messages: int, groups: int) -> dict[str, float]:
    """One life: open, then send as much as is received."""
    cpu, began = time.process_time(), time.perf_counter()
    store = await opened(url, groups)
    numbers = count()
    first = await store.receive("backlog", Want(1))
    started, start_cpu = time.perf_counter() - began, time.process_time() - cpu
    await store.settle("backlog", [Ack(first[0].receipt)])
    await store.send("backlog", [message(next(numbers), groups)])

    async def call(turns: int) -> None:
        for _ in range(turns):
            await store.send("backlog", [message(next(numbers), groups)])
            taken = await store.receive("backlog", Want(1, wait=20.0))
            await store.settle("backlog", [Ack(delivery.receipt) for delivery in taken])

    await asyncio.gather(*(call(WARM // CALLERS) for _ in range(CALLERS)))
    cpu, began = time.process_time(), time.perf_counter()
    turns = max(1, messages // CALLERS)
    await asyncio.gather(*(call(turns) for _ in range(CALLERS)))
    done = turns * CALLERS
    figures = {
        "us": (time.process_time() - cpu) / done * 1e6,
        "per_second": done / (time.perf_counter() - began),
        "start_ms": started * 1e3,
        "start_cpu_ms": start_cpu * 1e3,
    }
    await store.close()
    return {**figures, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory this process ever had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise OSError("/proc/self/status names no VmHWM; this needs Linux")


def life(step: str, url: str, count: int, groups: int) -> dict[str, float]:
    """One life of a child, and what it found."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", step, url, str(count), str(groups)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(folder: Path, sizes: list[int], rounds: int, messages: int, groups: int) -> None:
    names = {size: f"{size}-fifo-{groups}.db" if groups else f"{size}.db" for size in sizes}
    urls = {size: f"sqlite:///{folder}/{name}" for size, name in names.items()}
    filled = {}
    for size, url in urls.items():
        filled[size] = life("fill", url, size, groups)
        print(f"{size:,} filled", file=sys.stderr)
    lives: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else sizes[::-1]:
            lives[size].append(life("work", urls[size], messages, groups))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    rows = []
    for size in sizes:
        mine = lives[size]
        result: dict[str, object] = {
            "waiting": size,
            "groups": groups,
            "us_a_message": round(median([each["us"] for each in mine]), 1),
            "messages_per_second": round(median([each["per_second"] for each in mine])),
            "start_ms": round(median([each["start_ms"] for each in mine]), 1),
            "start_cpu_ms": round(median([each["start_cpu_ms"] for each in mine]), 1),
            "peak_mb": max(each["peak_mb"] for each in mine),
            "file_mb": (folder / names[size]).stat().st_size >> 20,
            "rounds": rounds,
        }
        if filled[size]:
            result["fill_us_a_message"] = round(filled[size]["us"], 1)
        for base, name, target in ((min(sizes), "of the least", OF_LEAST), (100_000, "of 100,000", FLAT)):
            if base in lives and base < size:
                times = median([a["us"] / b["us"] for a, b in zip(mine, lives[base], strict=True)])
                result |= {name: round(times, 2), f"{name}: reached": times <= target}
        if size >= 10_000_000:
            result["peak_reached"] = result["peak_mb"] < PEAK_MB  # type: ignore[operator]
            result["start_reached"] = result["start_ms"] < START_MS  # type: ignore[operator]
        print(json.dumps(result), flush=True)
        keys = ("us_a_message", "of the least", "of 100,000", "messages_per_second", "start_ms", "peak_mb", "file_mb")
        rows.append((f"{size:,}", *(result.get(key, "") for key in keys)))
    table(
        "messages waiting",
        ("", "us CPU", "of the least", "of 100,000", "messages/s", "start ms", "peak MB", "MB"),
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="what a message costs behind a long backlog")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--messages", type=int, default=30_000, help="how many are counted in each life")
    parser.add_argument("--groups", type=int, default=0, help="a FIFO queue with that many groups")
    parser.add_argument("--folder", type=Path, help="where the stores are, and stay")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    parser.add_argument("--child", nargs=4, metavar=("STEP", "URL", "COUNT", "GROUPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step, url, number, groups = options.child
        print(json.dumps(alone({"fill": fill, "work": work}[step](url, int(number), int(groups)))))
        return
    if options.quick:
        options.rounds, options.sizes, options.messages = 1, [1_000, 25_000], 500
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        compare(options.folder.resolve(), options.sizes, options.rounds, options.messages, options.groups)
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        compare(Path(folder), options.sizes, options.rounds, options.messages, options.groups)


if __name__ == "__main__":
    main()
