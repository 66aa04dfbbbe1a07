"""The end of messages that only the disk has: by a time to live of their own, or by their queue's retention (SQS: Q2).

Retention counts from a moment that goes up with places. Where it does not, the group marks the row when it writes it:
marked rows have an index of their own, and so have times to live. All others end in the order of their places. So a
look reads what has ended and what will end next, however much waits behind that.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from pipeflow.embedded.journal import Journal, Way
from pipeflow.state.stored import Stored

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

ENDED: Final = 1_000
"""Messages that have ended and are deleted at a time."""
LEAST: Final = 16
"""Rows that are read where it is not known how many have ended."""
PAUSE: Final = 0.05
"""Seconds between two looks: what ends at many moments would read the disk at each."""


BEGIN: Final = (0.0, 0)


class _Course:
    """One order in which messages end: when to look next, and behind which row."""

    __slots__ = ("way", "at", "after", "step", "due")

    def __init__(self, way: Way, at: float) -> None:
        self.way: Way = way
        self.at = at
        """Before this nothing of it ends."""
        self.after = BEGIN
        """(moment, row) of the last row that was passed, which is gone, marked or in memory; of places (0, place)."""
        self.step = LEAST
        self.due = False
        """A look at it was begun."""


class Ending:
    """When what lies in the tail of one queue ends."""

    __slots__ = ("at", "_calm", "_courses", "_head", "_journal", "_life", "_marked", "_placed")

    def __init__(self, head: Head, journal: Journal, waiting: bool) -> None:
        now_or_never = 0.0 if waiting else inf
        self._life = _Course("expires", now_or_never if head.counters.expiring else inf)
        self._marked = _Course("kept", now_or_never)
        self._placed = _Course("place", now_or_never)
        self._courses = (self._life, self._marked, self._placed)
        self._head = head
        self._journal = journal
        self.at = now_or_never
        """Before this no message here ends."""
        self._calm = inf
        """Who is kept from this moment on, or a later one, ends after the next look in any case."""

    def comes(self, message: Stored) -> None:
        """A message lies on disk only from now on, or is about to."""
        if message.kept_from >= self._calm and message.expires_at >= self._life.at:
            return
        ends = message.kept_from + self._head.spec.retention
        marked, placed = self._marked, self._placed
        # Whether its row will be marked is known when it is written.
        if ends < marked.at:
            marked.at = ends
        if ends < placed.at:
            placed.at = ends
        if message.expires_at < self._life.at:
            self._life.at = message.expires_at
        self._tell()

    def respec(self) -> None:
        """The retention may be another one, or a FIFO queue's delay: look at once (SQS: Q17, Q18)."""
        if self._head.tail.count:
            self._marked.at = self._placed.at = 0.0
        self._tell()

    def clear(self) -> None:
        """Nothing lies here any more."""
        for course in self._courses:
            course.at = inf
        self._tell()

    def begin(self, now: float) -> bool:
        """Whether something may have ended. What comes from now on is told apart: a look may not see it."""
        if self.at > now:
            return False
        for course in self._courses:
            if course.at <= now:
                course.due, course.at = True, inf
        self._tell()
        return True

    async def look(self, now: float) -> None:
        """Delete some of what has ended. What is in memory too goes by itself."""
        for course in self._courses:
            if course.due:
                course.due = False
                await self._follow(course, now)
        self._tell()

    def _tell(self) -> None:
        # A message that comes is compared with little: every send to the tail does that.
        marked, placed = self._marked.at, self._placed.at
        self.at = min(marked, placed, self._life.at)
        self._calm = max(marked, placed) - self._head.spec.retention

    async def _follow(self, course: _Course, now: float) -> None:
        head, tail = self._head, self._head.tail
        if not (tail.ready if course is self._placed else tail.count):
            return
        start = course.after
        if course is self._placed:
            start = (0.0, max(start[1], tail.cursor, head.counters.purged_upto))
        found = await self._journal.load_ending(head.number, course.way, start, course.step)
        for message in found.messages:
            ends = message.expires_at if course is self._life else tail.kept_from(message) + head.spec.retention
            if ends > now:
                course.at = min(course.at, max(ends, now + PAUSE))
                break
            tail.end(message)
        else:
            if found.rows == course.step:
                course.step = min(8 * course.step, ENDED)
                course.at = now
                course.after = found.last
                return
        course.step = LEAST
        if course is not self._placed and start != BEGIN:
            # What came since may lie before what was passed: no new row has a smaller place, but an older moment.
            course.after = BEGIN
            course.at = min(course.at, now + PAUSE)
