"""Receives that may be repeated: who lost the answer asks again with the same id and gets the same (SQS: Q57)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pipeflow.state.stored import IN_FLIGHT, Stored

REPEATABLE: Final = 300.0
"""Seconds after a receive in which it can be repeated."""
KEPT: Final = 10_000
"""Receives of one queue that are remembered."""


class Attempts:
    """The receives of one FIFO queue that had an id. A restart forgets them: its boot makes every receipt a new one."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: OrderedDict[str, tuple[float, list[tuple[Stored, int, float]]]] = OrderedDict()

    def repeated(self, id: str, now: float) -> list[Stored] | None:
        """The messages of the receive with this id, if each is as that receive left it; else None, from then on."""
        made = self._made.pop(id, None)
        if made is None or now - made[0] >= REPEATABLE or not made[1]:
            return None
        same = all(
            message.state == IN_FLIGHT and message.receives == receive and message.until == until > now
            for message, receive, until in made[1]
        )
        return [message for message, _, _ in made[1]] if same else None

    def note(self, id: str, taken: list[Stored], now: float) -> None:
        """A receive with this id brought these, and they are as they are now."""
        self._made[id] = now, [(message, message.receives, message.until) for message in taken]
        while self._made and (len(self._made) > KEPT or now - next(iter(self._made.values()))[0] >= REPEATABLE):
            self._made.popitem(last=False)
