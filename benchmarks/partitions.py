"""What do partitions cost? Records put into 1, 50 and 500 of them by turns, and into a stream without.

Memory durability, no compression, null sink: what is left is the function, its key's path, the buffers and the objects.
`partition_by` takes the key out of a prepared table, so that it costs the program a look-up and no more.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence

from _rounds import loop_factory
from _streaming import MANY, Measured, NullSink, Table, Way, batch_of, part, put, put_many, streamed

PARTITIONS = (1, 50, 500)
WAYS: dict[str, Way] = {f"put_many({MANY})": put_many, "put": put}


def by(partitions: int, batch: Sequence[bytes], kind: str) -> Callable[[bytes], object]:
    """A function that answers one of so many keys: text, or a dict as for Hive's folders."""
    keys = {record: n * 7919 % partitions for n, record in enumerate(batch)}
    if kind == "dict":
        return lambda record: {"part": f"p{keys[record]}"}
    return lambda record: f"p{keys[record]}"


def ways(batch: Sequence[bytes], kind: str) -> dict[str, Measured]:
    made: dict[str, Measured] = {}
    for name, way in WAYS.items():
        share = 8 if way is put else 1
        made[f"{name}, not partitioned"] = part(share, streamed(way, NullSink))
        for partitions in PARTITIONS:
            options = {"partition_by": by(partitions, batch, kind), "max_buffered": 256 << 20}
            made[f"{name}, {partitions}"] = part(share, streamed(way, NullSink, **options))
    return made


async def measure(rounds: int, megabytes: int, sizes: Sequence[int], kinds: Sequence[str]) -> None:
    for size in sizes:
        batch = batch_of(size, megabytes)
        for kind in kinds:
            many = f"put_many({MANY})"
            table = Table(ways(batch, kind), [f"{many}, 1", "put, 1"], key=kind, size=size)
            await table.run(batch, rounds)
            table.tell(len(batch), {f"{many}, 500": (f"{many}, 1", 0.60)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=128, help="how much each way puts in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1024], help="bytes of a record")
    parser.add_argument("--keys", nargs="+", default=["text", "dict"], help="what partition_by answers")
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes = 1, 1
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(measure(options.rounds, options.megabytes, options.sizes, options.keys))


if __name__ == "__main__":
    main()
