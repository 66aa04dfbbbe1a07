"""Spoil requests to S3 and kill -9 who makes them: every acknowledged record lies in exactly one object (P18).

    python tests/faults/s3_faults.py [cycles] [--share 0.2] [--seed N]

A child fills two streams at an S3 of our own, behind a proxy that spoils a share of all requests: small objects of many
partitions, and objects that go up in parts. It is killed at random moments. When everything works again each record
that was acknowledged lies in exactly one object of each stream, and no upload is left unfinished.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rigs"))

from fault_proxy import FaultProxy, by_chance, fault_proxy  # noqa: E402 # a script finds the rigs by itself
from s3_server import ENVIRONMENT, S3Server, s3_server  # noqa: E402

from pipeflow import App  # noqa: E402
from pipeflow.stream import Stream  # noqa: E402

BATCH = 37
PADDING = "x" * (1 << 19)
"""Behind the records of the stream of large objects."""
LARGE = 17 << 20
"""Beyond what goes up in one piece."""


def program(folder: Path, place: str) -> tuple[App, Stream[bytes], Stream[bytes]]:
    """The app under test."""
    app = App("faults", broker=f"sqlite:///{folder}/faults.db")
    small = app.stream(
        "small", bytes, sink=place, format="jsonl", buffer_bytes=2_000, buffer_seconds=0.05,
        partition_by=lambda body: {"digit": body[-1:].decode()},
    )  # fmt: skip
    large = app.stream(
        "large", bytes, sink=place, format="jsonl", compression="none", buffer_bytes=LARGE, buffer_seconds=60,
    )  # fmt: skip
    return app, small, large


async def child(folder: Path, place: str, cycle: str) -> None:
    """Accept records until somebody kills us; with cycle "last" deliver what is there and end."""
    app, small, large = program(folder, place)
    with (folder / "acknowledged").open("ab", buffering=0) as acknowledged:
        async with app:
            if cycle == "last":
                await small.flush()
                await large.flush()
                return
            first = 0
            while True:
                batch = [f"{cycle}-{n}" for n in range(first, first + BATCH)]
                await small.put_many([record.encode() for record in batch])
                await large.put_many([f"{record} {PADDING * (n % 4 == 0)}".encode() for n, record in enumerate(batch)])
                acknowledged.write("\n".join(batch).encode() + b"\n")
                print(first, flush=True)
                first += BATCH


async def life(folder: Path, place: str, cycle: str, batches: int | None) -> int:
    """One life of the child, killed behind so many batches; what it ended with."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "child", str(folder), place, cycle,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")])},
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(batches or 0):
        if not await process.stdout.readline():
            raise RuntimeError(f"the child of cycle {cycle} ended by itself")
    if batches is not None:
        process.kill()
    return await process.wait()


async def campaign(folder: Path, server: S3Server, cycles: int, share: float, seed: int) -> dict[str, int]:
    """Spoil and kill `cycles` times, let everything work again, and count."""
    rolls = Random(seed)
    bucket = server.bucket()
    left = 0
    async with fault_proxy(server.port) as proxy:
        place = f"s3://{bucket}/lake?endpoint={proxy.endpoint}&timeout=2"
        for cycle in range(cycles):
            proxy.plan = by_chance(share, rolls.randrange(1 << 30))
            await life(folder, place, str(cycle), rolls.randrange(1, 12))
            left += len(await asyncio.to_thread(server.uploads, bucket))
        proxy.plan = None
        ended = await life(folder, place, "last", None)
        assert ended == 0, f"the last run ended with {ended}"
        return count(folder, server, bucket) | {"left_by_kills": left} | figures(proxy)


def figures(proxy: FaultProxy) -> dict[str, int]:
    """What the proxy saw and did."""
    return {"requests": len(proxy.requests), **{fault.name.lower(): n for fault, n in Counter(proxy.faults).items()}}


def count(folder: Path, server: S3Server, bucket: str) -> dict[str, int]:
    """What was acknowledged, and how the objects differ from it."""
    acknowledged = (folder / "acknowledged").read_text().split()
    found: dict[str, Counter[str]] = {"small": Counter(), "large": Counter()}
    result = {"acknowledged": len(acknowledged), "missing": 0, "twice": 0, "disordered": 0, "objects": 0, "in_parts": 0}
    before: dict[str, str] = {}
    for key, content in sorted(server.objects(bucket).items()):
        lines = (gzip.decompress(content) if key.endswith(".gz") else content).decode().splitlines()
        records = [line.split(" ")[0] for line in lines]
        found["small" if "/digit=" in key else "large"].update(records)
        result["objects"] += 1
        result["in_parts"] += len(content) > LARGE - (1 << 20)
        # Names of one folder are in the order of their ranges, and so are the records (S72).
        folder_of_it = key.rpartition("/")[0]
        before_it = [before[folder_of_it]] if folder_of_it in before else []
        result["disordered"] += before_it + records != sorted(before_it + records, key=_order)
        before[folder_of_it] = records[-1]
    for stream in found.values():
        result["missing"] += sum(record not in stream for record in acknowledged)
        result["twice"] += sum(times > 1 for times in stream.values())
    return result | {"unfinished": len(server.uploads(bucket))}


def _order(record: str) -> tuple[int, int]:
    cycle, _, number = record.partition("-")
    return int(cycle), int(number)


def clean(result: dict[str, int]) -> bool:
    """Whether every acknowledged record is in one object of each stream, in order, and nothing is left unfinished."""
    wrong = ("missing", "twice", "disordered", "unfinished")
    return result["acknowledged"] > 0 and not any(result[name] for name in wrong)


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        asyncio.run(child(Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description="spoil requests to S3, kill -9 who makes them, and count the objects")
    parser.add_argument("cycles", nargs="?", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.2, help="of the requests that are spoiled")
    parser.add_argument("--seed", type=int, default=7)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        result = asyncio.run(campaign(Path(folder), server, wanted.cycles, wanted.share, wanted.seed))
    print(json.dumps(result | {"cycles": wanted.cycles, "share": wanted.share, "seed": wanted.seed}))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
