"""What does a stream cost the program that fills it? put, put_many and put_nowait of bytes, durability="memory".

To a null sink against `list.append` and against a batcher as one writes it first, an asyncio.Queue read with wait_for.
To files, gzip (isal when installed) and zstd, against one thread that joins and compresses prepared slices and writes
nothing; to plain files against one that joins, writes and syncs. Times end when the last record is delivered. Streams
compress and write beside the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _rounds import loop_factory
from _streaming import MANY, SIZE, Measured, NullSink, Table, Way, batch_of, part, put, put_many, put_nowait, streamed

from pipeflow.formats.compress import compressor
from pipeflow.sinks.file import FileSink

WAYS: dict[str, Way] = {"put": put, f"put_many({MANY})": put_many, "put_nowait": put_nowait}


async def list_append(batch: list[bytes]) -> float:
    kept: list[bytes] = []
    append = kept.append
    began = time.perf_counter()
    for record in batch:
        append(record)
    return time.perf_counter() - began


async def naive(batch: list[bytes]) -> float:
    """The batcher one writes first: a queue, and a task that waits for the next record or the timeout."""
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
    return time.perf_counter() - began


def one_thread(compression: str, folder: Path) -> Measured:
    """The limit of one thread: joining and compressing slices that somebody cut before the clock started.

    Where nothing is compressed it writes them, a file each, and syncs the files: then the disk is the limit.
    """
    compress = compressor(compression)

    async def measure(batch: list[bytes]) -> float:
        per_slice = SIZE // (len(batch[0]) + 1) + 1
        slices = [[*batch[start : start + per_slice], b""] for start in range(0, len(batch), per_slice)]

        def work() -> float:
            began = time.perf_counter()
            for number, each in enumerate(slices):
                content = compress(b"\n".join(each), "bench")
                if compression == "none":
                    fd = os.open(folder / f"limit-{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                    os.write(fd, content)
                    os.fsync(fd)
                    os.close(fd)
            taken = time.perf_counter() - began
            for limit in folder.glob("limit-*"):
                limit.unlink()
            return taken

        return await asyncio.to_thread(work)

    return measure


def tables(folder: Path, size: int) -> dict[str, Table]:
    count = 0

    def files() -> FileSink:
        nonlocal count
        count += 1
        return FileSink(str(folder / str(count)))

    def written(compression: str) -> dict[str, Measured]:
        return {
            name: streamed(way, files, compression=compression) for name, way in WAYS.items() if name != "put_nowait"
        }

    made = {
        "null sink": Table(
            {
                "list.append": list_append,
                "naive asyncio.Queue": part(20, naive),
                **{name: streamed(way, NullSink) for name, way in WAYS.items()},
            },
            ["list.append", "naive asyncio.Queue"],
            sink="null sink",
            size=size,
        )
    }
    for compression in ("none", "gzip", "zstd"):
        ways = {"one thread": one_thread(compression, folder), **written(compression)}
        made[f"{compression} files"] = Table(ways, ["one thread"], sink=f"{compression} files", size=size)
    return made


TARGETS: dict[tuple[str, int], dict[str, tuple[str, float]]] = {
    ("null sink", 100): {
        "put": ("list.append", 1 / 20),
        f"put_many({MANY})": ("naive asyncio.Queue", 20.0),
    },
    ("gzip files", 100): {"put": ("one thread", 0.60), f"put_many({MANY})": ("one thread", 0.90)},
    ("gzip files", 1024): {"put": ("one thread", 0.85), f"put_many({MANY})": ("one thread", 0.95)},
}
"""What a way must reach of a yardstick's records per second."""


async def measure(rounds: int, megabytes: int, sizes: Sequence[int], sinks: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for size in sizes:
            batch = batch_of(size, megabytes)
            for sink, table in tables(Path(folder), size).items():
                if not sinks or sink in sinks:
                    await table.run(batch, rounds)
                    table.tell(len(batch), TARGETS.get((sink, size), {}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64, help="how much each way puts in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1024, 10_240], help="bytes of a record")
    parser.add_argument("--sinks", nargs="+", default=[], help="only these, such as 'gzip files'")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes = 1, 1
    factory = loop_factory()
    print(f"event loop: {factory.__module__}", file=sys.stderr)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options.rounds, options.megabytes, options.sizes, options.sinks))


if __name__ == "__main__":
    main()
