"""One broken line, and the tests that are to notice it."""

from __future__ import annotations

from dataclasses import dataclass

STORES = (
    "tests/unit/embedded/test_races.py",
    "tests/unit/embedded/test_recovery.py",
    "tests/unit/embedded/test_durability.py",
    "tests/unit/embedded/test_tail.py",
    "tests/unit/embedded/test_moves.py",
    "tests/conformance",
    "tests/properties/test_crash_walks.py",
    "tests/properties/test_queues_against_a_naive_model.py",
)
"""What a broker's own tests are."""


@dataclass(frozen=True)
class Mutant:
    """One broken line: the first place where it stands in its file."""

    name: str
    path: str
    line: str
    broken: str
    tests: tuple[str, ...] = STORES
