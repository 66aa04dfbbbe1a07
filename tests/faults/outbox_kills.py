"""SIGKILL a program that writes orders and their messages in one transaction, and compare orders with messages.

    python tests/faults/outbox_kills.py [cycles] [--seed N] [--durability full|normal]

A child process inserts orders into its own SQLite file, each with a message in the outbox, singly and many in one
transaction, commits most and rolls some back, while its app relays and handles. The parent kills it, starts the next on
the same files, and lets the last one run until it is idle. What the program committed is what lies in its table. The
rules:

- lost: an order was committed and its message was never handled
- ghosts: a message was handled whose order was rolled back or never committed
- doubled: the queue took in more messages than there are orders, by its own durable counter
- left: rows are in the outbox though everything was relayed
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen

import anyio

from pipeflow import App, Message
from queue_kills import complaints, tell

IN_ONE = (1, 1, 1, 3, 20)


class Program:
    """The app, and the writer of its database."""

    def __init__(self, directory: Path, durability: str) -> None:
        self.database = directory / "app.db"
        self.app = App("shop", broker=f"sqlite:///{directory}/shop.db?durability={durability}&log_bytes=65536")
        self.orders = self.app.topic("orders", str)
        self.billing = self.app.queue("billing", str, self.orders, max_receives=None)
        self.outbox = self.app.outbox(str(self.database))

        @self.billing.handler
        async def bill(message: Message[str]) -> None:
            tell("got", "billing", [message.body])

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.database, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS orders (key TEXT PRIMARY KEY)")
        return connection

    def write(self, cycle: int, seed: int) -> None:
        """Orders without end."""
        dice, numbers, connection = random.Random(seed * 1_000_003 + cycle), count(), self.connect()
        while True:
            for _ in range(dice.choice(IN_ONE)):
                key = f"{cycle}.{next(numbers)}"
                connection.execute("INSERT INTO orders VALUES (?)", (key,))
                self.outbox.publish(connection, self.orders, key)
            if dice.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
            if dice.random() < 0.3:
                # Else the relay never has its turn to delete rows, which is to be killed too.
                time.sleep(dice.uniform(0.005, 0.05))


async def child(program: Program, cycle: int, seed: int) -> None:
    async with program.app.running():
        tell("ready", "-", ["-"])
        threading.Thread(target=program.write, args=(cycle, seed), daemon=True).start()
        await anyio.sleep_forever()


async def drain(program: Program) -> None:
    """Run until everything is relayed and handled; then what the store counted and what the outbox holds."""
    async with program.app.running() as runtime:
        await runtime.until_idle()
        stats = await runtime.store.stats()
        tell("sent", "billing", [str(queue.sent) for queue in stats.queues if queue.name == "billing"])
        await anyio.sleep(3)
        await runtime.until_idle()


def start(*arguments: str) -> Popen[bytes]:
    return Popen([sys.executable, __file__, "--child", *arguments], stdout=PIPE, stderr=PIPE)


def heard(process: Popen[bytes], seconds: float | None) -> list[list[str]]:
    """What a child tells until it is killed, so many seconds after it is ready, or ends."""
    assert process.stdout is not None
    told: list[list[str]] = []

    def listen() -> None:
        assert process.stdout is not None
        told.extend(line.decode().split() for line in process.stdout if line.endswith(b"\n"))

    listener = threading.Thread(target=listen)
    listener.start()
    if seconds is not None:
        while process.poll() is None and not any(step[0] == "ready" for step in list(told)):
            time.sleep(0.005)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    listener.join()
    return told


def campaign(cycles: int, seed: int, durability: str, directory: Path) -> dict[str, object]:
    """Run the cycles and the drain; the figures, all violations counted."""
    dice, crashed, handled, sent = random.Random(seed), [], set[str](), 0
    for cycle in range(cycles):
        process = start(str(directory), durability, str(cycle), str(seed))
        handled |= {step[2] for step in heard(process, dice.uniform(0.02, 0.5)) if step[0] == "got"}
        crashed += complaints(process, expected=-signal.SIGKILL)
        if crashed:
            break
    process = start(str(directory), durability, "drain", "0")
    for step, _, value in heard(process, None):
        if step == "got":
            handled.add(value)
        else:
            sent = int(value)
    crashed += complaints(process, expected=0)
    reader = sqlite3.connect(directory / "app.db")
    orders = {key for (key,) in reader.execute("SELECT key FROM orders")}
    left = reader.execute("SELECT count(*) FROM pipeflow_outbox").fetchone()[0]
    reader.close()
    return {
        "campaign": "outbox_kills",
        "seed": seed,
        "durability": durability,
        "cycles": cycles,
        "orders": len(orders),
        "lost": len(orders - handled),
        "ghosts": len(handled - orders),
        "doubled": sent - len(orders),
        "left": left,
        "crashed": crashed,
    }


def clean(result: dict[str, object]) -> bool:
    """Nothing that must not happen has happened."""
    return not any(result[name] for name in ("lost", "ghosts", "doubled", "left", "crashed"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", nargs="?", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--durability", choices=("full", "normal"), default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outbox-kills-") as directory:
        result = campaign(options.cycles, options.seed, options.durability, Path(directory))
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        place, durability, cycle, seed = sys.argv[2:6]
        program = Program(Path(place), durability)
        anyio.run(drain, program) if cycle == "drain" else anyio.run(child, program, int(cycle), int(seed))
    else:
        sys.exit(main())
