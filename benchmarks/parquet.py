"""What a Parquet stream costs, against pyarrow writing one table of the same Python records straight to memory.

Both are given the same dictionaries and the same schema, compress with zstd and keep the file nowhere. pyarrow makes a
table of them all and writes it. The stream encodes each record as JSON, as it would for any sink and any reader, takes
it in, reads it back by its columns in a worker thread and writes it. Times end when the last file is delivered; the
way `convert` is the stream's second half alone, JSON to file. Rounds are interleaved, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TypedDict

import msgspec
from _rounds import alone, median, table

from pipeflow import App
from pipeflow.formats.columns import columns_for
from pipeflow.formats.convert import convert
from pipeflow.messages import Records, Segment
from pipeflow.protocols import Object
from pipeflow.stream import Stream

SIZE = 16 << 20
"""Bytes of JSON in a file of the stream."""

MANY = 500
TARGET = 0.60


class Flight(TypedDict):
    id: int
    carrier: str
    origin: str
    dest: str
    tail: str | None
    dep_delay: float | None
    distance: int
    cancelled: bool


def flights(count: int) -> list[Flight]:
    """Records about as alike as those of an airport are."""
    rolls = Random(7)
    airports = [f"{a}{b}A" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"]
    return [
        Flight(
            id=n,
            carrier=rolls.choice(("AA", "B6", "DL", "EV", "UA", "US", "WN")),
            origin=rolls.choice(("EWR", "JFK", "LGA")),
            dest=rolls.choice(airports),
            tail=f"N{rolls.randrange(900):03d}UA" if n % 50 else None,
            dep_delay=float(rolls.randrange(-20, 300)) if n % 40 else None,
            distance=rolls.randrange(80, 5000),
            cancelled=n % 40 == 0,
        )
        for n in range(count)
    ]


class NullSink:
    """Counts what it is given and keeps nothing."""

    def __init__(self) -> None:
        self.records = 0

    async def write(self, obj: Object) -> None:
        self.records += obj.records

    async def close(self) -> None:
        return


@asynccontextmanager
async def running(count: int) -> AsyncIterator[Stream[Flight]]:
    app = App("bench", broker="memory://")
    stream = app.stream(
        "bench",
        Flight,
        sink="memory://bench",
        format="parquet",
        durability="memory",
        buffer_bytes=SIZE,
    )
    sink = NullSink()
    async with app.running(sinks={"bench": sink}):
        yield stream
    assert sink.records == count


async def put(batch: list[Flight]) -> float:
    async with running(len(batch)) as stream:
        began = time.perf_counter()
        for record in batch:
            await stream.put(record)
        await stream.flush()
        return time.perf_counter() - began


async def put_many(batch: list[Flight]) -> float:
    async with running(len(batch)) as stream:
        began = time.perf_counter()
        for start in range(0, len(batch), MANY):
            await stream.put_many(batch[start : start + MANY])
        await stream.flush()
        return time.perf_counter() - began


async def converted(batch: list[Flight]) -> float:
    encode = msgspec.json.Encoder().encode
    columns = columns_for(Flight, "parquet")
    bodies = [encode(record) for record in batch]
    size = sum(map(len, bodies))
    segment = Segment(
        1, "bench", "", 1, len(bodies), len(bodies), size, 0.0, 0.0, "size", "b", "parquet", "zstd", b"", columns, "e"
    )
    began = time.perf_counter()
    convert(segment, [Records(1, 0.0, bodies)])
    return time.perf_counter() - began


async def straight(batch: list[Flight]) -> float:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeflow.formats.arrow_schema import arrow_schema

    schema = arrow_schema(columns_for(Flight, "parquet"))
    began = time.perf_counter()
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(batch, schema=schema), out, compression="zstd")
    out.getvalue()
    return time.perf_counter() - began


WAYS: dict[str, Callable[[list[Flight]], Awaitable[float]]] = {
    "pyarrow": straight,
    "convert": converted,
    "put": put,
    f"put_many({MANY})": put_many,
}


async def measured(way: Callable[[list[Flight]], Awaitable[float]], batch: list[Flight]) -> float:
    return await way(batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.records = 1, 5_000
    try:
        import pyarrow  # noqa: F401  # what it is measured against
    except ImportError:
        print("parquet: left out, pyarrow is not installed: pip install 'pipeflow[parquet]'", file=sys.stderr)
        return
    batch = flights(options.records)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, way in WAYS.items():
            taken[name].append(alone(measured(way, batch)))
    rows = []
    for name, times in taken.items():
        seconds = median(times)
        result: dict[str, object] = {
            "way": name,
            "records": options.records,
            "records_per_second": round(options.records / seconds),
            "rounds": options.rounds,
        }
        if name != "pyarrow":
            # Of each round by itself: what disturbs a machine disturbs what is measured side by side.
            ratio = median([straight / own for straight, own in zip(taken["pyarrow"], times, strict=True)])
            result["of pyarrow"] = round(ratio, 3)
            if name.startswith("put_many"):
                result |= {"target": TARGET, "reached": ratio >= TARGET}
        print(json.dumps(result), flush=True)
        rows.append([name, result["records_per_second"], result.get("of pyarrow", "")])
    table("Parquet, records a second", ["way", "records/s", "of pyarrow"], rows)


if __name__ == "__main__":
    main()
