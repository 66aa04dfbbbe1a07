"""How many messages a second a durable queue takes in, hands out and forgets, each caller awaiting its own commit.

A caller is a pair: one task that sends and one that receives and acknowledges, 1 KiB each, singly or in batches of 10.
"backlog": the consumers are 5,000 to 15,000 messages behind all the time, so that every message reaches the disk.
"keeping up": they start with nothing and are never 5,000 behind; what is sent and acknowledged inside one group of
commits does not reach the disk then. The long tail, 1,000,000 behind, is measured once. Everything against `memory://`,
and against plain aiosqlite a statement at a time at the same setting. Rounds are interleaved; ratios are medians of the
rounds' own.

    python benchmarks/queues.py [--rounds N] [--seconds S] [--callers N ...] [--batches N ...] [--forms F ...]
        [--stores S ...] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from math import inf
from pathlib import Path

from _distance import Distance
from _queueing import IN_TABLES, STORES, Queueing, open_queue
from _rounds import alone, median, quantile, table

LOW, START, HIGH = 5_000, 10_000, 15_000
BACKLOG, KEEPING_UP, TAIL = "backlog", "keeping up", "long tail"
WARM = 0.15
"""Seconds before counting starts: the callers are then spread over the groups."""
LONGER = 5
"""How often the time is prolonged while fewer than two messages of each caller have come through."""
TARGETS = {("normal", 64, 1): 5.0, ("full", 64, 1): 12.0}
"""What a store must reach in the backlog form, in times of plain aiosqlite at the same setting."""
P99_TARGET = 25.0
"""Milliseconds, of a full send at 64 callers in the backlog form."""


class Figures:
    """What one run gave."""

    def __init__(self, per_second: float, sends: list[tuple[float, float]], cpu: float) -> None:
        self.per_second = per_second
        self.sends = sends
        """When each began and ended."""
        took = sorted(ended - began for began, ended in sends)
        self.p50 = quantile(took, 0.50) * 1e3
        self.p99 = quantile(took, 0.99) * 1e3
        self.longest = took[-1] * 1e3 if took else 0.0
        self.cpu = cpu


async def run(store: str, callers: int, batch: int, form: str, seconds: float, behind: int = START) -> Figures:
    """One store under the load of that many callers for that long."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        queue = await open_queue(store, Path(folder))
        if form == KEEPING_UP:
            distance = Distance(0, -inf if queue.waits else 0, LOW)
        else:
            await queue.fill(behind)
            distance = Distance(behind, behind - (START - LOW), behind + (HIGH - START))
        figures = await drive(queue, distance, callers, batch, seconds)
        await queue.close()
        return figures


async def drive(queue: Queueing, distance: Distance, callers: int, batch: int, seconds: float) -> Figures:
    sends: list[tuple[float, float]] = []
    clock = time.perf_counter

    async def produce() -> None:
        while not distance.over:
            if not distance.may_send(batch):
                await distance.sender()
                continue
            began = clock()
            await queue.send(batch)
            sends.append((began, clock()))
            distance.has_sent(batch)
            if queue.instant:
                await asyncio.sleep(0)

    async def consume() -> None:
        while not distance.over:
            if not distance.may_take(batch):
                await distance.taker()
                continue
            taken = await queue.take(batch)
            if taken:
                await queue.ack(taken)
            distance.has_acked(len(taken), batch)
            if queue.instant:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(produce())
            tasks.create_task(consume())
        await asyncio.sleep(WARM * min(1.0, seconds))
        sends.clear()
        acked, cpu, began = distance.acked, time.process_time(), clock()
        for _ in range(LONGER):
            await asyncio.sleep(seconds)
            if distance.acked - acked >= 2 * callers * batch:
                break
        took = clock() - began
        figures = Figures((distance.acked - acked) / took, sends.copy(), (time.process_time() - cpu) / took)
        distance.end()
    return figures


def compare(
    rounds: int,
    seconds: float,
    callers: Sequence[int],
    batches: Sequence[int],
    forms: Sequence[str],
    stores: Sequence[str] = STORES,
) -> None:
    cells = list(product(forms, callers, batches))
    found: dict[tuple[str, int, int], dict[str, list[Figures]]] = {
        cell: {store: [] for store in stores} for cell in cells
    }
    for number in range(rounds):
        # Every other round the other way about, so that no store always follows the same one.
        in_turn = stores if number % 2 == 0 else stores[::-1]
        for form, count, batch in cells:
            for store in in_turn:
                found[form, count, batch][store].append(alone(run(store, count, batch, form, seconds)))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for (form, count, batch), figures in found.items():
        tell(form, count, batch, figures)


def once_behind(behind: int, seconds: float) -> None:
    """A long tail on disk: what is consumed is read back, what is sent goes behind it."""
    figures = {store: [alone(run(store, 64, 1, TAIL, seconds, behind))] for store in STORES}
    tell(f"{behind:,} behind", 64, 1, figures)


def tell(form: str, callers: int, batch: int, figures: dict[str, list[Figures]]) -> None:
    lines = []
    for store, runs in figures.items():
        plain, target = f"plain {store}", None
        result: dict[str, object] = {
            "form": form,
            "callers": callers,
            "batch": batch,
            "store": store,
            "messages_per_second": round(median([each.per_second for each in runs])),
            "send_p50_ms": round(median([each.p50 for each in runs]), 3),
            "send_p99_ms": round(median([each.p99 for each in runs]), 3),
            "cpu": round(median([each.cpu for each in runs]), 2),
            "rounds": len(runs),
        }
        for other in (plain, "memory://"):
            if other in figures and other != store:
                ratios = [
                    a.per_second / b.per_second for a, b in zip(runs, figures[other], strict=True) if b.per_second
                ]
                result["of plain aiosqlite" if other == plain else "of memory://"] = round(median(ratios), 3)
        if form == BACKLOG:
            target = TARGETS.get((store, callers, batch))
        if target is not None and plain in figures:
            result["target"] = target
            result["reached"] = result["of plain aiosqlite"] >= target  # type: ignore[operator]  # a float, always
            if store == "full":
                result["p99_target_ms"] = P99_TARGET
                result["p99_reached"] = result["send_p99_ms"] < P99_TARGET  # type: ignore[operator]  # a float, always
        print(json.dumps(result), flush=True)
        times = result.get("of plain aiosqlite")
        lines.append(
            (
                store,
                f"{result['messages_per_second']:,}",
                f"{times:.1f}x" if times is not None else "",
                result["send_p50_ms"],
                result["send_p99_ms"],
                result["cpu"],
            )
        )
    title = f"{form}, {callers:,} callers, " + ("singly" if batch == 1 else f"batches of {batch}")
    table(title, ("store", "messages/s", "of plain", "send p50 ms", "p99 ms", "cpu"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="durable send + receive + acknowledge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="how long each store is measured in each round")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--forms", nargs="+", choices=[BACKLOG, KEEPING_UP, TAIL], default=None)
    parser.add_argument("--stores", nargs="+", choices=STORES + IN_TABLES, default=STORES, help="but for the long tail")
    parser.add_argument("--behind", type=int, default=1_000_000, help="how long the long tail is")
    parser.add_argument("--quick", action="store_true", help="a second or two of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.callers, options.behind = 1, 0.05, [8], 30_000
    forms = options.forms or [BACKLOG, KEEPING_UP, TAIL]
    near = [form for form in forms if form != TAIL]
    compare(options.rounds, options.seconds, options.callers, options.batches, near, options.stores)
    if TAIL in forms:
        once_behind(options.behind, options.seconds * 4)


if __name__ == "__main__":
    main()
