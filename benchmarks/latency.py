"""What a durable send waits for: where the time of the slowest hundredth goes, and that of all the others.

64 callers in the backlog form of `queues.py`, 1 KiB, singly. While they run, every group's commit is timed from outside
the store: `log` is the write to the commit log, `sync` its fdatasync, `tables` what goes into SQLite's tables before
their half of the log is written over, `checkpoint` moves SQLite's own log into the file, `hop` is the way to the
connection's thread and back with the encoding of the group, and `loop` everything else: the other callers' own work,
and groups being gathered. A send's time is shared out by what ran meanwhile. The cause is what the slow ones have most
more of. `sync_ms` and `sync_p99_ms` are what a bare fdatasync of 4 KiB takes on the same disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import queues
from _rounds import alone, median, quantile, table

from pipeflow.embedded.sqlite import journal
from pipeflow.embedded.sqlite.commitlog import CommitLog
from pipeflow.embedded.sqlite.connection import Connection

T = TypeVar("T")
CALLERS = 64
TIMED = ("log", "sync", "tables", "checkpoint")
KINDS = (*TIMED, "hop", "loop")
Spans = dict[str, list[tuple[float, float]]]

clock = time.perf_counter


class Timed(sqlite3.Connection):
    """A connection that notes how long each kind of statement took."""

    spans: Spans

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._noted(sql, lambda: super(Timed, self).execute(sql, *values))

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._noted(sql, lambda: super(Timed, self).executemany(sql, *values))

    def _noted(self, sql: str, work: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        return noted(self.spans["checkpoint" if "wal_checkpoint" in sql else "tables"], work)


def noted(spans: list[tuple[float, float]], work: Callable[[], T]) -> T:
    """What the work returns; when it ran goes into the spans."""
    began = clock()
    try:
        return work()
    finally:
        spans.append((began, clock()))


@contextmanager
def watched() -> Iterator[Spans]:
    """While inside, stores that are opened are timed."""
    spans: Spans = {kind: [] for kind in (*KINDS, "group")}
    # What the journal imported is what it calls, so that is what is timed; both are put back below.
    connect, commit = journal.connect, journal.SqliteJournal.commit  # type: ignore[attr-defined]
    append, sync = CommitLog.append, CommitLog.sync
    Timed.spans = spans

    def timed(path: Path) -> Connection:
        def connector() -> sqlite3.Connection:
            return sqlite3.connect(
                str(path), isolation_level=None, check_same_thread=False, cached_statements=256, factory=Timed
            )

        return Connection(connector, iter_chunk_size=64)

    async def whole(self: journal.SqliteJournal, group: Any) -> None:
        began = clock()
        await commit(self, group)
        spans["group"].append((began, clock()))

    def appended(self: CommitLog, frame: bytearray) -> None:
        noted(spans["log"], lambda: append(self, frame))

    def synced(self: CommitLog) -> None:
        noted(spans["sync"], lambda: sync(self))

    CommitLog.append, CommitLog.sync = appended, synced  # type: ignore[method-assign]
    journal.connect = timed  # type: ignore[attr-defined]
    journal.SqliteJournal.commit = whole  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        journal.connect = connect  # type: ignore[attr-defined]
        journal.SqliteJournal.commit = commit  # type: ignore[method-assign]
        CommitLog.append, CommitLog.sync = append, sync  # type: ignore[method-assign]


def run(store: str, seconds: float) -> tuple[queues.Figures, Spans]:
    """The sends of one run, and what ran in the journal."""
    with watched() as spans:
        return alone(queues.run(store, CALLERS, 1, queues.BACKLOG, seconds)), spans


def overlap(spans: list[tuple[float, float]], began: float, ended: float) -> float:
    """How much of the time between two moments the spans cover; they are in order and do not overlap each other."""
    covered = 0.0
    for start, end in spans[max(0, bisect_left(spans, (began, 0.0)) - 1) :]:
        if start >= ended:
            break
        covered += max(0.0, min(end, ended) - max(start, began))
    return covered


def shares(sends: Sequence[tuple[float, float]], spans: Spans) -> dict[str, float]:
    """Milliseconds of a send that went into each kind, on the average."""
    total = dict.fromkeys(KINDS, 0.0)
    for began, ended in sends:
        inside = {kind: overlap(spans[kind], began, ended) for kind in TIMED}
        group = overlap(spans["group"], began, ended)
        inside["hop"] = max(0.0, group - sum(inside.values()))
        inside["loop"] = ended - began - group
        for kind, took in inside.items():
            total[kind] += took
    return {kind: round(took / max(1, len(sends)) * 1e3, 3) for kind, took in total.items()}


def bare_sync(count: int) -> list[float]:
    """Milliseconds of each fdatasync after writing 4 KiB to a growing file."""
    took = []
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        for _ in range(count):
            file.write(bytes(4096))
            file.flush()
            began = clock()
            os.fdatasync(file.fileno())
            took.append((clock() - began) * 1e3)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="what the slowest durable sends wait for")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.1
    stores = ("full", "normal")
    found: dict[str, list[tuple[queues.Figures, Spans]]] = {store: [] for store in stores}
    syncs: list[float] = []
    for _ in range(options.rounds):
        syncs += bare_sync(200)
        for store in stores:
            found[store].append(run(store, options.seconds))
    rows = []
    for store, runs in found.items():
        slow, rest = [], []
        for figures, spans in runs:
            bound = figures.p99 / 1e3
            slow.append(shares([send for send in figures.sends if send[1] - send[0] >= bound], spans))
            rest.append(shares([send for send in figures.sends if send[1] - send[0] < bound], spans))
        of_slow = {kind: median([each[kind] for each in slow]) for kind in KINDS}
        of_rest = {kind: median([each[kind] for each in rest]) for kind in KINDS}
        p99 = median([figures.p99 for figures, _ in runs])
        result = {
            "store": store,
            "callers": CALLERS,
            "send_p50_ms": round(median([figures.p50 for figures, _ in runs]), 3),
            "send_p99_ms": round(p99, 3),
            "send_max_ms": round(median([figures.longest for figures, _ in runs]), 3),
            "slowest_hundredth_ms": of_slow,
            "others_ms": of_rest,
            # What is more of it in a slow send than in the others, not what every send spends.
            "cause": max(KINDS, key=lambda kind: of_slow[kind] - of_rest[kind]),
            "sync_ms": round(median(syncs), 3),
            "sync_p99_ms": round(quantile(sorted(syncs), 0.99), 3),
            "rounds": options.rounds,
        }
        if store == "full":
            result |= {"p99_target_ms": queues.P99_TARGET, "p99_reached": p99 < queues.P99_TARGET}
        print(json.dumps(result), flush=True)
        rows.append((f"{store}: slowest hundredth", *(f"{of_slow[kind]:.2f}" for kind in KINDS), f"{p99:.2f}"))
        rows.append((f"{store}: others", *(f"{of_rest[kind]:.2f}" for kind in KINDS), f"{result['send_p50_ms']:.2f}"))
    table("milliseconds of a send at 64 callers", ("", *KINDS, "p99 / p50"), rows)


if __name__ == "__main__":
    main()
