"""What was measured, round by round, kept in a file so that a later run can go on where one stopped."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from _brokers.systems import SYSTEMS, System

Cell = tuple[int, int]
"""Callers, and messages of a call."""
Rounds = dict[int, dict[str, float]]
"""By the number of the round: a figure of each name."""


class Measured(Struct, frozen=True):
    """A system in a cell: its figures, or why it has none."""

    callers: int
    batch: int
    system: str
    figures: dict[str, float] = {}
    failed: str | None = None


class Round(Struct, frozen=True):
    """Every system in every cell, once; a line of the file."""

    run: int
    when: float
    load: float
    behind: int
    seconds: float
    measured: tuple[Measured, ...]
    absent: dict[str, str]
    """By system, why it is not compared."""
    cores: int = os.cpu_count() or 1
    where: str = f"{platform.system()}, Python {platform.python_version()}"


class Results:
    """The rounds so far; those of a file that is there, and each that is added to it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        known = file.read_bytes().splitlines() if file is not None and file.exists() else []
        self.rounds = [msgspec.json.decode(line, type=Round) for line in known]
        self.run = max((each.run for each in self.rounds), default=0) + 1
        self._by_name = {system.name: system for system in SYSTEMS}

    def add(self, measured: Sequence[Measured], absent: dict[System, str], *, behind: int, seconds: float) -> None:
        """A round that has ended, on disk before the next begins."""
        named = {system.name: why for system, why in absent.items()}
        new = Round(self.run, time.time(), os.getloadavg()[2], behind, seconds, tuple(measured), named)
        self.rounds.append(new)
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(new) + b"\n")

    @property
    def cells(self) -> list[Cell]:
        return sorted({(each.callers, each.batch) for _, each in self._all()})

    def of(self, cell: Cell) -> dict[System, Rounds]:
        """Every system that has been measured there, also one that failed each time."""
        found: dict[System, Rounds] = {}
        for number, each in self._all():
            if (each.callers, each.batch) == cell and each.system in self._by_name:
                rounds = found.setdefault(self._by_name[each.system], {})
                if each.failed is None:
                    rounds[number] = each.figures
        return {system: found[system] for system in SYSTEMS if system in found}

    def failures(self, cell: Cell, system: System) -> list[str]:
        """Why it failed there, each time it did."""
        return [
            each.failed
            for _, each in self._all()
            if (each.callers, each.batch) == cell and each.system == system.name and each.failed is not None
        ]

    def absent(self) -> dict[System, str]:
        """Which systems no round has, and why."""
        measured = {each.system for _, each in self._all()}
        return {
            self._by_name[name]: why
            for each in self.rounds
            for name, why in each.absent.items()
            if name in self._by_name and name not in measured
        }

    def _all(self) -> Iterator[tuple[int, Measured]]:
        for number, each in enumerate(self.rounds):
            for measured in each.measured:
                yield number, measured
