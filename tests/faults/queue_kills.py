"""SIGKILL a process that sends, receives and acknowledges at random moments, and hold the store to what it said.

    python tests/faults/queue_kills.py [cycles] [--seed N] [--durability full|normal]

A child process works on two queues, one standard and one FIFO with eight groups, and tells every step through a pipe
before and after it takes it, so that what it was told dies not with it. The parent kills it, starts the next on the
same store, and at the end drains what is left. The rules:

- lost: a send was acknowledged, and the message was neither acknowledged by a consumer nor delivered in the end
- undead: a message was delivered after its acknowledgement was confirmed
- ghost: a message was delivered that nobody sent, or whose body is not the one that was sent
- reordered: a FIFO message was delivered while an earlier one of its group was neither done nor in hand
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Protocol

import anyio

from pipeflow.messages import Ack, Defer, Delivery, Outgoing, Sent, Settled, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

QUEUES = ("work", "ledger")
GROUPS = 8
BACKLOG = 1_000
"""Producers of one process stop this far ahead of its consumers: the store keeps a backlog, the campaign ends."""


# --- the child -------------------------------------------------------------------------------------------------------


def tell(step: str, queue: str, keys: Iterable[str]) -> None:
    """One line a message, written before the call goes on: the parent reads it even when we die right after."""
    lines = "".join(f"{step} {queue} {key}\n" for key in keys).encode()
    while lines:
        lines = lines[os.write(1, lines) :]


def body_of(key: str, filler: int) -> bytes:
    text = key.encode() + b" " + b"x" * filler
    return b"%08x " % zlib.crc32(text) + text


def key_of(body: bytes) -> str:
    """The key a body was made for; `damaged` when it is not what was sent."""
    crc, _, text = body.partition(b" ")
    return text.partition(b" ")[0].decode() if crc == b"%08x" % zlib.crc32(text) else "damaged"


class Pace:
    """Holds producers back while consumers are far behind."""

    def __init__(self) -> None:
        self.ahead = 0
        self.moved = anyio.Event()

    def step(self, by: int) -> None:
        self.ahead += by
        self.moved.set()
        self.moved = anyio.Event()

    async def free(self) -> None:
        while self.ahead > BACKLOG:
            await self.moved.wait()


async def produce(store: Store, queue: str, name: str, dice: random.Random, pace: Pace) -> None:
    numbers = count()
    while True:
        await pace.free()
        keys = [f"{name}.{next(numbers)}" for _ in range(dice.choice((1, 1, 3, 10)))]
        # One producer owns a group, so the order of its acknowledged sends is the order of the group.
        group = name if queue == "ledger" else None
        batch = [
            Outgoing(body_of(key, dice.randrange(1_500)), group=group, dedup_id=key if group else None) for key in keys
        ]
        tell("send", queue, keys)
        results = await store.send(queue, batch)
        tell("sent", queue, (key for key, result in zip(keys, results, strict=True) if isinstance(result, Sent)))
        pace.step(len(keys))


async def consume(store: Store, queue: str, dice: random.Random, pace: Pace) -> None:
    while True:
        await take(store, queue, Want(limit=10, wait=20), dice, pace)


async def take(store: Store, queue: str, want: Want, dice: random.Random | None, pace: Pace) -> int:
    """Receive once and settle what came; with dice, some of it is put back for a moment instead."""
    got = await store.receive(queue, want)
    keys = [key_of(delivery.body) for delivery in got]
    tell("got", queue, keys)
    # FIFO: only the last of a receive may be put back without holding up those behind it in the same receive.
    back = len(got) - 1 if got and dice is not None and dice.random() < 0.1 else len(got)
    done, deferred = got[:back], got[back:]
    if done:
        tell("ack", queue, keys[:back])
        outcome = await store.settle(queue, [Ack(delivery.receipt) for delivery in done])
        tell("acked", queue, (key for key, o in zip(keys, outcome, strict=False) if isinstance(o, Settled)))
        pace.step(-len(done))
    await put_back(store, queue, deferred)
    return len(got)


async def put_back(store: Store, queue: str, deferred: Iterable[Delivery]) -> None:
    for delivery in deferred:
        tell("back", queue, [key_of(delivery.body)])
        await store.settle(queue, [Defer(delivery.receipt, 0.05)])


async def child(url: str, cycle: int, seed: int) -> None:
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    dice, pace = random.Random(seed * 1_000_003 + cycle), Pace()
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(produce, store, "work", f"{cycle}.w{number}", dice, pace)
            tasks.start_soon(consume, store, "work", dice, pace)
        for number in range(GROUPS):
            tasks.start_soon(produce, store, "ledger", f"{cycle}.g{number}", dice, pace)
        for _ in range(2):
            tasks.start_soon(consume, store, "ledger", dice, pace)


async def drain(url: str) -> None:
    """Take everything that is left and print the counters of the store as the last line."""
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    for queue in QUEUES:
        # Long enough for what was put back for 50 ms to come due again.
        while await take(store, queue, Want(limit=100, wait=0.5), None, Pace()):
            pass
    left = [queue for queue in (await store.stats()).queues if queue.ready or queue.delayed or queue.in_flight]
    tell("left", "-", [queue.name for queue in left])
    await store.close()


def topology() -> Topology:
    return Topology(
        queues=(QueueSpec("work", max_receives=None), QueueSpec("ledger", fifo=True, max_receives=None)),
    )


# --- the parent ------------------------------------------------------------------------------------------------------


class Oracle:
    """Everything the children told, and what was wrong with it."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.sent: dict[str, None] = {}
        self.acking: set[str] = set()
        self.acked: set[str] = set()
        self.held: set[str] = set()
        self.delivered: set[str] = set()
        self.open_in_group: dict[str, dict[str, None]] = {}
        self.deliveries = self.redelivered = 0
        self.undead: list[str] = []
        self.ghosts: list[str] = []
        self.reordered: list[str] = []
        self.left: list[str] = []

    def new_process(self) -> None:
        """Nothing is in anybody's hands any more."""
        self.held.clear()

    def hear(self, line: str) -> None:
        step, queue, key = line.split(" ")
        match step:
            case "send":
                self.tried.add(key)
            case "sent":
                self.sent[key] = None
                if queue == "ledger" and key not in self.acking:
                    self.open_in_group.setdefault(key.rpartition(".")[0], {})[key] = None
            case "got":
                self._got(queue, key)
            case "ack":
                self.acking.add(key)
                self.open_in_group.get(key.rpartition(".")[0], {}).pop(key, None)
            case "acked":
                self.acked.add(key)
                self.held.discard(key)
            case "back":
                self.held.discard(key)
            case "left":
                self.left.append(key)

    def _got(self, queue: str, key: str) -> None:
        self.deliveries += 1
        self.redelivered += key in self.delivered
        self.delivered.add(key)
        if key not in self.tried:
            self.ghosts.append(key)
        if key in self.acked:
            self.undead.append(key)
        if queue == "ledger":
            group, _, number = key.rpartition(".")
            for earlier in self.open_in_group.get(group, {}):
                if int(earlier.rpartition(".")[2]) >= int(number):
                    break
                if earlier not in self.held:
                    self.reordered.append(f"{key} before {earlier}")
                    break
        self.held.add(key)

    def lost(self) -> list[str]:
        """Acknowledged sends that no consumer ever tried to acknowledge, though everything was drained."""
        return [key for key in self.sent if key not in self.acking]


