"""A Bytewax flow over prepared records, in a process of its own: it runs until its source ends, and owns the signals.

    python benchmarks/_bytewax_flow.py plain|gzip records.txt out [level]

plain: its own FileSink, a line a record. gzip: `collect` up to 5 MiB worth of records, joined and compressed. The last
line of stdout is [seconds, CPU seconds] of the flow, without the interpreter's start.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import TestingSource, run_main

SIZE = 5 << 20
BATCH = 500


class Objects(StatelessSinkPartition[bytes]):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def write_batch(self, items: list[bytes]) -> None:
        for item in items:
            (self.folder / f"{self.count}.gz").write_bytes(item)
            self.count += 1


class ObjectSink(DynamicSink[bytes]):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Objects:
        return Objects(self.folder)


def plain(records: list[str], out: Path) -> Dataflow:
    flow = Dataflow("plain")
    lines = op.input("in", flow, TestingSource([("", record) for record in records], BATCH))
    op.output("out", lines, FileSink(out / "lines"))
    return flow


def gzipped(records: list[bytes], out: Path, level: int) -> Dataflow:
    flow = Dataflow("gzip")
    lines: Any = op.input("in", flow, TestingSource([("", record) for record in records], BATCH))
    gathered = op.collect("gather", lines, timedelta(seconds=60), SIZE // (len(records[0]) + 1))
    made = op.map("gzip", gathered, lambda each: gzip.compress(b"\n".join([*each[1], b""]), level))
    op.output("out", made, ObjectSink(out))
    return flow


def main() -> None:
    kind, source, folder, *level = sys.argv[1:]
    records = Path(source).read_bytes().splitlines()
    out = Path(folder)
    if kind == "plain":
        flow = plain([record.decode() for record in records], out)
    else:
        flow = gzipped(records, out, int(level[0]))
    began, busy = time.perf_counter(), time.process_time()
    run_main(flow)
    print(json.dumps([time.perf_counter() - began, time.process_time() - busy]))


if __name__ == "__main__":
    main()
