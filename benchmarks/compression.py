"""How fast each compression is at each of its levels, and how much smaller it makes what a stream writes.

On the records of the other stream benchmarks, events of 1 KiB, and on a month of real flights as JSON lines. One thread
compresses buffers of 5 MiB, the default, into memory; its processor time is what counts, because compressing waits for
nothing and other programs may. Rounds are interleaved, figures are medians.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable

import msgspec
from _rounds import median, table
from _streaming import records

from pipeflow.cli.flights.rows import january
from pipeflow.errors import MissingExtra
from pipeflow.formats.compress import GZIP_LEVEL, ZSTD_LEVEL, compressor

BUFFER = 5 << 20
LEVELS: dict[str, tuple[int | None, ...]] = {
    "gzip": (1, 2, 3, 4, 6, 9),
    "gzip without isal": (1, 2, 3),
    "zip": (1, 3, 6),
    "zstd": (1, 2, 3, 4, 6, 9, 12, 15, 19),
    "snappy": (None,),
    "hadoop-snappy": (None,),
}
DEFAULTS = {"gzip": GZIP_LEVEL, "gzip without isal": GZIP_LEVEL, "zip": GZIP_LEVEL, "zstd": ZSTD_LEVEL}
SLOW = 8
"""Levels from here on get a part of the content: they are there for the ratio."""

Pack = Callable[[bytes], bytes]


def contents(megabytes: int) -> dict[str, list[bytes]]:
    """Buffers of JSON lines by the name of their records."""
    events = b"\n".join([*records(1024, megabytes << 10), b""])
    encode = msgspec.json.Encoder().encode
    flights = b"".join([encode(flight) + b"\n" for flight in january()])[: megabytes << 20]
    return {name: _cut(content) for name, content in (("events", events), ("flights", flights))}


def _cut(content: bytes) -> list[bytes]:
    return [content[start : start + BUFFER] for start in range(0, len(content), BUFFER)]


def packers() -> dict[tuple[str, int | None], Pack]:
    """What is measured; without those whose package is not installed."""
    found: dict[tuple[str, int | None], Pack] = {}
    for name, levels in LEVELS.items():
        for level in levels:
            try:
                found[name, level] = _packer(name, level)
            except MissingExtra as error:
                print(f"compression: left out: {error}", file=sys.stderr)
                break
    return found


def _packer(name: str, level: int | None) -> Pack:
    if name == "gzip without isal":
        return lambda content: gzip.compress(content, level or GZIP_LEVEL, mtime=0)
    return compressor(name, level)


def timed(pack: Pack, buffers: list[bytes]) -> tuple[float, int]:
    """(seconds of this thread, bytes of what came of them)."""
    began = time.thread_time()
    size = sum(len(pack(buffer)) for buffer in buffers)
    return time.thread_time() - began, size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.megabytes = 1, 1
    for name, buffers in contents(options.megabytes).items():
        measure(name, buffers, options.rounds, options.quick)


def measure(name: str, buffers: list[bytes], rounds: int, quick: bool) -> None:
    taken: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for case, pack in packers().items():
            mine = buffers[:1] if (case[1] or 0) >= SLOW else buffers
            if quick:
                mine = [mine[0][: 64 << 10]]
            total = sum(map(len, mine))
            seconds, size = timed(pack, mine)
            taken.setdefault(case, []).append((total / seconds / 2**20, total / size))
    rows = []
    for (compression, level), figures in taken.items():
        speed, ratio = (median([each[n] for each in figures]) for n in range(2))
        result: dict[str, object] = {
            "records": name,
            "compression": compression,
            "level": level,
            "mib_per_second": round(speed, 1),
            "ratio": round(ratio, 2),
            "default": level in (None, DEFAULTS.get(compression)),
            "rounds": rounds,
        }
        print(json.dumps(result), flush=True)
        rows.append([f"{compression} {level or ''}", result["mib_per_second"], result["ratio"]])
    table(f"Compression of {name}, MiB of content a second", ["", "MiB/s", "ratio"], rows)


if __name__ == "__main__":
    main()