class Hearing(Protocol):
    """Whoever is told what the children tell."""

    def hear(self, line: str) -> None: ...


def listen(process: subprocess.Popen[bytes], oracle: Hearing, seconds: float | None) -> float | None:
    """Hear the child for `seconds` after it is ready, or to its end; when it became ready, as a clock reading."""
    assert process.stdout is not None
    pipe, rest, ready = process.stdout.fileno(), b"", None
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as ears:
        ears.register(pipe, selectors.EVENT_READ)
        until = float("inf")
        while (now := time.monotonic()) < until:
            if not ears.select(None if until == float("inf") else until - now):
                continue
            piece = os.read(pipe, 1 << 20)
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"ready"):
                    ready = time.monotonic()
                    until = ready + seconds if seconds is not None else until
                else:
                    oracle.hear(line.decode())
        if until < float("inf") and process.poll() is None:
            process.send_signal(signal.SIGKILL)
        # What was in the pipe when it died counts; a line cut in the middle does not.
        os.set_blocking(pipe, True)
        *lines, _ = (rest + process.stdout.read()).split(b"\n")
        for line in lines:
            if not line.startswith(b"ready"):
                oracle.hear(line.decode())
    return ready


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def campaign(cycles: int, seed: int, durability: str, directory: Path) -> dict[str, object]:
    """Run the cycles and the drain; the figures, all violations counted."""
    url = f"sqlite:///{directory}/kills.db?durability={durability}&log_bytes=65536"
    oracle, dice, recoveries, crashed = Oracle(), random.Random(seed), [], []
    for cycle in range(cycles):
        began = time.monotonic()
        process = start(url, str(cycle), str(seed))
        ready = listen(process, oracle, dice.uniform(0.02, 0.5))
        recoveries.append(round(((ready or time.monotonic()) - began) * 1000))
        crashed += complaints(process, expected=-signal.SIGKILL)
        oracle.new_process()
        if crashed:
            break
    process = start(url, "drain", "0")
    listen(process, oracle, None)
    crashed += complaints(process, expected=0)
    recoveries.sort()
    return {
        "campaign": "queue_kills",
        "seed": seed,
        "durability": durability,
        "cycles": cycles,
        "sent": len(oracle.sent),
        "acked": len(oracle.acked),
        "deliveries": oracle.deliveries,
        "redelivered": oracle.redelivered,
        "start_ms_p50": recoveries[len(recoveries) // 2],
        "start_ms_max": recoveries[-1],
        "lost": len(oracle.lost()),
        "undead": len(oracle.undead),
        "ghosts": len(oracle.ghosts),
        "reordered": len(oracle.reordered),
        "left": oracle.left,
        "examples": (oracle.lost() + oracle.undead + oracle.ghosts + oracle.reordered)[:10],
        "crashes": crashed,
    }


def complaints(process: subprocess.Popen[bytes], expected: int) -> list[str]:
    """What the child said when it ended otherwise than it should have."""
    assert process.stderr is not None
    assert process.stdout is not None
    said = process.stderr.read().decode()[-600:]
    process.stderr.close()
    process.stdout.close()
    return [] if process.wait() == expected else [f"exit {process.returncode}: {said}"]


def clean(result: dict[str, object]) -> bool:
    """Whether every rule was kept."""
    return not any(result[rule] for rule in ("lost", "undead", "ghosts", "reordered", "left", "crashes"))


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 a process that works on queues, and audit the store")
    parser.add_argument("cycles", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = campaign(options.cycles, options.seed, options.durability, Path(directory))
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _, _, store_url, which, child_seed = sys.argv
        if which == "drain":
            anyio.run(drain, store_url)
        else:
            anyio.run(child, store_url, int(which), int(child_seed))
    else:
        sys.exit(main())
