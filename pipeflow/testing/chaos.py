"""Seeded misfortune: workers that die and messages that come twice, as often as a test asks for."""

from __future__ import annotations

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.names import Chance


class Chaos(Struct, frozen=True):
    """How likely each delivery meets which misfortune, from 0 (never) to 1 (always).

    `crash`: the worker dies with the message, before the handler is called, at one of its awaits, or after it returned
    and before the acknowledgement. Nothing is settled; the message comes back when its visibility timeout has run out,
    and counts an attempt.
    `duplicate`: the message is given to a second call while the first still works. Only one of them is acknowledged,
    and only what that one published leaves. No attempt is counted.
    """

    crash: float = 0.0
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("crash", self.crash), ("duplicate", self.duplicate)):
            if not 0.0 <= share <= 1.0:
                raise ConfigurationError(f"Chaos: {name} is {share}; use 0 (never) to 1 (always)")


class Misfortune:
    """Decides, delivery by delivery, in the order of deliveries: equal seeds meet equal fates."""

    __slots__ = ("_chaos", "_chance")

    def __init__(self, chaos: Chaos, seed: int) -> None:
        self._chaos = chaos
        self._chance = Chance(seed)

    def crashes(self) -> bool:
        """Whether the worker dies with this delivery."""
        return self._chance.roll() < self._chaos.crash

    def comes_twice(self) -> bool:
        """Whether this delivery is given a second time."""
        return self._chance.roll() < self._chaos.duplicate

    def last_step(self) -> int:
        """How far a call gets that is cut off: not at all, to its nth await, or to the end, unacknowledged."""
        return int(self._chance.roll() * 4)
