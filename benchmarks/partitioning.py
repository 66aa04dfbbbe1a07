"""What it costs to find the partition of a record of 1 KiB: by a function of the payload, and by expressions.

A function is given the payload, so a record that comes as bytes is decoded for it first, whole (`decoded`) or into a
Struct that names just its field (`function`). Expressions decode what they look at. `jq` is the process that those
outside the built-in part are sent to, many records at a time. Rounds are interleaved, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec

import msgspec
from _rounds import alone, median, table

from pipeflow.clock import SystemClock
from pipeflow.engine.jq_process import placing
from pipeflow.partitioning import as_key
from pipeflow.queries import Extraction, key_queries
from pipeflow.sinks.layout import Layout
from pipeflow.specs import StreamSpec

EXPRESSIONS = [
    ".carrier",
    "{carrier: .carrier, month: .date[0:7]}",
    '.at | strftime("%Y/%m/%d")',
    "first(.carrier, .date)",
]


class Flight(msgspec.Struct):
    carrier: str


def record(number: int) -> bytes:
    """About 1 KiB, most of which no partition depends on."""
    return msgspec.json.encode(
        {
            "carrier": ("AA", "B6", "DL", "EV", "UA", "US", "WN")[number % 7],
            "date": f"2013-{number % 12 + 1:02d}-01T05:15:00Z",
            "at": 1_357_017_300 + number,
            "remark": "on time " * 25,
            "gates": [1, 2, 3] * 20,
            "more": {f"field{n}": n for n in range(45)},
        }
    )


def layout(expression: str) -> Layout:
    keys = key_queries(expression)
    return Layout(StreamSpec("bench", "memory://bench", partitioned=True, partition_keys=keys))


def by_payload(decode: Callable[[bytes], object], carrier: Callable[[object], str]) -> Callable[[list[bytes]], float]:
    place = layout(".carrier").partition

    def measured(batch: list[bytes]) -> float:
        began = time.perf_counter()
        for body in batch:
            place(carrier(decode(body)))
        return time.perf_counter() - began

    return measured


def by_expression(expression: str) -> Callable[[list[bytes]], float]:
    keys = key_queries(expression)
    extract, partition = Extraction(keys), layout(expression).partition

    def measured(batch: list[bytes]) -> float:
        began = time.perf_counter()
        for body in batch:
            partition(as_key(keys, extract(body)))
        return time.perf_counter() - began

    return measured


def by_jq(expression: str) -> Callable[[list[bytes]], float]:
    keys, partition = key_queries(expression), layout(expression).partition
    opened = placing(keys, lambda texts: partition(as_key(keys, texts)), "bench")

    async def placed(batch: list[bytes]) -> float:
        async with opened(SystemClock()) as place:
            await place(batch[:1])  # with the start of the process
            began = time.perf_counter()
            await place(batch)
            return time.perf_counter() - began

    return lambda batch: alone(placed(batch))


def ways() -> dict[str, Callable[[list[bytes]], float]]:
    """By what the partition is found, and how to measure it."""
    found = {
        "decoded": by_payload(msgspec.json.Decoder().decode, lambda flight: flight["carrier"]),  # type: ignore[index]
        "function": by_payload(msgspec.json.Decoder(Flight).decode, lambda flight: flight.carrier),  # type: ignore[attr-defined]
        **{expression: by_expression(expression) for expression in EXPRESSIONS[:-1]},
    }
    if find_spec("jq") is not None:
        found[f"jq: {EXPRESSIONS[-1]}"] = by_jq(EXPRESSIONS[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.records = 1, 2_000
    batch = [record(number) for number in range(options.records)]
    taken: dict[str, list[float]] = {name: [] for name in ways()}
    for _ in range(options.rounds):
        for name, way in ways().items():
            taken[name].append(way(batch))
    rows = []
    for name, times in taken.items():
        rate = round(options.records / median(times))
        print(json.dumps({"way": name, "records_per_second": rate, "rounds": options.rounds}), flush=True)
        rows.append([name, rate, round(1e9 / rate)])
    table("Partitions of records of 1 KiB", ["way", "records/s", "ns each"], rows)


if __name__ == "__main__":
    main()
