"""What would one take instead of a pipeflow queue, and how many messages a second does that carry?

Send, receive and acknowledge of 1 KiB, each caller awaiting every one of its own calls, singly and in batches of 10,
consumers 5,000 to 15,000 messages behind. Against systems that sync before they answer, and against those that sync
later or never; what is not there is skipped, with the reason. Each runs in a process of its own, with a server of its
own on the loopback and its files beside pipeflow's store, and is measured while the others rest. Rounds are
interleaved; ratios are medians of the rounds' own. Every message is told apart, and has to come back once, as it was.

    python benchmarks/brokers.py [--rounds N] [--seconds S] [--callers N ...] [--batches N ...] [--only WORD ...]
                                 [--minutes M] [--write] [--quick]

`--write` puts the figures into docs/brokers.md and README.md, and their picture into docs/brokers.svg.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import inf
from pathlib import Path

from _brokers.peer import Wrong
from _brokers.report import Measured, Rounds, ours, tell, write
from _brokers.running import Running
from _brokers.systems import SYSTEMS, System

HERE = Path(__file__).resolve().parent
REST = 5.0
HOPELESS = 20
"""Times slower than pipeflow in the first round: such a system rests in the others."""


@contextmanager
def running(systems: Sequence[System], folder: Path, behind: int) -> Iterator[list[Running]]:
    """Each with its messages behind it, where it is there. They start together: nothing is measured yet."""
    started = [Running(system, folder / str(number), behind) for number, system in enumerate(systems)]
    try:
        for each in started:
            if each.missing is not None:
                print(f"{each.system.name}: skipped, {each.missing}", file=sys.stderr)
        # What they still have to do after being filled is not to fall into somebody's time.
        time.sleep(min(REST, behind / 1_000))
        yield started
    finally:
        for each in started:
            each.close()


def measure(
    there: Sequence[Running], cells: Sequence[tuple[int, int]], rounds: int, seconds: float, until: float
) -> Measured:
    """By cell and system: what each round gave, to begin with the first. No round is begun that would end too late.

    What fails is left out from then on, with what it gave before.
    """
    found: Measured = {cell: {each.system: [] for each in there} for cell in cells}
    for number in range(rounds):
        began = time.monotonic()
        # Every other round the other way about, so that nobody always follows the same one.
        order = there if number % 2 == 0 else there[::-1]
        for cell in cells:
            for each in order:
                if each.failure is None and (number == 0 or not hopeless(found[cell], each.system)):
                    try:
                        found[cell][each.system].append(each.drive(*cell, seconds))
                    except Wrong as wrong:
                        each.failure = str(wrong)
                        print(f"{each.system.name}: {wrong}", file=sys.stderr)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        if 2 * time.monotonic() - began > until:
            break
    failed = {each.system for each in there if each.failure is not None}
    return {cell: {s: rounds for s, rounds in by.items() if s not in failed} for cell, by in found.items()}


def hopeless(cell: dict[System, Rounds], system: System) -> bool:
    """Whether it was so slow in the first round that the others would take all the time there is."""
    mine = ours(cell, system.kind)
    return mine is not None and cell[system][0]["per_second"] * HOPELESS < mine[0]["per_second"]


def main() -> int:
    parser = argparse.ArgumentParser(description="durable queues, side by side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="how long each system is measured in each round")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--minutes", type=float, default=inf, help="begin no round that would end later than this")
    parser.add_argument("--behind", type=int, default=10_000, help="messages; half of it more or less, meanwhile")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="systems whose name has one of these words, any case")
    parser.add_argument("--write", action="store_true", help="put figures and picture into the documentation")
    parser.add_argument("--quick", action="store_true", help="a second or two of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.callers, options.behind = 1, 0.02, [8], 400
    began = time.monotonic()
    words = [word.lower() for word in options.only or [""]]
    systems = [system for system in SYSTEMS if any(word in system.name.lower() for word in words)]
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder,
        running(systems, Path(folder), options.behind) as started,
    ):
        there = [each for each in started if each.missing is None]
        cells = list(product(options.callers, options.batches))
        found = measure(there, cells, options.rounds, options.seconds, began + 60 * options.minutes)
    absent = {each.system: why for each in started if (why := each.missing or each.failure) is not None}
    tell(found, absent)
    if options.write:
        write(found, absent, HERE.parent)
    return 1 if any(each.failure for each in started) else 0


if __name__ == "__main__":
    sys.exit(main())
