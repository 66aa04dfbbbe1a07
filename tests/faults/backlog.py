"""A million messages on disk: a program of bounded memory opens the store and works them off in order (P22).

    python tests/faults/backlog.py [MESSAGES]

One child fills the store, another opens and drains it; what counts is the peak of its resident memory (VmHWM).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

ROOT = Path(__file__).resolve().parents[2]
BODY = 200
BATCH = 1000
BOUND_MB = 200


async def opened(url: str) -> Store:
    store = await open_store(url)
    await store.declare(Topology(queues=(QueueSpec("backlog", max_receives=None),)))
    return store


async def fill(url: str, count: int) -> dict[str, object]:
    store = await opened(url)
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        await store.send("backlog", [Outgoing(b"%d" % number + b" " * (BODY - len(str(number)))) for number in numbers])
    await store.close()
    return {}


async def drain(url: str, count: int) -> dict[str, object]:
    began = time.monotonic()
    store = await opened(url)
    first = None
    expected = 0
    out_of_order = 0
    while deliveries := await store.receive("backlog", Want(BATCH)):
        first = first or time.monotonic()
        for delivery in deliveries:
            out_of_order += int(delivery.body) != expected
            expected += 1
        await store.settle("backlog", [Ack(delivery.receipt) for delivery in deliveries])
    await store.close()
    return {
        "received": expected,
        "out_of_order": out_of_order,
        "first_after_ms": round(((first or time.monotonic()) - began) * 1000),
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """The most memory this process ever had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise OSError("/proc/self/status names no VmHWM; this needs Linux")


def child(step: str, url: str, count: int) -> dict[str, object]:
    """One life of a child: what it found."""
    done = subprocess.run(
        [sys.executable, __file__, "child", step, url, str(count)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def campaign(folder: Path, count: int) -> dict[str, object]:
    """Fill, then drain in a process of its own."""
    url = f"sqlite:///{folder}/backlog.db"
    child("fill", url, count)
    return {"campaign": "backlog", "messages": count, **child("drain", url, count)}


def clean(result: dict[str, object]) -> bool:
    """Whether everything came in order and memory stayed bounded."""
    peak = result["peak_mb"]
    assert isinstance(peak, int)
    return (result["received"], result["out_of_order"]) == (result["messages"], 0) and peak < BOUND_MB


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        _, _, step, url, count = sys.argv
        print(json.dumps(asyncio.run({"fill": fill, "drain": drain}[step](url, int(count)))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = campaign(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
