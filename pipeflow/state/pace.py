"""How many messages of a queue may be handed out now: so many in any second, and no more.

Pure and synchronous. What was handed out is remembered for as long as it counts, so that no second, wherever it begins,
has more than is allowed; a bucket of tokens would let two seconds' worth pass in one.
"""

from __future__ import annotations

from collections import deque
from math import inf


class Pace:
    """At most `count` in any `seconds`."""

    __slots__ = ("count", "seconds", "room", "_given")

    def __init__(self, per_second: float) -> None:
        self.count = max(1, int(per_second))
        self.seconds = self.count / per_second
        self.room = self.count
        """How many more may go now."""
        self._given: deque[tuple[float, int]] = deque()

    def took(self, number: int, now: float) -> None:
        """So many went. Those of a thousandth of the time count as the last of them: a thousand entries will do."""
        self.room -= number
        given = self._given
        grain = self.seconds / 1000
        if given and given[-1][0] // grain == now // grain:
            number += given.pop()[1]
        given.append((now, number))

    def tick(self, now: float) -> None:
        """Forget what was long enough ago."""
        given = self._given
        while given and given[0][0] + self.seconds <= now:
            self.room += given.popleft()[1]

    def go_on_from(self, earlier: Pace) -> None:
        """Count what went at another rate until now: of the last of it as much as this one would let go."""
        for at, number in reversed(earlier._given):
            number = min(number, self.room)
            if not number:
                break
            self._given.appendleft((at, number))
            self.room -= number

    @property
    def again(self) -> float:
        """When there will be room where there is none; never, where there is some."""
        return self._given[0][0] + self.seconds if self.room <= 0 and self._given else inf
