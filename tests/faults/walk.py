"""A million steps of state machines beside their naive models; also of a broker with three messages in memory.

    python tests/faults/walk.py [STEPS] [--seed N] [--broker STEPS] [--topics STEPS] [--waiting SCHEDULES]

Each walk is some hundred steps long and has a seed of its own, which is printed with what it found: `Walk(kind, seed)`
of the rig walks the same way again. The broker's steps go half to walks with restarts beside the model, half to walks
that die at random moments and are audited. Those of topics restart and die too. Schedules are of
receivers that wait and are cancelled at any moment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rigs"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "properties"))

import naive_fair_queue
from broker_walk import Walk as BrokerWalk
from side_by_side import SPECS, Walk
from test_crash_walks import walked
from topic_walk import Walk as TopicWalk
from waiting_walk import Schedule

from pipeflow.state import fair

MACHINE_STEPS, FAIR_STEPS, BROKER_STEPS, CRASH_STEPS, TOPIC_STEPS = 700, 250, 1000, 200, 500
SCHEDULE_STEPS = 80
"""Of one walk each. Long enough for everything to meet everything, short enough to start with other options often."""


class Campaign:
    """Counts steps, and catches what differs."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.steps = 0
        self.kinds: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.differences: list[str] = []

    def walk(self, kind: str, seed: int, steps: int, walking: Callable[[int], dict[str, int]]) -> None:
        try:
            self.met.update(walking(seed))
        except AssertionError:
            traceback.print_exc()
            self.differences.append(f"{kind}, seed {seed}")
        self.steps += steps
        self.kinds[kind] += steps

    def result(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "kinds": dict(self.kinds),
            "met": dict(self.met),
            "differences": self.differences,
            "seconds": round(time.monotonic() - self.began, 1),
        }


def machines(steps: int, seed: int) -> dict[str, Any]:
    """Walk the state machines: every kind of queue in turn, and the order of fair queues."""
    campaign = Campaign()
    while campaign.steps < steps:
        for kind in SPECS:
            campaign.walk(kind, seed, MACHINE_STEPS, partial(_machines, kind))
        campaign.walk("fair order", seed, FAIR_STEPS, _fair)
        seed += 1
    return campaign.result()


def _machines(kind: str, seed: int) -> dict[str, int]:
    walk = Walk(kind, seed)
    walk.walk(MACHINE_STEPS)
    return walk.seen


def _fair(seed: int) -> dict[str, int]:
    walk = naive_fair_queue.Walk(seed)
    walk.walk(FAIR_STEPS)
    return {"of noisy tenants": walk.met_noisy}


def broker(steps: int, seed: int) -> dict[str, Any]:
    """Walk a broker whose memory holds three messages, with restarts and, after each such walk, with crashes."""
    campaign = Campaign()
    while campaign.steps < steps:
        for fifo in (False, True):
            kind = f"cold {'fifo' if fifo else 'standard'}"
            campaign.walk(kind, seed, BROKER_STEPS, partial(_broker, fifo))
        for n in range(2 * BROKER_STEPS // CRASH_STEPS):
            campaign.walk("crashes", seed * 1000 + n, CRASH_STEPS, _crashes)
        seed += 1
    return campaign.result()


def _broker(fifo: bool, seed: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(BrokerWalk("cold", fifo, Path(folder), seed).walk(BROKER_STEPS))
    return {}


def _crashes(seed: int) -> dict[str, int]:
    many, fair.MANY = fair.MANY, 3  # type: ignore[misc]  # noisy tenants are met on a short walk
    try:
        with tempfile.TemporaryDirectory() as folder:
            walk = asyncio.run(walked(Path(folder), seed, "?hot_messages=3&log_bytes=8192", CRASH_STEPS))
    finally:
        fair.MANY = many  # type: ignore[misc]
    return {"lives": walk.lives}


def topics(steps: int, seed: int) -> dict[str, Any]:
    """Walk topics over stores of every kind, with restarts, kills and replays of archives."""
    campaign = Campaign()
    while campaign.steps < steps:
        for kind in ("memory", "sqlite", "cold"):
            campaign.walk(f"topics, {kind}", seed, TOPIC_STEPS, partial(_topics, kind))
        seed += 1
    return campaign.result()


def _topics(kind: str, seed: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        walk = TopicWalk(kind, Path(folder), seed)
        asyncio.run(walk.walk(TOPIC_STEPS))
    return walk.seen


def waiting(schedules: int, seed: int) -> dict[str, Any]:
    """Schedules of receivers that are cancelled: half over memory, the others over disks and through the socket."""
    campaign = Campaign()
    for n in range(schedules):
        kind = "memory" if n % 2 else ("sqlite", "cold", "socket")[n // 2 % 3]
        campaign.walk(f"waiting, {kind}", seed + n, SCHEDULE_STEPS, partial(_waiting, kind))
    return campaign.result()


def _waiting(kind: str, seed: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        schedule = Schedule(kind, Path(folder), seed)
        asyncio.run(schedule.run(SCHEDULE_STEPS))
    return {"schedules": 1, "cancelled": schedule.cancelled, "taken": schedule.taken}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults walk", description=__doc__)
    parser.add_argument("steps", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", type=int, default=0, metavar="STEPS", help="steps over the broker; default 0")
    parser.add_argument("--topics", type=int, default=0, metavar="STEPS", help="steps of topics; default 0")
    parser.add_argument("--waiting", type=int, default=0, metavar="N", help="schedules of receivers; default 0")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"campaign": "walk", "seed": arguments.seed}
    if arguments.steps:
        result["machines"] = machines(arguments.steps, arguments.seed)
    if arguments.broker:
        result["broker"] = broker(arguments.broker, arguments.seed)
    if arguments.topics:
        result["topics"] = topics(arguments.topics, arguments.seed)
    if arguments.waiting:
        result["waiting"] = waiting(arguments.waiting, arguments.seed)
    print(json.dumps(result))
    return 1 if any(part["differences"] for part in result.values() if isinstance(part, dict)) else 0


if __name__ == "__main__":
    sys.exit(main())
