"""Reads what `pipeflow demo` left behind and compares it with the source, with nothing but the standard library.

    python examples/flights/check.py DIRECTORY

Prints one JSON object; ends with 1 when a flight is missing, foreign or there twice.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "pipeflow" / "cli" / "flights" / "flights-2013-01.csv.gz"

Row = tuple[str, ...]


def rows_of_the_source() -> Iterator[Row]:
    with gzip.open(SOURCE, "rt", newline="") as text:
        yield from (tuple(row.values()) for row in csv.DictReader(text))


def rows_in_files(lake: Path) -> Iterator[Row]:
    for path in sorted(lake.rglob("*.gz")):
        with gzip.open(path, "rt") as lines:
            yield from (tuple(str(value) for value in json.loads(line).values()) for line in lines)


def compare(directory: Path) -> dict[str, int]:
    """How many rows the source and the files have, and how many are missing, foreign or there more than once."""
    source, found = Counter(rows_of_the_source()), Counter(rows_in_files(directory / "lake"))
    return {
        "source": source.total(),
        "files": found.total(),
        "missing": (source - found).total(),
        "twice": sum(times - 1 for times in found.values() if times > 1),
        "foreign": sum(row not in source for row in found),
    }


def main() -> int:
    figures = compare(Path(sys.argv[1]))
    print(json.dumps(figures))
    return int(any(figures[name] for name in ("missing", "twice", "foreign")))


if __name__ == "__main__":
    sys.exit(main())
