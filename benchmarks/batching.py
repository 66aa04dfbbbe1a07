"""What a stream costs the program that fills it: put, put_many and put_nowait of bytes with durability="memory".

To a null sink at 100 B and 1 KiB against `list.append` and against a batcher as one writes it first, an asyncio.Queue
read with wait_for. To gzip files (isal when installed) against one thread that joins and compresses prepared slices
and writes nothing. Times end when the last record is delivered. Rounds are interleaved, figures are medians. Streams
compress and write beside the loop: where the CPU time of a way is about its time, the machine had one core for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from pipeflow import App
from pipeflow.engine.compress import compressor
from pipeflow.protocols import Object, Sink
from pipeflow.sinks.file import FileSink
from pipeflow.specs import Compression
from pipeflow.stream import Stream

SIZE = 5 << 20
BOUND = 64 << 20
MANY = 500
WORDS = ["pay", "ship", "order", "eu", "us", "card", "euro", "visit", "click", "cart", "item", "refund", "note"]


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


@asynccontextmanager
async def running(sink: Sink, compression: Compression) -> AsyncIterator[Stream[bytes]]:
    """A stream of an open app."""
    app = App("bench", broker="memory://")
    stream = app.stream(
        "bench",
        bytes,
        sink="memory://bench",
        format="jsonl",
        compression=compression,
        durability="memory",
        buffer_bytes=SIZE,
        max_buffered=BOUND,
    )
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


def streamed(
    way: Callable[[Stream[bytes], Sequence[bytes]], Awaitable[None]], sink: Callable[[], Sink], compression: Compression
) -> Callable[[list[bytes]], Awaitable[float]]:
    async def measure(batch: list[bytes]) -> float:
        async with running(sink(), compression) as stream:
            began = time.perf_counter()
            await way(stream, batch)
            await stream.flush()
            return time.perf_counter() - began

    return measure


async def list_append(batch: list[bytes]) -> float:
    kept: list[bytes] = []
    append = kept.append
    began = time.perf_counter()
    for record in batch:
        append(record)
    return time.perf_counter() - began


async def naive(batch: list[bytes]) -> float:
    """The batcher one writes first: a queue, and a task that waits for the next record or the timeout."""
    batch = batch[: max(1, len(batch) // 20)]
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(10_000)

    async def collect() -> None:
        ended = False
        while not ended:
            gathered: list[bytes] = []
            size = 0
            deadline = time.monotonic() + 60
            while size < SIZE:
                try:
                    record = await asyncio.wait_for(queue.get(), deadline - time.monotonic())
                except TimeoutError:
                    break
                if record is None:
                    ended = True
                    break
                gathered.append(record)
                size += len(record) + 1
            b"\n".join(gathered)

    began = time.perf_counter()
    collector = asyncio.ensure_future(collect())
    for record in batch:
        await queue.put(record)
    await queue.put(None)
    await collector
    return (time.perf_counter() - began) * 20


async def one_thread(batch: list[bytes]) -> float:
    """The limit of one thread: joining and compressing slices that somebody cut before the clock started."""
    per_slice = SIZE // (len(batch[0]) + 1)
    slices = [[*batch[start : start + per_slice], b""] for start in range(0, len(batch), per_slice)]
    compress = compressor("gzip")

    def work() -> float:
        began = time.perf_counter()
        for each in slices:
            compress(b"\n".join(each))
        return time.perf_counter() - began

    return await asyncio.to_thread(work)


def cases(folder: Path) -> dict[str, dict[str, Callable[[list[bytes]], Awaitable[float]]]]:
    count = 0

    def files() -> FileSink:
        nonlocal count
        count += 1
        return FileSink(str(folder / str(count)))

    ways = {"put": put, f"put_many({MANY})": put_many, "put_nowait": put_nowait}
    return {
        "null sink": {
            "list.append": list_append,
            "naive asyncio.Queue": naive,
            **{name: streamed(way, NullSink, "none") for name, way in ways.items()},
        },
        "gzip files": {
            "one thread": one_thread,
            **{name: streamed(way, files, "gzip") for name, way in ways.items() if name != "put_nowait"},
        },
    }


TARGETS: dict[tuple[str, int, str], tuple[str, float]] = {
    ("null sink", 100, "put"): ("list.append", 1 / 20),
    ("null sink", 100, f"put_many({MANY})"): ("list.append", 1 / 5),
    ("gzip files", 1024, "put"): ("one thread", 0.80),
    ("gzip files", 1024, f"put_many({MANY})"): ("one thread", 0.90),
}
"""What a way must reach of a yardstick's records per second."""


async def measure(rounds: int, megabytes: int, sizes: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for size in sizes:
            distinct = records(size, min(40_000, (megabytes << 20) // size))
            batch = distinct * max(1, (megabytes << 20) // size // len(distinct))
            for sink, ways in cases(Path(folder)).items():
                taken: dict[str, list[float]] = {name: [] for name in ways}
                busy: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(rounds):
                    for name, way in ways.items():
                        began = time.process_time()
                        taken[name].append(await way(batch))
                        busy[name].append(time.process_time() - began)
                tell(sink, size, len(batch), medians(taken), medians(busy), rounds)


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in times.items()}


def tell(sink: str, size: int, count: int, seconds: dict[str, float], cpu: dict[str, float], rounds: int) -> None:
    for name, taken in seconds.items():
        result: dict[str, object] = {
            "sink": sink,
            "size": size,
            "way": name,
            "records_per_second": round(count / taken),
            "ns_per_record": round(taken / count * 1e9, 1),
            "cpu_ns_per_record": round(cpu[name] / count * 1e9, 1),
            "rounds": rounds,
        }
        for yardstick in ("list.append", "naive asyncio.Queue", "one thread"):
            if yardstick in seconds and name != yardstick:
                result[f"of {yardstick}"] = round(seconds[yardstick] / taken, 3)
        target = TARGETS.get((sink, size, name))
        if target is not None:
            result["target"] = round(target[1], 3)
            result["reached"] = seconds[target[0]] / taken >= target[1]
        print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=128, help="how much each way puts in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1024], help="bytes of a record")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes = 1, 1
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    try:
        import uvloop

        new_event_loop = uvloop.new_event_loop
    except ImportError:
        pass
    print(f"event loop: {new_event_loop.__module__}", file=sys.stderr)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(measure(options.rounds, options.megabytes, options.sizes))


if __name__ == "__main__":
    main()
