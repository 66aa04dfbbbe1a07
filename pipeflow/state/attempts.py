"""Receives that may be repeated: who lost the answer asks again with the same id and gets the same (SQS: Q57)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
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
        self._made: OrderedDict[str, tuple[float, list[tuple[int, int, float]]]] = OrderedDict()
        """By id: when it was, and (place, receive, deadline) of what it brought."""

    def repeated(self, id: str, now: float, known: Mapping[int, Stored]) -> list[Stored] | None:
        """The messages of the receive with this id, if each is as that receive left it; else None, from then on.

        `known` is what the queue has, by place.
        """
        made = self._made.pop(id, None)
        if made is None or now - made[0] >= REPEATABLE or not made[1]:
            return None
        messages: list[Stored] = []
        for place, receive, until in made[1]:
            message = known.get(place)
            if message is None or (message.state, message.receives) != (IN_FLIGHT, receive) or message.until != until:
                return None
            messages.append(message)
        return messages

    def note(self, id: str, taken: list[Stored], now: float) -> None:
        """A receive with this id brought these, and they are as they are now."""
        self._made[id] = now, [(message.place, message.receives, message.until) for message in taken]
        while self._made and (len(self._made) > KEPT or now - next(iter(self._made.values()))[0] >= REPEATABLE):
            self._made.popitem(last=False)
