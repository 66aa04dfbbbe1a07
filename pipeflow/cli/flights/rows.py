"""The flights of January 2013 as they stand in the file: one value a row, in the file's order."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from importlib.resources import files
from io import TextIOWrapper
from typing import Literal, TypeAlias

import msgspec

Known: TypeAlias = int | Literal["NA"]
"""A figure, or the file's word for one that never came to be: the flight was cancelled or did not arrive."""


class Flight(msgspec.Struct, frozen=True):
    """One row, columns and spelling as in the file."""

    year: int
    month: int
    day: int
    dep_time: Known
    sched_dep_time: int
    dep_delay: Known
    arr_time: Known
    sched_arr_time: int
    arr_delay: Known
    carrier: str
    flight: int
    tailnum: str
    origin: str
    dest: str
    air_time: Known
    distance: int
    hour: int
    minute: int
    time_hour: str


TOTAL = 27_004


def january() -> Iterator[Flight]:
    """Every flight of the month."""
    packed = files(__package__).joinpath("flights-2013-01.csv.gz")
    with packed.open("rb") as raw, gzip.open(raw) as unpacked, TextIOWrapper(unpacked, newline="") as text:
        for row in csv.DictReader(text):
            # Not strict: the file holds text, and 517 has to become a number.
            yield msgspec.convert(row, Flight, strict=False)
