"""The messages of a FIFO queue's tail that wait for a delay: how many they are, and when the next one comes due.

They lie among the others, in order of place, so that nothing of their group is read before them (SQS: Q75). An index
tells when each comes due: from then on it is counted as ready, wherever it lies. A new delay of the queue is for what
still waits, too (Q17): those rows are written anew, a page at a time, and what was not written yet is read as if it
were.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pipeflow.embedded.ending import PAUSE
from pipeflow.embedded.journal import PLACE_MASK, Heads, Journal
from pipeflow.state.stored import DELAYED, Stored, redelay

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

PAGE: Final = 1_000
"""Rows that one look reads."""
BEHIND_ALL: Final = 1 << 62
"""A row that none lies behind."""
ALL: Final = (inf, 0)
"""(due, row) that no row lies behind."""


class Delays:
    """Which messages of one FIFO queue's tail still wait."""

    __slots__ = ("at", "count", "_after", "_begun", "_examined", "_head", "_journal", "_passed", "_retries", "_written")

    def __init__(self, head: Head, journal: Journal) -> None:
        self.at = inf
        """Before this none comes due."""
        self.count = 0
        self._retries = 0
        self._examined = ALL
        """(due, row) of the last one of which is known whether it waits for a retry."""
        self._passed = (0.0, 0)
        """(due, row) of the last one that has come due. Exactly those behind it are counted."""
        self._after = (0.0, 0)
        """(due, row) of the last one that was looked at for the queue's new delay."""
        self._begun = 0.0
        self._written: dict[int, tuple[float, float]] = {}
        """By place: (due, kept from) that a row got while somebody reads, who may have read what it had before."""
        self._head = head
        self._journal = journal

    def recall(self, moment: float, count: int) -> None:
        """Go on after a restart: so many rows come due after this moment."""
        self._passed = (moment, BEHIND_ALL)
        self.count = count
        self._examined = self._passed if count else ALL
        if count or self._head.counters.redelayed_at:
            self.at = 0.0
        self._after = (self._head.counters.redelayed_at, BEHIND_ALL)

    def clear(self) -> None:
        """Nothing lies here any more."""
        counters = self._head.counters
        self.at, self.count, self._retries, self._examined = inf, 0, 0, ALL
        counters.redelayed_at, counters.redelayed_upto = 0.0, 0
        self._written.clear()

    def unwatched(self) -> None:
        """Nobody has anything in hand that was read before it was written anew."""
        self._written.clear()

    @property
    def retrying(self) -> int:
        """How many of them wait for a retry: after a restart all, until each was looked at."""
        return self._retries if self._examined == ALL else self.count

    # -- in and out ----------------------------------------------------------------------------------------------

    def comes(self, message: Stored) -> None:
        """A message that waits lies on disk only from now on, or is about to."""
        self.count += 1
        if message.until < self.at:
            self.at = message.until

    def leaves(self, message: Stored) -> None:
        """A message that was read from the disk leaves the tail; it is told how long it waits, if it knows no more."""
        written = self._written.get(message.place)
        if written is not None:
            message.until, message.kept_from = written
        if self._waits(message):
            self._wait_ends(message)

    def lost(self, row: int, due: float | None) -> None:
        """A damaged row leaves the tail."""
        written = self._written.get(row & PLACE_MASK)
        if written is not None:
            due = written[0]
        if due is not None and (due, row) > self._passed:
            self.count -= 1
            self._retries = min(self._retries, self.count)

    def _waits(self, message: Stored) -> bool:
        return message.state == DELAYED and (message.until, message.row) > self._passed

    def _wait_ends(self, message: Stored) -> None:
        self.count -= 1
        if message.receives and (message.until, message.row) <= self._examined:
            self._retries -= 1

    # -- the queue has another delay -----------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether all rows tell how long they wait."""
        return not self._head.counters.redelayed_at

    def respec(self, now: float) -> None:
        """What has not come due waits for another delay from now on. An earlier change has been `settled`."""
        counters = self._head.counters
        counters.redelayed_at, counters.redelayed_upto = now, counters.last_place
        self._after = (now, BEHIND_ALL)
        self.at = 0.0

    def redelay(self, message: Stored) -> bool:
        """Let a message that was read wait for the queue's new delay, if its row does not yet; whether that is so."""
        counters = self._head.counters
        if not counters.redelayed_at < message.until or message.place > counters.redelayed_upto:
            return False
        if message.state != DELAYED or message.receives:
            return False
        before = message.until
        redelay(message, self._head.spec.delay)
        return message.until != before

    def kept_from(self, message: Stored) -> float:
        """From when the retention of a message that was read counts."""
        if self.settled:
            return message.kept_from
        as_it_will_be = replace(message)
        self.redelay(as_it_will_be)
        return as_it_will_be.kept_from

    # -- time ----------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> bool:
        """Whether there is something to look at. What comes from now on is told apart: the look may not see it."""
        if self.at > now:
            return False
        self.at, self._begun = inf, now
        return True

    async def look(self) -> None:
        """Count some of what has come due as ready, or write some rows as they wait from now on."""
        if not self.settled:
            await self._write_anew()
            return
        if self.count:
            await self._pass()
        if self._examined != ALL:
            await self._examine()

    async def _pass(self) -> None:
        begun = self._begun
        found = await self._journal.load_ending(self._head.number, "due", self._passed, PAGE)
        self._set_aside(found)
        for message in found.messages:
            if message.until > begun:
                self.at = min(self.at, max(message.until, begun + PAUSE))
                return
            if self._lies_here(message):
                self._wait_ends(message)
            self._passed = (message.until, message.row)
        if found.rows == PAGE:
            self._passed = max(self._passed, min(found.last, (begun, BEHIND_ALL)))
            self.at = begun

    async def _examine(self) -> None:
        self._examined = max(self._examined, self._passed)
        found = await self._journal.load_ending(self._head.number, "due", self._examined, PAGE)
        if self._examined == ALL:
            return  # a purge cleared it all
        for message in found.messages:
            if message.receives and self._lies_here(message) and self._waits(message):
                self._retries += 1
        self._examined = found.last if found.rows == PAGE else ALL
        self.at = self._begun

    async def _write_anew(self) -> None:
        head, counters = self._head, self._head.counters
        after = self._after
        found = await self._journal.load_ending(head.number, "due", after, PAGE)
        if self.settled or self._after is not after:
            return  # a purge left nothing to write, and maybe there was another change behind it
        self._set_aside(found)
        for message in found.messages:
            if not self._lies_here(message) or message.place in self._written:
                continue
            waits = self._waits(message)
            if self.redelay(message):
                if waits:
                    self._wait_ends(message)
                if self._waits(message):
                    self.comes(message)
                self._written[message.place] = message.until, message.kept_from
                head.tail.ending.comes(message)
                head.changed(message)
        if found.rows == PAGE:
            self._after = found.last
        else:
            counters.redelayed_at, counters.redelayed_upto = 0.0, 0
            head.touch()
        self.at = self._begun

    def _lies_here(self, message: Stored) -> bool:
        """Whether a message that was read is on disk only."""
        tail = self._head.tail
        return tail.has(message) and not tail.has_left(message.place)

    def _set_aside(self, found: Heads) -> None:
        if found.damaged:
            # Of a damaged row nobody can tell whether its message is in memory but by looking for its place there.
            here = {message.place for message in self._head.state.all()}
            lost = {row: due for due, row in found.damaged if row & PLACE_MASK not in here}
            self._head.tail.set_aside([*lost], lost)
