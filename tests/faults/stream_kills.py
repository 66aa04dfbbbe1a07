"""Kill -9 on a program that fills two streams, at random moments, and count what its files hold (P17).

    python tests/faults/stream_kills.py [cycles] [--seed N]

The child writes down what was acknowledged; afterwards every such record lies in exactly one file of each stream, one
stream partitioned, the other fed by a topic and transformed.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from pipeflow import App
from pipeflow.stream import Stream
from pipeflow.topic import Topic

ROOT = Path(__file__).resolve().parents[2]
BATCH = 37


def program(folder: Path, durability: str) -> tuple[App, Stream[bytes], Topic[bytes], Stream[bytes]]:
    """The app under test; its buffers are small, so that something is sealed, written or committed at any moment."""
    app = App("kills", broker=f"sqlite:///{folder}/kills.db?durability={durability}")
    put = app.stream(
        "put", bytes, sink=f"file://{folder}/put", format="jsonl", buffer_bytes=2_000, buffer_seconds=0.05,
        partition_by=lambda body: {"digit": body[-1:].decode()},
    )  # fmt: skip
    topic = app.topic("topic", bytes)
    derived = app.stream(
        "derived",
        bytes,
        topic,
        sink=f"file://{folder}/derived",
        format="jsonl",
        buffer_bytes=2_000,
        buffer_seconds=0.05,
    )

    @derived.transform
    def mark(body: bytes) -> bytes | None:
        return body + b"!"

    return app, put, topic, derived


async def child(folder: Path, cycle: str, durability: str) -> None:
    """Accept records until somebody kills us; with cycle "last" deliver what is there and end."""
    app, put, topic, derived = program(folder, durability)
    with (folder / "acknowledged").open("ab", buffering=0) as acknowledged:
        async with app:
            if cycle == "last":
                await put.flush()
                await derived.flush()
                return
            first = 0
            while True:
                batch = [f"{cycle}-{n}".encode() for n in range(first, first + BATCH)]
                await put.put_many(batch)
                await topic.publish_many(batch)
                acknowledged.write(b"\n".join(batch) + b"\n")
                print(first, flush=True)
                first += BATCH


def start(folder: Path, cycle: str, durability: str) -> subprocess.Popen[bytes]:
    """One life of the child."""
    return subprocess.Popen(
        [sys.executable, __file__, "child", str(folder), cycle, durability],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def campaign(folder: Path, cycles: int, seed: int) -> dict[str, int]:
    """Kill the child `cycles` times, finish once, and count."""
    rolls = Random(seed)
    for cycle in range(cycles):
        with start(folder, str(cycle), rolls.choice(["full", "normal"])) as process:
            assert process.stdout is not None
            for _ in range(rolls.randrange(1, 40)):
                process.stdout.readline()
            process.kill()
    with start(folder, "last", "full") as process:
        assert process.wait() == 0, f"the last run ended with {process.returncode}"
    return count(folder)


def count(folder: Path) -> dict[str, int]:
    """What was acknowledged, and how the files differ from it."""
    acknowledged = (folder / "acknowledged").read_text().split()
    result = {"acknowledged": len(acknowledged), "missing": 0, "twice": 0, "temporary": 0, "files": 0}
    for stream, mark in (("put", ""), ("derived", "!")):
        found: Counter[str] = Counter()
        for path in (folder / stream).rglob("*"):
            if path.is_file():
                result["files"] += 1
                result["temporary"] += path.name.startswith(".tmp-")
                found.update(gzip.decompress(path.read_bytes()).decode().split())
        result["missing"] += sum(record + mark not in found for record in acknowledged)
        result["twice"] += sum(times > 1 for times in found.values())
    return result


def clean(result: dict[str, int]) -> bool:
    """Whether every acknowledged record is in the files once, and nothing else lies beside them."""
    return result["acknowledged"] > 0 and not any(result[name] for name in ("missing", "twice", "temporary"))


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        asyncio.run(child(Path(sys.argv[2]), sys.argv[3], sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description="kill -9 a process that fills streams, and count its files")
    parser.add_argument("cycles", nargs="?", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = campaign(Path(folder), wanted.cycles, wanted.seed)
    print(json.dumps(result | {"cycles": wanted.cycles, "seed": wanted.seed}))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
