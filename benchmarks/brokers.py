"""What would one take instead of a pipeflow queue, and how many messages a second does that carry?

Send, receive and acknowledge of 1 KiB, each caller awaiting every one of its own calls, singly and in batches of 10,
consumers 5,000 to 15,000 messages behind. Against systems that sync before they answer, and against those that sync
later or never; what is not there is skipped, with the reason. Each runs in a process of its own, with a server of its
own on the loopback and its files beside pipeflow's store, and is measured while the others rest. Rounds are
interleaved; ratios are medians of the rounds' own. Every message is told apart, and has to come back once, as it was.

    python benchmarks/brokers.py [--rounds N] [--seconds S] [--callers N ...] [--batches N ...] [--only WORD ...]
                                 [--minutes M] [--continue FILE] [--write] [--quick]

`--write` puts the figures into docs/brokers.md and README.md, and their picture into docs/brokers.svg. `--continue`
keeps each round in a file when it ends; with a file that has rounds already, only those that are missing are measured.
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
from _brokers.report import ours, tell, write
from _brokers.results import Cell, Measured, Results
from _brokers.running import Running
from _brokers.systems import SYSTEMS, System

HERE = Path(__file__).resolve().parent
REST = 5.0
HOPELESS = 20
"""Times slower than pipeflow when it was first measured: such a system rests from then on."""
FAILURES = 2
"""Of a system in a cell, after which it is not asked there again."""


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


def measure(started: Sequence[Running], cells: Sequence[Cell], results: Results, options: argparse.Namespace) -> None:
    """The rounds that are missing; none is begun that would end too late.

    One that fails begins anew with the next cell, so that it loses no more than the one it failed in.
    """
    absent = {each.system: why for each in started if (why := each.missing) is not None}
    while len(results.rounds) < options.rounds:
        began = time.monotonic()
        number = len(results.rounds)
        # Every other round the other way about, so that nobody always follows the same one.
        order = started if number % 2 == 0 else started[::-1]
        measured = [
            one(each, cell, options.seconds)
            for cell in cells
            for each in order
            if each.missing is None and not rests(results, cell, each.system)
        ]
        results.add(measured, absent, behind=options.behind, seconds=options.seconds)
        print(f"round {number + 1} of {options.rounds}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        if 2 * time.monotonic() - began > options.until:
            break


def one(running: Running, cell: Cell, seconds: float) -> Measured:
    try:
        return Measured(*cell, running.system.name, figures=running.drive(*cell, seconds))
    except Wrong as wrong:
        print(f"{running.system.name}, {cell[0]} callers by {cell[1]}: {wrong}", file=sys.stderr)
        running.restart()
        return Measured(*cell, running.system.name, failed=str(wrong))


def rests(results: Results, cell: Cell, system: System) -> bool:
    """Whether it was so slow at first that the others would take all the time there is, or has failed too often."""
    if len(results.failures(cell, system)) >= FAILURES:
        return True
    found = results.of(cell)
    mine, its = ours(found, system.kind), found.get(system)
    if not mine or not its:
        return False
    first = min(its)
    return first in mine and its[first]["per_second"] * HOPELESS < mine[first]["per_second"]


def main() -> int:
    parser = argparse.ArgumentParser(description="durable queues, side by side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="how long each system is measured in each round")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--minutes", type=float, default=inf, help="begin no round that would end later than this")
    parser.add_argument("--behind", type=int, default=10_000, help="messages; half of it more or less, meanwhile")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="systems whose name has one of these words, any case")
    parser.add_argument("--continue", dest="file", type=Path, help="a file of rounds, to be made or gone on with")
    parser.add_argument("--write", action="store_true", help="put figures and picture into the documentation")
    parser.add_argument("--quick", action="store_true", help="a second or two of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.callers, options.behind = 1, 0.02, [8], 400
    options.until = time.monotonic() + 60 * options.minutes
    results = Results(options.file)
    for each in results.rounds:
        if (each.behind, each.seconds) != (options.behind, options.seconds):
            parser.error(
                f"{options.file} has rounds with --behind {each.behind} --seconds {each.seconds:g}: say the same"
            )
    words = [word.lower() for word in options.only or [""]]
    systems = [system for system in SYSTEMS if any(word in system.name.lower() for word in words)]
    if len(results.rounds) < options.rounds:
        with (
            tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder,
            running(systems, Path(folder), options.behind) as started,
        ):
            measure(started, list(product(options.callers, options.batches)), results, options)
    tell(results)
    if options.write:
        write(results, HERE.parent)
    return 1 if any(each.failed for round in results.rounds for each in round.measured) else 0


if __name__ == "__main__":
    sys.exit(main())
