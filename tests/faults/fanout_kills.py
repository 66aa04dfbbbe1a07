"""SIGKILL a process that publishes to ten queues and a stream: each publish is in all of them, or in none.

    python tests/faults/fanout_kills.py [cycles] [--seed N] [--durability full|normal]

Bodies are of sizes at which copies are cheaper, and of sizes that are stored once and counted. The queues are emptied
meanwhile, the stream is not. Publishes, copies and acknowledgements are told through a pipe before and after each. At
the end everything is drained. A copy that is handed out before its publish is on disk, and not acknowledged when the
process dies, was never there: what counts is what was acknowledged, or came in a later life. The rules:

- torn: a publish reached some of the targets and not the others
- lost: a publish was acknowledged and is in none of them
- undead: a copy was delivered after its acknowledgement was confirmed
- twice: a publish is in the stream more than once
- ghosts: a copy that nobody published, or whose body is not the one that was published
- orphans: bodies on disk that no message names, when everything is drained
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import anyio

from pipeflow.messages import Ack, Manifest, ObjectFacts, Outgoing, Sent, Settled, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology
from queue_kills import Pace, body_of, complaints, key_of, listen, tell

QUEUES = tuple(f"copy{number}" for number in range(10))
STREAM = "lake"
TARGETS = {*QUEUES, STREAM}


# --- the child -------------------------------------------------------------------------------------------------------


def topology() -> Topology:
    return Topology(
        (TopicSpec("news"),),
        tuple(QueueSpec(queue, max_receives=None) for queue in QUEUES),
        (StreamSpec(STREAM, "memory://lake", delimiter=b""),),
        (*(Subscription("news", "queue", queue) for queue in QUEUES), Subscription("news", "stream", STREAM)),
    )


async def publish(store: Store, name: str, dice: random.Random, pace: Pace) -> None:
    numbers = count()
    while True:
        await pace.free()
        keys = [f"{name}.{next(numbers)}" for _ in range(dice.choice((1, 1, 3, 10)))]
        tell("publish", "-", keys)
        results = await store.publish("news", [Outgoing(body_of(key, dice.randrange(2_000))) for key in keys])
        tell("published", "-", (key for key, result in zip(keys, results, strict=True) if isinstance(result, Sent)))
        pace.step(len(keys) * len(QUEUES))


async def empty(store: Store, queue: str, pace: Pace, wait: float) -> None:
    while got := await store.receive(queue, Want(limit=10, wait=wait)):
        keys = [key_of(delivery.body) for delivery in got]
        tell("got", queue, keys)
        outcome = await store.settle(queue, [Ack(delivery.receipt) for delivery in got])
        tell("acked", queue, (key for key, each in zip(keys, outcome, strict=True) if isinstance(each, Settled)))
        pace.step(-len(got))


async def child(url: str, cycle: int, seed: int) -> None:
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    dice, pace = random.Random(seed * 1_000_003 + cycle), Pace()
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(publish, store, f"{cycle}.{number}", dice, pace)
        for queue in QUEUES:
            tasks.start_soon(empty, store, queue, pace, 3600)


async def drain(url: str) -> None:
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    for queue in QUEUES:
        await empty(store, queue, Pace(), 0)
    store.demand(STREAM, "drain")
    while (segment := await store.seal(STREAM)) is not None:
        async for records in store.read(segment):
            tell("got", STREAM, [key_of(body) for body in records.bodies])
        await store.commit(segment, Manifest([ObjectFacts(segment.name, segment.size, 1, segment.records)]))
    await store.close()


# --- the parent ------------------------------------------------------------------------------------------------------


class Oracle:
    """Everything the children told, and what was wrong with it."""

    def __init__(self) -> None:
        self.life = ""
        """Of the child that speaks; the keys it publishes begin with it."""
        self.tried: set[str] = set()
        self.published: set[str] = set()
        self.reached: dict[str, set[str]] = {}
        """By key: where it was for sure, on disk."""
        self.handed_out: dict[str, set[str]] = {}
        """By key: where it came in the life that published it; its acknowledgement may be on disk, and not be told."""
        self.acked: set[tuple[str, str]] = set()
        self.copies = self.records = 0
        self.undead: list[str] = []
        self.twice: list[str] = []
        self.ghosts: list[str] = []

    def hear(self, line: str) -> None:
        step, queue, key = line.split(" ")
        match step:
            case "publish":
                self.tried.add(key)
            case "published":
                self.published.add(key)
            case "got":
                self.copies += 1
                if key not in self.tried:
                    self.ghosts.append(key)
                if (queue, key) in self.acked:
                    self.undead.append(f"{queue} {key}")
                if queue == STREAM:
                    self.records += 1
                    if STREAM in self.reached.get(key, ()):
                        self.twice.append(key)
                first = key.partition(".")[0] == self.life
                (self.handed_out if first else self.reached).setdefault(key, set()).add(queue)
            case "acked":
                self.acked.add((queue, key))
                self.reached.setdefault(key, set()).add(queue)

    def torn(self) -> list[str]:
        return [key for key, sure in self.reached.items() if sure | self.handed_out.get(key, set()) != TARGETS]

    def lost(self) -> list[str]:
        return [key for key in self.published if not (key in self.reached or key in self.handed_out)]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def campaign(cycles: int, seed: int, durability: str, directory: Path) -> dict[str, object]:
    """Run the cycles and the drain; the figures, all violations counted."""
    database = directory / "kills.db"
    url = f"sqlite:///{database}?durability={durability}&log_bytes=65536"
    oracle, dice, crashed = Oracle(), random.Random(seed), list[str]()
    for cycle in range(cycles):
        process = start(url, str(cycle), str(seed))
        oracle.life = str(cycle)
        listen(process, oracle, dice.uniform(0.02, 0.5))
        crashed += complaints(process, expected=-signal.SIGKILL)
        if crashed:
            break
    process = start(url, "drain", "0")
    oracle.life = "drain"
    listen(process, oracle, None)
    crashed += complaints(process, expected=0)
    with sqlite3.connect(database) as reader:
        ((orphans,),) = reader.execute("SELECT count(*) FROM bodies")
    reader.close()
    return {
        "campaign": "fanout_kills",
        "seed": seed,
        "durability": durability,
        "cycles": cycles,
        "published": len(oracle.published),
        "copies": oracle.copies - oracle.records,
        "records": oracle.records,
        "unanswered": len(oracle.tried - oracle.published),
        "torn": len(oracle.torn()),
        "lost": len(oracle.lost()),
        "undead": len(oracle.undead),
        "twice": len(oracle.twice),
        "ghosts": len(oracle.ghosts),
        "orphans": orphans,
        "examples": (oracle.torn() + oracle.lost() + oracle.undead + oracle.twice + oracle.ghosts)[:10],
        "crashes": crashed,
    }


def clean(result: dict[str, object]) -> bool:
    """Whether every rule was kept."""
    return not any(result[rule] for rule in ("torn", "lost", "undead", "twice", "ghosts", "orphans", "crashes"))


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 a process that publishes to ten queues, and audit the store")
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
