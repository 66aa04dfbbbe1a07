"""What the benchmarks of streams share: records, an open stream, the ways to fill it, and rounds in one run.

Every way of a table runs once a round, one after the other, and a ratio is the median of the rounds' own. Wall clock
and CPU time (all threads) stand side by side: where the CPU time of a way is about its time, it had one core and could
not overlap.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from pipeflow import App
from pipeflow.protocols import Object, Sink
from pipeflow.stream import Stream

SIZE = 5 << 20
BOUND = 64 << 20
MANY = 500
WORDS = ["pay", "ship", "order", "eu", "us", "card", "euro", "visit", "click", "cart", "item", "refund", "note"]

Way = Callable[[Stream[Any], Sequence[bytes]], Awaitable[None]]
Measured = Callable[[list[bytes]], Awaitable[float | tuple[float, float]]]
"""Takes records and says how many seconds it took, from the first until the last is where it belongs; and how many of
CPU, where this process does not tell."""


class NullSink:
    """Takes everything and keeps nothing."""

    async def write(self, obj: Object) -> None:
        return

    async def close(self) -> None:
        return


def records(size: int, count: int) -> list[bytes]:
    """Distinct JSON records of one size, about as alike as events are: isal makes a quarter of them."""
    rolls = Random(7)
    made = []
    for n in range(count):
        head = f'{{"id":{n},"at":{1_357_000_000 + n * 7},"user":"{rolls.getrandbits(40):x}","text":"'
        text: list[str] = []
        length = len(head) + 2
        while length < size:
            word = rolls.choice(WORDS) if rolls.random() < 0.72 else f"{rolls.getrandbits(24):x}"
            text.append(word)
            length += len(word) + 1
        made.append((head + " ".join(text))[: size - 2].encode() + b'"}')
    return made


def batch_of(size: int, megabytes: int) -> list[bytes]:
    """So many megabytes of records; those behind the first 40,000 are the same again."""
    count = max(MANY, (megabytes << 20) // size)
    distinct = records(size, min(40_000, count))
    return distinct * max(1, count // len(distinct))


@asynccontextmanager
async def running(sink: Sink, broker: str = "memory://", **options: Any) -> AsyncIterator[Stream[bytes]]:
    """A stream of bytes of an open app, in memory when nothing else is said."""
    app = App("bench", broker=broker)
    given: dict[str, Any] = {
        "sink": "memory://bench",
        "format": "jsonl",
        "compression": "none",
        "durability": "memory",
        "buffer_bytes": SIZE,
        "max_buffered": BOUND,
        **options,
    }
    stream = app.stream("bench", bytes, **given)
    async with app.running(sinks={"bench": sink}):
        yield stream


async def put(stream: Stream[bytes], batch: Sequence[bytes]) -> None:
    one = stream.put
    for record in batch:
        await one(record)


async def put_many(stream: Stream[bytes], batch: Sequence[bytes]) -> None:
    many = stream.put_many
    for start in range(0, len(batch), MANY):
        await many(batch[start : start + MANY])


async def put_nowait(stream: Stream[bytes], batch: Sequence[bytes]) -> None:
    # What a synchronous producer does between two awaits: as much as lies well under the bound.
    one = stream.put_nowait
    step = BOUND // 4 // len(batch[0])
    for start in range(0, len(batch), step):
        for record in batch[start : start + step]:
            one(record)
        await stream.flush()


def part(share: int, way: Measured) -> Measured:
    """A slow way takes one record of so many, and its time counts as often."""

    async def measure(batch: list[bytes]) -> tuple[float, float]:
        some = batch[: max(MANY, len(batch) // share)]
        began = time.process_time()
        took = await way(some)
        seconds, busy = took if isinstance(took, tuple) else (took, time.process_time() - began)
        return seconds * len(batch) / len(some), busy * len(batch) / len(some)

    return measure


def streamed(way: Way, sink: Callable[[], Sink], **options: Any) -> Measured:
    """Fill a stream in this way and flush it."""

    async def measure(batch: list[bytes]) -> float:
        async with running(sink(), **options) as stream:
            began = time.perf_counter()
            await way(stream, batch)
            await stream.flush()
            return time.perf_counter() - began

    return measure


class Table:
    """Ways to do the same with the same records, round after round; each prints one JSON object."""

    def __init__(self, ways: dict[str, Measured], yardsticks: Sequence[str], **facts: object) -> None:
        self._ways = ways
        self._yardsticks = [name for name in yardsticks if name in ways]
        self._facts = facts
        self._taken: dict[str, list[float]] = {name: [] for name in ways}
        self._busy: dict[str, list[float]] = {name: [] for name in ways}

    async def run(self, batch: list[bytes], rounds: int) -> None:
        for _ in range(rounds):
            for name, way in self._ways.items():
                gc.collect()
                began = time.process_time()
                took = await way(batch)
                seconds, busy = took if isinstance(took, tuple) else (took, time.process_time() - began)
                self._taken[name].append(seconds)
                self._busy[name].append(busy)

    def tell(self, count: int, targets: dict[str, tuple[str, float]]) -> None:
        """Print all, against the yardsticks and what must be reached of them."""
        for name, taken in self._taken.items():
            seconds = statistics.median(taken)
            result: dict[str, object] = {
                **self._facts,
                "way": name,
                "records_per_second": round(count / seconds),
                "ns_per_record": round(seconds / count * 1e9, 1),
                "cpu_ns_per_record": round(statistics.median(self._busy[name]) / count * 1e9, 1),
                "rounds": len(taken),
            }
            for yardstick in self._yardsticks:
                if name != yardstick:
                    result[f"of {yardstick}"] = round(_ratio(self._taken, name, yardstick), 3)
                    result[f"cpu of {yardstick}"] = round(_ratio(self._busy, name, yardstick), 3)
            if name in targets:
                yardstick, target = targets[name]
                result["target"] = round(target, 3)
                result["reached"] = _ratio(self._taken, name, yardstick) >= target
            print(json.dumps(result), flush=True)


def _ratio(times: dict[str, list[float]], name: str, yardstick: str) -> float:
    return statistics.median(theirs / mine for mine, theirs in zip(times[name], times[yardstick], strict=True))
