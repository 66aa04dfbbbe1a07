"""What one large message costs in memory and time: sent, waiting and received, in a process of its own each time.

`base_mib` is what the process had in memory at most (VmHWM) with the store open and the body made; `send_mib` and
`receive_mib` are what sending and receiving added to the most it ever had; `waiting_mib` is what a process that opens
the store with the message waiting has at most, without receiving it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from statistics import median

import anyio

from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

MIB = 1 << 20


def most() -> float:
    """MiB of memory that this process had at most."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


async def send(url: str, size: int) -> dict[str, float]:
    store = await open_store(url)
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    body = b"x" * size
    base, began = most(), time.perf_counter()
    await store.send("q", [Outgoing(body)])
    took = time.perf_counter() - began
    await store.close()
    return {"base_mib": base, "send_mib": most() - base, "send_ms": took * 1000}


async def receive(url: str, size: int) -> dict[str, float]:
    store = await open_store(url)
    await store.stats()
    waiting, began = most(), time.perf_counter()
    (delivery,) = await store.receive("q", Want())
    took = time.perf_counter() - began
    assert len(delivery.body) == size
    await store.settle("q", [Ack(delivery.receipt)])
    await store.close()
    return {"waiting_mib": waiting, "receive_mib": most() - waiting, "receive_ms": took * 1000}


def alone(step: str, url: str, size: int) -> dict[str, float]:
    """One step in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, url, str(size)], check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="what one large message costs in memory and time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 4 MiB: to test the benchmark")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, url, size = options.step
        print(json.dumps(anyio.run({"send": send, "receive": receive}[step], url, int(size))))
        return
    for size in (4 * MIB,) if options.quick else (20 * MIB, 200 * MIB):
        rounds = []
        for _ in range(1 if options.quick else options.rounds):
            with tempfile.TemporaryDirectory(prefix="bench-") as directory:
                url = f"sqlite:///{directory}/shop.db"
                rounds.append(alone("send", url, size) | alone("receive", url, size))
        result = {name: round(median(each[name] for each in rounds), 1) for name in rounds[0]}
        print(json.dumps({"size_mib": size // MIB, **result, "rounds": len(rounds)}))
        print(f"{size // MIB} MiB: {result}", file=sys.stderr)


if __name__ == "__main__":
    main()
