"""The programs that the campaign on sinks kills, one for each way records take into objects, and how each is counted.

Every record says which life of which program it comes from. What `put` or `publish` returned for is written down at
once, in a file that no buffer stands before; so what is in that file was acknowledged, whenever the program died.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pyarrow.parquet as pq
import zstandard

from pipeflow import App, Failed
from pipeflow.sinks.manifest import live as live_objects
from pipeflow.stream import Stream

BATCH = 37
SMALL = 2_000
"""Bytes of a buffer: small, so that something is sealed, written or committed at any moment."""

OFTEN = 0.05

KEPT = "kept"
"""The folder of what a backup keeps, and what the ids of its records begin with when they are counted."""


class Row(msgspec.Struct, frozen=True):
    """A record: who made it, and something to compress."""

    id: str
    text: str = "to be, or not to be"


Accept = Callable[[list[Row]], Awaitable[object]]


class Program(msgspec.Struct):
    """An app under test: its stream, how records enter it, and what an acknowledged record becomes."""

    app: App
    stream: Stream[Any]
    accept: Accept
    becomes: Callable[[str], list[str]] = lambda id: [id]
    tidy: Callable[[], Awaitable[object]] | None = None
    """Done after each batch."""


def by_last_digit(row: Row) -> dict[str, str]:
    return {"digit": row.id[-1]}


def plain(folder: Path, broker: str) -> Program:
    """JSON lines as they came."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "plain", Row, sink=f"file://{folder}/out", compression="none", buffer_bytes=SMALL, buffer_seconds=OFTEN
    )
    return Program(app, stream, stream.put_many)


def compressed(folder: Path, broker: str) -> Program:
    """The same in zstd, below a prefix with times and random strings."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "compressed",
        Row,
        sink=f"file://{folder}/out",
        compression="zstd",
        prefix="!{timestamp:yyyy/MM/dd}/!{firehose:random-string}/",
        error_prefix="errors/!{firehose:error-output-type}/",
        buffer_bytes=SMALL,
        buffer_seconds=OFTEN,
    )
    return Program(app, stream, stream.put_many)


def partitioned(folder: Path, broker: str) -> Program:
    """Ten partitions of gzip, at most four of them open."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "partitioned",
        Row,
        sink=f"file://{folder}/out",
        partition_by=by_last_digit,
        max_partitions=4,
        buffer_bytes=SMALL // 4,
        buffer_seconds=OFTEN,
    )
    return Program(app, stream, stream.put_many)


def transformed(folder: Path, broker: str) -> Program:
    """Fed by a topic; a transform makes two records of each, and fails every seventh; partitioned by what it made."""
    app = App("sink", broker=broker)
    topic = app.topic("rows", Row)
    stream = app.stream(
        "transformed",
        Row,
        topic,
        sink=f"file://{folder}/out",
        partition_by=by_last_digit,
        buffer_bytes=SMALL // 4,
        buffer_seconds=OFTEN,
    )

    @stream.transform
    async def double(row: Row) -> list[Row]:
        if fails(row.id):
            raise ValueError("every seventh")
        return [row, msgspec.structs.replace(row, id=twin(row.id))]

    return Program(app, stream, topic.publish_many, lambda id: [f"failed {id}"] if fails(id) else [id, twin(id)])


def batched(folder: Path, broker: str) -> Program:
    """Split into JSON objects, then transformed in batches by a function that fails every seventh record."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "batched",
        bytes,
        sink=f"file://{folder}/out",
        format="jsonl",
        split="json",
        buffer_bytes=SMALL,
        buffer_seconds=OFTEN,
    )

    @stream.batch_transform(size=50, buffer_seconds=OFTEN / 2)
    async def check(batch: list[bytes]) -> list[bytes | Failed]:
        return [Failed("every seventh") if fails(json.loads(body)["id"]) else body for body in batch]

    async def accept(rows: list[Row]) -> None:
        # Six objects in a record: they become records of their own on the way.
        lines = [msgspec.json.encode(row) for row in rows]
        await stream.put_many([b"\n".join(lines[n : n + 6]) for n in range(0, len(lines), 6)])

    return Program(app, stream, accept, lambda id: [f"failed {id}" if fails(id) else id])


def columns(folder: Path, broker: str) -> Program:
    """Parquet, partitioned."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "columns",
        Row,
        sink=f"file://{folder}/out",
        format="parquet",
        partition_by=by_last_digit,
        buffer_bytes=SMALL,
        buffer_seconds=OFTEN,
    )
    return Program(app, stream, stream.put_many)


def backed_up(folder: Path, broker: str) -> Program:
    """A transform that fails every seventh record, and all of them as they came in a second stream."""
    app = App("sink", broker=broker)
    originals = app.stream(
        "originals", bytes, sink=f"file://{folder}/out/{KEPT}", format="jsonl", buffer_bytes=SMALL, buffer_seconds=OFTEN
    )
    topic = app.topic("rows", Row)
    stream = app.stream(
        "backed-up",
        Row,
        topic,
        sink=f"file://{folder}/out/rest",
        backup=originals,
        buffer_bytes=SMALL // 2,
        buffer_seconds=OFTEN,
    )

    @stream.transform
    async def check(row: Row) -> Row:
        if fails(row.id):
            raise ValueError("every seventh")
        return row

    return Program(app, stream, topic.publish_many, lambda id: [f"{KEPT} {id}", f"failed {id}" if fails(id) else id])


