"""What does a durable stream make of its disk? put_many(500) by 8 producers, each awaiting its commit.

Against the least that could hold the same bytes: appending them to a file, 512 KiB and one fdatasync at a time. A null
sink, so that what is measured is taking records in, keeping them, sealing and forgetting them. Times end when the last
producer was told "durable"; `flushed` adds what is left to deliver then.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _rounds import loop_factory
from _streaming import MANY, Measured, NullSink, Table, batch_of, running

PRODUCERS = 8
APPEND = 512 << 10
STORES = ("full", "normal", "memory")


def appends(folder: Path) -> Measured:
    """write + fdatasync, and nothing else."""

    async def measure(batch: list[bytes]) -> float:
        per_append = max(1, APPEND // len(batch[0]))
        pieces = [b"".join(batch[start : start + per_append]) for start in range(0, len(batch), per_append)]
        path = folder / "appends"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            began = time.perf_counter()
            for piece in pieces:
                os.write(fd, piece)
                os.fdatasync(fd)
            return time.perf_counter() - began
        finally:
            os.close(fd)
            path.unlink()

    return measure


def filled(folder: Path, store: str, flushed: bool = False) -> Measured:
    async def measure(batch: list[bytes]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            broker = "memory://" if store == "memory" else f"sqlite:///{place}/bench.db?durability={store}"
            async with running(NullSink(), broker, durability=None) as stream:
                parts = iter([batch[start : start + MANY] for start in range(0, len(batch), MANY)])

                async def produce() -> None:
                    for part in parts:
                        await stream.put_many(part)

                began = time.perf_counter()
                await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
                taken = time.perf_counter() - began
                await stream.flush()
                return time.perf_counter() - began if flushed else taken

    return measure


async def measure(rounds: int, megabytes: int, sizes: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for size in sizes:
            batch = batch_of(size, megabytes)
            ways = {"appends": appends(Path(folder))}
            for store in STORES:
                ways[store] = filled(Path(folder), store)
            ways["full, flushed"] = filled(Path(folder), "full", flushed=True)
            table = Table(ways, ["appends"], size=size, producers=PRODUCERS)
            await table.run(batch, rounds)
            table.tell(len(batch), {"full": ("appends", 0.20)} if size == 1024 else {})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64, help="how much each way puts in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1024, 10_240], help="bytes of a record")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes = 1, 1
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(measure(options.rounds, options.megabytes, options.sizes))


if __name__ == "__main__":
    main()
