"""Which groups of a FIFO queue come into memory next: those whose first message on disk is the oldest (SQS: Q76).

The rows of the tail are passed once, in order of place, and of each group it is noted where it has more. So a load
costs what it brings, however long the backlog is and however much of it belongs to groups that are blocked. Behind very
much of those, groups are found by their names, so that none hides the others (Q80).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pipeflow.embedded.journal import Journal, Loaded
from pipeflow.state.groups import Groups

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

GROUP_HEAD: Final = 64
"""Messages of one group that are loaded at a time."""
TOGETHER: Final = 8
"""Groups that one hop to the disk reads: commits wait for it."""
PASSED: Final = 4_000
"""Rows that one hop passes: some 4 ms."""
HOPS: Final = 10
"""Hops of one load after which groups are found by their names."""

TakeIn = Callable[[Loaded], int]


class Roll:
    """How far the tail of one FIFO queue was passed, and which groups have more there."""

    __slots__ = ("upto", "_by_name", "_groups", "_head", "_journal", "_more")

    def __init__(self, head: Head, groups: Groups, journal: Journal) -> None:
        self.upto = head.counters.purged_upto
        """All rows up to this place were passed."""
        self._more: dict[str, int] = {}
        """By group: a place before which none of its messages is on disk only. From there on it may have some."""
        self._by_name = ""
        self._groups = groups
        self._head = head
        self._journal = journal

    def begin_behind(self, place: int) -> None:
        """Nothing up to this place is on disk only."""
        self.upto = place
        self._more.clear()

    async def load(self, limit: int, take_in: TakeIn) -> int:
        """Bring about so many messages into memory; how many rows that were."""
        found = await self._bring(limit, take_in)
        if found >= limit:
            return found
        groups = max(1, limit // GROUP_HEAD)
        for _ in range(HOPS):
            here = frozenset(self._groups.names())
            behind = max(self.upto, self._head.counters.purged_upto)
            met = await self._journal.pass_over(self._head.number, behind, here, groups, PASSED)
            for name, place in met.first.items():
                self._more.setdefault(name, place)
            self.upto = max(behind, met.last)
            if met.others or self._wanted():
                return found + await self._bring(limit, take_in)
            if met.rows < PASSED:
                # Of those that are here there may be more behind what was passed just now.
                return found or await self._bring(limit, take_in)
        if found or self._groups.available():
            # The next load passes more.
            return found
        return await self._find_by_name(groups, limit, take_in)

    async def _bring(self, limit: int, take_in: TakeIn) -> int:
        """More of the groups that have more, the oldest first."""
        head, found, wanted = self._head, 0, self._wanted()
        size = min(GROUP_HEAD, limit)
        for start in range(0, len(wanted), TOGETHER):
            behind = [(name, self._behind(name, place)) for place, name in wanted[start : start + TOGETHER]]
            for (name, _), loaded in zip(
                behind, await self._journal.load_of_groups(head.number, behind, size), strict=True
            ):
                found += take_in(loaded)
                if len(loaded.messages) + len(loaded.damaged) < size:
                    self._more.pop(name, None)
                else:
                    self._more[name] = loaded.last + 1
            if found >= limit or not head.has_room:
                break
        return found

    def _wanted(self) -> list[tuple[int, str]]:
        """(place, group) of those that are short here and have more, the oldest first.

        What lies behind all that was passed is not older than what others may have there: its turn comes.
        """
        wanted: list[tuple[int, str]] = []
        for name, place in [*self._more.items()]:
            if length := self._groups.length(name):
                place = max(place, self._groups.last_place(name) + 1)
            if place > self.upto:
                if not length:
                    del self._more[name]  # it is met again then
            elif length < GROUP_HEAD // 2:
                wanted.append((place, name))
        wanted.sort()
        return wanted

    def _behind(self, name: str, place: int) -> int:
        return max(self._groups.last_place(name) or place - 1, self._head.counters.purged_upto)

    async def _find_by_name(self, groups: int, limit: int, take_in: TakeIn) -> int:
        here, size, found = self._groups.names(), min(GROUP_HEAD, limit), 0
        upto = self._head.counters.purged_upto
        for start in (self._by_name, "") if self._by_name else ("",):
            loaded = await self._journal.load_groups(self._head.number, start, here, upto, groups, size)
            found += take_in(loaded)
            if loaded.messages:
                self._by_name = loaded.messages[-1].group or ""
                return found
            self._by_name = ""
        return found

    async def load_upto(self, name: str, place: int, take_in: TakeIn) -> None:
        """Bring one group into memory from its first message to `place`."""
        last = max(self._groups.last_place(name), self._head.counters.purged_upto)
        while last < place:
            (loaded,) = await self._journal.load_of_groups(self._head.number, [(name, last)], GROUP_HEAD)
            take_in(loaded)
            if not loaded.last:
                return
            last = loaded.last
