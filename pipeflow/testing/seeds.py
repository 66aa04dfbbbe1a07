"""Every harness runs on a seed, and the seed of one that failed can be asked for again."""

from __future__ import annotations

from pipeflow.names import new_secret

_CHOICES = 1_000_000


class Seeds:
    """The seed of this run of tests, and those the current test has used."""

    __slots__ = ("run", "used")

    def __init__(self, run: int | None = None) -> None:
        self.run = run
        """What harnesses take that name none; chosen at first use."""
        self.used: list[int] = []

    def choose(self, seed: int | None) -> int:
        """The seed itself, or this run's; remembered until the next test begins."""
        if seed is None:
            if self.run is None:
                self.run = int.from_bytes(new_secret(4), "big") % _CHOICES
            seed = self.run
        self.used.append(seed)
        return seed

    def begin_test(self) -> None:
        """Forget what the test before has used."""
        self.used.clear()


seeds = Seeds()
"""Shared by the harness and the pytest plugin of this process."""