def merged(folder: Path, broker: str) -> Program:
    """Small files that are merged after each batch, in three partitions, and deleted at once."""
    app = App("sink", broker=broker)
    stream = app.stream(
        "merged",
        Row,
        sink=f"file://{folder}/out",
        partition_by=lambda row: str(int(row.id[-1]) % 3),
        manifest=True,
        target_bytes=1 << 20,
        buffer_bytes=SMALL // 2,
        buffer_seconds=OFTEN,
    )
    return Program(app, stream, stream.put_many, tidy=lambda: stream.compact(keep=0.0))


PROGRAMS: dict[str, Callable[[Path, str], Program]] = {
    program.__name__: program
    for program in (plain, compressed, partitioned, transformed, batched, backed_up, columns, merged)
}


def twin(id: str) -> str:
    """The id of the second record that comes of one; it ends in the same digit."""
    return f"{id}.{id[-1]}"


def fails(id: str) -> bool:
    """Whether the transform refuses it."""
    return int(id.rpartition("-")[2]) % 7 == 3


async def live(program: Program, folder: Path, life: str, batches: int | None, opened: Callable[[], object]) -> None:
    """Accept records and write down which; `batches` None: until somebody kills us. `opened` is called once."""
    # One worker thread: what it does to the disk then has one order, which a sweep can count.
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1
    with (folder / "acknowledged").open("ab", buffering=0) as acknowledged:
        async with program.app:
            opened()
            number = 0
            while batches is None or number < batches:
                rows = [Row(f"{life}-{number * BATCH + n}") for n in range(BATCH)]
                await program.accept(rows)
                acknowledged.write(b"".join(f"{row.id}\n".encode() for row in rows))
                number += 1
                if batches is not None:
                    await program.stream.flush()
                if program.tidy is not None:
                    await program.tidy()


def run(
    name: str,
    folder: Path,
    life: str,
    durability: str,
    batches: int | None,
    opened: Callable[[], object] = lambda: None,
) -> None:
    """One life of a program in this process."""
    program = PROGRAMS[name](folder, f"sqlite:///{folder}/sink.db?durability={durability}")
    asyncio.run(live(program, folder, life, batches, opened))


# What the objects hold


def audit(name: str, folder: Path) -> dict[str, int]:
    """How the objects differ from what was acknowledged, after a life that ended by itself."""
    becomes = PROGRAMS[name](folder, "memory://").becomes
    acknowledged = (folder / "acknowledged").read_text().split("\n")[:-1]
    wanted = {text for id in acknowledged for text in becomes(id)}
    found: Counter[str] = Counter()
    files = temporary = 0
    for path in objects(folder / "out"):
        if path.suffix == ".json":
            continue  # a manifest
        files += 1
        if path.name.startswith(".tmp-"):
            temporary += 1
            continue
        mark = f"{KEPT} " if path.parent.name == KEPT else ""
        found.update(mark + id for id in ids_in(path))
    return {
        "acknowledged": len(acknowledged),
        "files": files,
        "missing": len(wanted - found.keys()),
        "twice": sum(times > 1 for times in found.values()),
        "temporary": temporary,
    }


def objects(root: Path) -> Iterator[Path]:
    """Every file, hidden ones too; where there are manifests, of the others only those that they tell of."""
    told = listed(root)
    for path in sorted(root.rglob("*")):
        if path.is_file() and (told is None or path in told or path.name.startswith(".tmp-")):
            yield path


def listed(root: Path) -> set[Path] | None:
    """What readers of manifests see; None where there are none."""
    manifests = [path.read_bytes() for path in (root / ".manifest").rglob("*.json") if path.name[0] != "."]
    return {root / name for name in live_objects(manifests)} if manifests else None


def twice_now(folder: Path) -> int:
    """Records that a reader of manifests sees twice at this moment, whatever died a moment ago."""
    found = Counter(id for path in listed(folder / "out") or () for id in ids_in(path))
    return sum(times > 1 for times in found.values())


def ids_in(path: Path) -> Iterator[str]:
    """The ids of an object's records; those of failed ones begin with "failed"."""
    if path.suffix == ".parquet":
        yield from pq.ParquetFile(path).read(columns=["id"])["id"].to_pylist()
        return
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    for line in content.splitlines():
        record = json.loads(line)
        if "rawData" in record:
            yield f"failed {json.loads(base64.b64decode(record['rawData']))['id']}"
        else:
            yield record["id"]


def clean(result: dict[str, int]) -> bool:
    """Whether every acknowledged record is in the objects once, and nothing else lies beside them."""
    return result["acknowledged"] > 0 and not any(result[name] for name in ("missing", "twice", "temporary"))
