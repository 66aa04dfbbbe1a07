"""SIGKILL a process that sends, receives and deletes large bodies at random moments, and look at every file it left.

    python tests/faults/claims_kills.py [cycles] [--seed N] [--durability full|normal]

A child process publishes bodies, small ones and such as are kept aside, to three queues, receives, acknowledges, puts
back and now and then purges. After each kill the parent looks at a copy of the store before anybody opens it again. The
rules, besides those of queue_kills:

- missing: a row refers to a body whose file is not there, or is not what was written
- orphans: when everything is drained and the store was opened once more, a file or a reference is left
- quarantined: the store itself found a body missing
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from itertools import count
from pathlib import Path

import anyio

from pipeflow.embedded.sqlite.examination import claims_of
from pipeflow.messages import Ack, Defer, Outgoing, Sent, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import ClaimSpec, QueueSpec, Subscription, TopicSpec, Topology
from queue_kills import Oracle, Pace, body_of, complaints, key_of, listen, tell

QUEUES = ("a", "b", "c")
SPOILT = "spoilt"
"""What is sent to it is purged now and then: nothing of it is promised, but its files must go too."""
INLINE = 2_000
AHEAD = 100


async def produce(store: Store, name: str, dice: random.Random, pace: Pace) -> None:
    numbers = count()
    while True:
        while pace.ahead > AHEAD:
            await pace.moved.wait()
        keys = [f"{name}.{next(numbers)}" for _ in range(dice.choice((1, 1, 3)))]
        batch = [Outgoing(body_of(key, dice.choice((100, 3_000, 30_000, 300_000)))) for key in keys]
        for queue in QUEUES:
            tell("send", queue, (f"{queue}.{key}" for key in keys))
        results = await store.publish("t", batch)
        sent = [key for key, result in zip(keys, results, strict=True) if isinstance(result, Sent)]
        for queue in QUEUES:
            tell("sent", queue, (f"{queue}.{key}" for key in sent))
        pace.step(len(keys) * len(QUEUES))


async def consume(store: Store, queue: str, want: Want, dice: random.Random | None, pace: Pace) -> int:
    got = await store.receive(queue, want)
    keys = [f"{queue}.{key_of(delivery.body)}" for delivery in got]
    tell("got", queue, keys)
    for delivery, key in zip(got, keys, strict=True):
        if dice is not None and dice.random() < 0.1:
            tell("back", queue, [key])
            await store.settle(queue, [Defer(delivery.receipt, 0.05)])
            continue
        tell("ack", queue, [key])
        await store.settle(queue, [Ack(delivery.receipt)])
        tell("acked", queue, [key])
        pace.step(-1)
    return len(got)


async def spoil(store: Store, dice: random.Random) -> None:
    while True:
        for _ in range(dice.randrange(1, 8)):
            await store.send(SPOILT, [Outgoing(body_of("x.0", 5_000))])
        await store.purge(SPOILT)


async def child(url: str, cycle: int, seed: int) -> None:
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    dice, pace = random.Random(seed * 1_000_003 + cycle), Pace()

    async def consuming(queue: str) -> None:
        while True:
            await consume(store, queue, Want(limit=10, wait=20), dice, pace)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spoil, store, dice)
        for number in range(3):
            tasks.start_soon(produce, store, f"{cycle}.{number}", dice, pace)
        for queue in QUEUES:
            tasks.start_soon(consuming, queue)


async def drain(url: str) -> None:
    """Take everything that is left, and say what the store itself found wrong."""
    store = await open_store(url)
    await store.declare(topology())
    tell("ready", "-", ["-"])
    await store.purge(SPOILT)
    for queue in QUEUES:
        while await consume(store, queue, Want(limit=100, wait=0.5), None, Pace()):
            pass
    tell("left", "-", [queue.name for queue in (await store.stats()).queues if queue.quarantined])
    # Rows of a purge are swept, and files deleted, behind the answer.
    with anyio.move_on_after(20):
        while any(path.is_file() for path in Path(f"{url.split('?')[0][10:]}-claims").rglob("*")):  # noqa: ASYNC110
            await anyio.sleep(0.05)
    await store.close()


def topology() -> Topology:
    names = (*QUEUES, SPOILT)
    return Topology(
        topics=(TopicSpec("t"),),
        queues=tuple(QueueSpec(name, max_receives=None) for name in names),
        subscriptions=tuple(Subscription("t", "queue", name) for name in QUEUES),
        claims=ClaimSpec(inline_bytes=INLINE),
    )


def missing(database: Path) -> list[str]:
    """Bodies that rows refer to and that do not lie there as they were written; the store is looked at in a copy."""
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("-log", "", "-wal"):
            if database.with_name(database.name + suffix).exists():
                shutil.copy2(database.with_name(database.name + suffix), Path(scratch, f"copy.db{suffix}"))
        copy = Path(scratch, "copy.db")
        sqlite3.connect(copy).execute("SELECT count(*) FROM bodies").fetchone()
        claims = claims_of(copy)
    found = []
    for claim in claims:
        path = database.with_name(f"{database.name}-claims") / claim.name
        if not path.is_file() or path.stat().st_size != claim.size or zlib.crc32(path.read_bytes()) != claim.crc:
            found.append(claim.name)
    return found


def orphans(database: Path) -> list[str]:
    """Files, references and entries of the list of the doomed that are left."""
    reader = sqlite3.connect(database)
    rows = [f"doomed {number}" for (number,) in reader.execute("SELECT number FROM doomed")]
    rows += [f"body {number}" for (number,) in reader.execute("SELECT number FROM bodies")]
    reader.close()
    directory = database.with_name(f"{database.name}-claims")
    return rows + [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def campaign(cycles: int, seed: int, durability: str, directory: Path) -> dict[str, object]:
    """Run the cycles and the drain; the figures, all violations counted."""
    database = directory / "claims.db"
    url = f"sqlite:///{database}?durability={durability}&log_bytes=65536"
    oracle, dice, crashed, gone, unreferenced = Oracle(), random.Random(seed), [], [], 0
    for cycle in range(cycles):
        process = start(url, str(cycle), str(seed))
        listen(process, oracle, dice.uniform(0.02, 0.4))
        crashed += complaints(process, expected=-signal.SIGKILL)
        oracle.new_process()
        gone += missing(database)
        unreferenced += sum(path.is_file() for path in Path(f"{database}-claims").rglob("*"))
        if crashed:
            break
    process = start(url, "drain", "0")
    listen(process, oracle, None)
    crashed += complaints(process, expected=0)
    return {
        "campaign": "claims_kills",
        "seed": seed,
        "durability": durability,
        "cycles": cycles,
        "sent": len(oracle.sent),
        "acked": len(oracle.acked),
        "redelivered": oracle.redelivered,
        "files_at_kills": unreferenced,
        "lost": len(oracle.lost()),
        "undead": len(oracle.undead),
        "ghosts": len(oracle.ghosts),
        "missing": len(gone),
        "orphans": len(orphans(database)),
        "quarantined": len(oracle.left),
        "crashed": crashed,
    }


def clean(result: dict[str, object]) -> bool:
    """Nothing that must not happen has happened."""
    names = ("lost", "undead", "ghosts", "missing", "orphans", "quarantined", "crashed")
    return not any(result[name] for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="claims-kills-") as directory:
        result = campaign(options.cycles, options.seed, options.durability, Path(directory))
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        url, cycle, seed = sys.argv[2:5]
        anyio.run(drain, url) if cycle == "drain" else anyio.run(child, url, int(cycle), int(seed))
    else:
        sys.exit(main())
