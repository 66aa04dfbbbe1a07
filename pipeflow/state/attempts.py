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
    """The receives of one FIFO queue that had an id, since the store was opened."""

    __slots__ = ("_made", "_newest")

    def __init__(self) -> None:
        self._made: OrderedDict[str, tuple[float, list[tuple[int, int]]]] = OrderedDict()
        """By id: when it was, and (place, receive) of what it brought."""
        self._newest: dict[int, str] = {}
        """By place: the last receive that brought this message."""

    def repeated(self, id: str, now: float, known: Mapping[int, Stored]) -> list[Stored] | None:
        """The messages of the receive with this id, if each is as that receive left it; else None.

        `known` is what the queue has, by place.
        """
        made = self._made.get(id)
        if made is None or now - made[0] >= REPEATABLE or not made[1]:
            return None
        messages: list[Stored] = []
        for place, receive in made[1]:
            message = known.get(place)
            if message is None or (message.state, message.receives) != (IN_FLIGHT, receive):
                return None
            messages.append(message)
        return messages

    def note(self, id: str, taken: list[Stored], now: float) -> None:
        """A receive with this id brought these, and they are as they are now."""
        self._forget(id)
        self._made[id] = now, [(message.place, message.receives) for message in taken]
        for message in taken:
            self._newest[message.place] = id
        while self._made and (len(self._made) > KEPT or now - next(iter(self._made.values()))[0] >= REPEATABLE):
            self._forget(next(iter(self._made)))

    def changed(self, place: int) -> None:
        """How long this message is hidden was changed, be it to the same moment: who brought it cannot be repeated."""
        id = self._newest.get(place)
        if id is not None:
            self._forget(id)

    def _forget(self, id: str) -> None:
        made = self._made.pop(id, None)
        for place, _ in made[1] if made is not None else ():
            if self._newest.get(place) == id:
                del self._newest[place]
