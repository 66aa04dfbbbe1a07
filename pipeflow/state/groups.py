"""FIFO message groups: the prefix rule, and fairness between groups.

A message is receivable if it is ready and no message of its group with a smaller sequence is in flight or delayed
(SQS: Q75). Groups are served by the age of their oldest receivable message, each drained before the next (Q76), and a
blocked group never hides another (Q80).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from heapq import heappop, heappush

from pipeflow.state.stored import GONE, READY, Stored


class Groups:
    """The order of a FIFO queue. Messages stay in their group in sequence, whatever their state, until they leave."""

    __slots__ = ("_groups", "_heads", "_walked")

    def __init__(self) -> None:
        self._groups: dict[str, deque[Stored]] = {}
        self._heads: list[tuple[int, str]] = []
        """(sequence of a group's oldest message when it was ready, group); checked when it comes up."""
        self._walked: deque[Stored] | None = None
        """The group a receive is walking through: nothing is taken out of it meanwhile."""

    def add(self, message: Stored) -> None:
        name = message.group or ""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = deque()
        if group and group[-1].place > message.place:
            self._insert(group, message)
        else:
            group.append(message)
        if message.state == READY and self._head(group) is message:
            heappush(self._heads, (message.place, name))

    def ready_again(self, message: Stored, front: bool) -> None:
        name = message.group or ""
        group = self._groups[name]
        head = self._head(group)
        if head is not None and head.state == READY:
            heappush(self._heads, (head.place, name))

    def released_from(self, message: Stored) -> None:
        name = message.group or ""
        group = self._groups.get(name)
        if group is None:
            return
        head = self._head(group)
        if head is None:
            del self._groups[name]
        elif head.state == READY and head.place > message.place:
            heappush(self._heads, (head.place, name))

    def candidates(self, now: float) -> Generator[Stored, None, None]:
        while self.available():
            place, name = self._heads[0]
            self._walked = self._groups[name]
            try:
                for message in self._prefix(self._walked):
                    yield message
                    if message.state == READY:
                        return
            finally:
                self._walked = None
            if self._heads and self._heads[0] == (place, name):
                heappop(self._heads)

    def available(self) -> bool:
        heads = self._heads
        while heads:
            place, name = heads[0]
            group = self._groups.get(name)
            head = self._head(group) if group is not None else None
            if head is not None and head.state == READY and head.place == place:
                return True
            heappop(heads)
        return False

    def receivable(self, most: int) -> int:
        # One receive takes a group's oldest message, and so blocks the group for the next one.
        free: set[str] = set()
        for place, name in self._heads if self.available() else ():
            group = self._groups.get(name)
            head = self._head(group) if group is not None else None
            if head is not None and head.state == READY and head.place == place:
                free.add(name)
                if len(free) == most:
                    break
        return len(free)

    def all(self) -> Iterator[Stored]:
        live = [message for group in self._groups.values() for message in group if message.state != GONE]
        return iter(sorted(live, key=lambda message: message.place))

    def clear(self) -> None:
        self._groups.clear()
        self._heads.clear()

    def last_place(self, name: str) -> int:
        """The greatest sequence of a group that is here; 0 when nothing of it is."""
        group = self._groups.get(name)
        if group is None:
            return 0
        return next((message.place for message in reversed(group) if message.state != GONE), 0)

    def length(self, name: str) -> int:
        """About how many messages of a group are here."""
        group = self._groups.get(name)
        return len(group) if group is not None else 0

    def names(self) -> list[str]:
        """The groups that have messages here."""
        return list(self._groups)

    def _head(self, group: deque[Stored]) -> Stored | None:
        if group is self._walked:
            return next((message for message in group if message.state != GONE), None)
        while group and group[0].state == GONE:
            group.popleft()
        return group[0] if group else None

    @staticmethod
    def _prefix(group: deque[Stored]) -> Iterator[Stored]:
        # Only states change while a receive walks, never the deque itself; gone messages stay until they are in front.
        for message in group:
            if message.state == GONE:
                continue
            if message.state != READY:
                return
            yield message

    @staticmethod
    def _insert(group: deque[Stored], message: Stored) -> None:
        index = len(group)
        while index and group[index - 1].place > message.place:
            index -= 1
        group.insert(index, message)
