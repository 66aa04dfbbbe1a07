"""The cold tail of a queue: what of it is on disk only, and how the next part of that comes into memory.

While one cold message exists every new one goes cold, so that order holds; the queue is hot again when everything has
been loaded. The tail of a standard queue is read in order of place, that of a FIFO queue group by group (`roll`), so
that a blocked group hides no other (SQS: Q80). Delayed messages beyond the bound wait on disk behind a horizon.
Where the messages of noisy tenants fill the memory, those of quiet ones are read from behind them (Q83).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pipeflow.clock import Signal
from pipeflow.embedded.delays import Delays
from pipeflow.embedded.ending import Ending
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.journal import DELAYED_BIT, PLACE_MASK, Journal, Loaded, Waiting
from pipeflow.embedded.roll import GROUP_HEAD, Roll
from pipeflow.state.fair import Fair
from pipeflow.state.groups import Groups
from pipeflow.state.stored import DELAYED, GONE, IN_FLIGHT, READY, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

UNGROUPED = " "
"""The tenant of messages without a group, where tenants are told apart on disk. No group has this name."""
NEVER: Mapping[int, float] = MappingProxyType({})


class Tail:
    """What of one queue is on disk only."""

    __slots__ = (
        "met",
        "ready",
        "delayed",
        "retrying",
        "cursor",
        "group_cursor",
        "ahead",
        "horizon",
        "ending",
        "delays",
        "fed",
        "late",
        "left",
        "edited",
        "damaged",
        "suspect_upto",
        "_head",
        "_state",
        "_counters",
        "_number",
        "_gathering",
        "_journal",
        "_groups",
        "_roll",
        "_watching",
    )

    def __init__(self, head: Head, gathering: Gathering, journal: Journal, groups: Groups | None) -> None:
        counters = head.counters
        self.ready = counters.rows
        """How many messages wait here, but for the delayed ones of a standard queue."""
        self.delayed = counters.delayed_rows
        self.retrying = 0
        """How many of those wait for a retry."""
        self.met = 0
        """How many of them loads have ever brought into memory or set aside."""
        self.cursor = counters.purged_upto
        self.group_cursor = ""
        self.ahead: dict[str, dict[int, None]] = {}
        """By tenant: places behind the cursor that are in memory already, in order."""
        self.horizon: tuple[float, int] = (0.0, 0) if self.delayed else (inf, 0)
        self.ending = Ending(head, journal, bool(self.count))
        self.delays = Delays(head, journal) if groups is not None else None
        self.fed: list[Signal] = []
        """Who waits for a load to end."""
        self.late: list[Stored] | None = None
        """Delayed messages accepted while a load of delayed ones runs: it may not have seen them."""
        self.left: set[int] | None = None
        """Places that left the queue since before the commit a reader waits for: what it reads of them is outdated."""
        self.edited: dict[int, Stored] = {}
        """By place: messages changed since a reader waits, who may have read what they were."""
        self.damaged: dict[int, None] = {}
        """Keys of rows that were found damaged: each is counted once, however often it is met until it is set aside."""
        self.suspect_upto = 0
        self._head = head
        self._state = head.state
        self._counters = counters
        self._number = head.number
        self._gathering = gathering
        self._journal = journal
        self._groups = groups
        self._roll = Roll(head, groups, journal) if groups is not None else None
        self._watching = 0

    # -- in ------------------------------------------------------------------------------------------------------

    def add(self, message: Stored, now: float, delay: float) -> None:
        """Take a new message that memory has no room for, or that others here are before."""
        if delay > 0:
            message.state = DELAYED
            message.until = now + delay
        else:
            message.state = READY
        if not self.ready:
            self._begin_behind(message.place - 1)
        self.ready += 1
        self._lies_here(message)
        if delay > 0 and self.delays is not None:
            self.delays.comes(message)
        self._head.changed(message)

    def _begin_behind(self, place: int) -> None:
        if self._roll is not None:
            self._roll.begin_behind(place)
        else:
            self.cursor = place

    def add_delayed(self, message: Stored, due: float) -> None:
        """Take a new message of a standard queue that comes due behind the horizon."""
        message.state = DELAYED
        message.until = due
        self.delayed += 1
        self._head.changed(message)
        self.ending.comes(message)
        if self.late is not None:
            self.late.append(message)
        if message.key is not None:
            self._head.keys.went_cold(message)

    def shed(self) -> None:
        """Take the half of the delayed messages in memory that come due last, when there are too many."""
        head, state = self._head, self._state
        if state.delayed <= head.limit or self._groups is not None or self.late is not None or self._journal.instant:
            return
        if head.keys.in_use:
            return
        for message in state.later_half():
            if self.horizon > (message.until, message.place):
                self.horizon = (message.until, message.place)
            if message.place in head.dirty:
                # The group still has to write it, as it is now.
                head.dirty[message.place] = replace(message)
            head.bytes -= message.size if message.body is not None else 0
            state.forget(message)
            if self.ahead:
                self.not_ahead(message)
            self.delayed += 1
            self.retrying += message.receives > 0
            self.ending.comes(message)
        state.compact_waiting()

    def queue_up(self, message: Stored) -> None:
        """Take a message out of memory that has come due, to the end of the tail."""
        head = self._head
        head.dirty.pop(message.place, None)
        if self.left is not None:
            self.left.add(message.place)
        # A twin: who still looks at the old one finds it gone.
        message = replace(message)
        message.place = head.next_place()
        message.state = READY
        message.until = 0.0
        message.key = None
        if message.body is not None:
            head.bytes -= message.size
        if self.ahead:
            self.not_ahead(message)
        self.ready += 1
        self._lies_here(message)
        head.changed(message)

    def _lies_here(self, message: Stored) -> None:
        """A ready message waits on disk: where queues have tenants, they are told apart there too (SQS: Q83)."""
        self.ending.comes(message)
        if self._groups is not None:
            return
        if message.group is not None and self._state.fair is None:
            self._state.share()
        if self._state.fair is not None:
            self._state.fair.sent(message.group, message.sent_at)

    @property
    def count(self) -> int:
        """How many messages are on disk only."""
        return self.ready + self.delayed

    @property
    def progress(self) -> tuple[int, int, int, str, bool]:
        """Changes with every load that met anything and every message that came: neither makes up for the other."""
        fair = self._state.fair
        elsewhere = fair is not None and fair.elsewhere
        passed = self._roll.upto if self._roll is not None else self.cursor
        return self.met, self._counters.last_place, passed, self.group_cursor, elsewhere

    # -- out -----------------------------------------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether a load would bring something into memory that has room there, or that somebody waits for."""
        head = self._head
        if not self.ready or head.spec.archives:
            return False
        fair = self._state.fair
        if fair is not None and fair.starved:
            return True
        if head.hot < max(1, head.limit // 2) and head.has_room:
            return True
        # Memory may be full of what its groups hold back: a blocked group hides no other (SQS: Q80).
        return bool(head.waiters) and not self._state.order.available()

    def delayed_due(self, now: float) -> bool:
        """Whether delayed messages on disk may be due."""
        return self.delayed > 0 and self.horizon[0] <= now

    def due(self, now: float) -> bool:
        """Whether time has come for something on disk."""
        if self.delays is not None and self.delays.at <= now:
            return True
        return self.ending.at <= now or self.delayed_due(now)

    def begin_load(self) -> None:
        """A load is about to wait for the open group: from now on it is noted what its read may not see right."""
        self.watch()
        self.late = []

    def end_load(self) -> None:
        """The load has ended."""
        self.unwatch()
        self.late = None

    def watch(self) -> None:
        """Note from now on which messages leave: somebody reads the disk, which may still have them."""
        self._watching += 1
        if self.left is None:
            self.left = set()

    def unwatch(self) -> None:
        """One who read has what it wanted."""
        self._watching -= 1
        if not self._watching:
            self.left = None
            self.edited.clear()
            if self.delays is not None:
                self.delays.unwatched()

    async def load(self, now: float) -> int:
        """Bring the next part of the tail into memory; how many rows it found. One load at a time.

        The caller has waited for the open group: what is on disk is what this process did until then.
        """
        limit = max(1, self._head.limit // 2)
        if self._roll is not None:
            return await self._roll.load(limit, lambda loaded: self._take_in(loaded, now))
        fair = self._state.fair
        if fair is not None and fair.starved:
            found = await self._load_quiet(fair, limit, now)
            self._tell_tail()
            return found
        upto = self._counters.purged_upto
        loaded = await self._journal.load(self._number, max(self.cursor, upto), limit)
        found = self._take_in(loaded, now)
        if loaded.last > self.cursor:
            self.cursor = loaded.last
            if self.ahead:
                self._catch_up()
        self._tell_tail()
        return found

    async def _load_quiet(self, fair: Fair, limit: int, now: float) -> int:
        """Messages of quiet tenants from behind those of noisy ones, which fill the memory (SQS: Q83)."""
        upto = max(self.cursor, self._counters.purged_upto)
        count, each = max(1, limit // GROUP_HEAD // 2), min(GROUP_HEAD, limit)
        start, wrapped = self.group_cursor, not self.group_cursor
        while True:
            starts = {name: next(reversed(places)) for name, places in self.ahead.items()}
            loaded = await self._journal.load_groups(self._number, start, fair.noisy(), upto, count, each, starts)
            if loaded.messages:
                start = self.group_cursor = loaded.messages[-1].group or UNGROUPED
            elif not wrapped:
                start, wrapped = "", True
            elif not loaded.damaged:
                fair.elsewhere = False
                self.group_cursor = ""
                return 0
            loaded.messages.sort(key=lambda message: message.place)
            fresh = [message for message in loaded.messages if not self._is_elsewhere(message)]
            found = self._take_in(loaded, now)
            for message in fresh:
                if message.state != GONE:
                    self.ahead.setdefault(message.group or UNGROUPED, {})[message.place] = None
            if found:
                return found

    def _catch_up(self) -> None:
        """The tail was read up to the cursor: what was ahead of it no longer is."""
        ahead = {name: {p: None for p in places if p > self.cursor} for name, places in self.ahead.items()}
        self.ahead = {name: places for name, places in ahead.items() if places}

    def not_ahead(self, message: Stored) -> None:
        """A message that was read from behind the cursor left memory."""
        name = message.group or UNGROUPED
        places = self.ahead.get(name)
        if places is not None:
            places.pop(message.place, None)
            if not places:
                del self.ahead[name]

    def _tell_tail(self) -> None:
        """Say whether tenants may have more messages on disk; whose they are was not known if none were known of."""
        fair = self._state.fair
        if fair is not None:
            fair.elsewhere = bool(self.ready) and (fair.elsewhere or not fair.tail)
            fair.tail = bool(self.ready)

    def _take_in(self, loaded: Loaded, now: float) -> int:
        found = self.set_aside(loaded.damaged, loaded.waiting)
        expired_before = now - self._head.spec.retention
        for message in loaded.messages:
            if self._is_elsewhere(message):
                continue
            found += 1
            self.met += 1
            self.ready -= 1
            message = self.edited.get(message.place, message)
            if self.delays is not None:
                self.delays.leaves(message)
            self._settle_in(message, now, expired_before)
        return found

    def set_aside(self, keys: Sequence[int], due: Mapping[int, float] = NEVER) -> int:
        """Have damaged rows of the tail moved out of it, whole, and count them; how many were new."""
        new = 0
        for key in keys:
            place = key & PLACE_MASK
            ahead = any(place in places for places in self.ahead.values())
            if ahead or key in self.damaged or place in self._state.known or self.has_left(place):
                continue
            self._count_damage(key)
            if key & DELAYED_BIT:
                self.delayed -= 1
            else:
                self.ready -= 1
            if self.delays is not None:
                self.delays.lost(key, due.get(key))
            self.met += 1
            new += 1
        return new

    def _count_damage(self, key: int) -> None:
        self.damaged[key] = None
        self._counters.quarantined += 1
        self._gathering.damaged.append(key)
        self._gathering.uncount(key)
        self._head.touch()

    def _is_elsewhere(self, message: Stored) -> bool:
        """Whether what was read of a message is out of date: it is here already, or left while the load ran."""
        if self.ahead and message.place in self.ahead.get(message.group or UNGROUPED, ()):
            return True
        return message.place in self._state.known or self.has_left(message.place)

    def has_left(self, place: int) -> bool:
        """Whether the message of this place was purged, or left since somebody watches."""
        left = self.left
        return place <= self._counters.purged_upto or (left is not None and place in left)

    def _settle_in(self, message: Stored, now: float, expired_before: float) -> None:
        message.suspect = message.place <= self.suspect_upto
        message.queue = self._number
        if message.body is not None:
            self._head.bytes += message.size
        if self.delays is not None and self.delays.redelay(message):
            self._head.changed(message)
        if message.kept_from <= expired_before:
            self._counters.expired += 1
            self._head.gone(message)
            return
        delayed = message.state == DELAYED and message.until > now
        if delayed or (message.state == IN_FLIGHT and message.durable and message.until > now):
            self._state.restore(message)
            return
        # Whoever held it died with the last process; it is visible at once.
        message.state = READY
        message.until = 0.0
        message.key = None
        self._state.restore(message)

    async def load_delayed(self, now: float) -> None:
        """Bring delayed messages that come due next into memory."""
        limit = max(1, self._head.limit // 2)
        due, place = self.horizon
        purged_upto = self._counters.purged_upto
        loaded = await self._journal.load_delayed(self._number, due, place, limit)
        if self._counters.purged_upto == purged_upto:
            # Else a purge has set the horizon anew, and nothing that was read is there any more.
            full = len(loaded.messages) + len(loaded.damaged) >= limit
            self._take_in_delayed(loaded, self.late or [], full, now)
        self._head.tick(now)

    def _take_in_delayed(self, loaded: Loaded, late: list[Stored], full: bool, now: float) -> None:
        self.set_aside(loaded.damaged)
        self.horizon = (loaded.due, loaded.last + 1) if full else (inf, 0)
        unseen = {message.place for message in late}
        seen = [message for message in loaded.messages if message.place not in unseen]
        expired_before = now - self._head.spec.retention
        for message in [*seen, *(m for m in late if (m.until, m.place) < self.horizon)]:
            if not self._is_elsewhere(message):
                self.met += 1
                self.delayed -= 1
                self.retrying -= message.receives > 0
                self._settle_in(self.edited.get(message.place, message), now, expired_before)
        self.retrying = max(0, min(self.retrying, self.delayed))

    def kept_from(self, message: Stored) -> float:
        """From when the retention of a message that was read from the disk counts."""
        return message.kept_from if self.delays is None else self.delays.kept_from(message)

    def respec(self, now: float, redelayed: bool) -> None:
        """Go on with another retention, or for a FIFO queue with another delay (SQS: Q17, Q18)."""
        if redelayed and self.ready and self.delays is not None:
            self.delays.respec(now)
        self.ending.respec()

    @property
    def settled(self) -> bool:
        """Whether all rows tell how long they wait."""
        return self.delays is None or self.delays.settled

    def recall(self, waiting: Waiting) -> None:
        """Go on with the delayed rows that were found at the start."""
        self.retrying = waiting.retries
        if self.delays is not None:
            self.delays.recall(waiting.moment, waiting.fifo)

    def end(self, message: Stored) -> None:
        """Delete a message that was read from the disk and has ended, unless it is in memory or left meanwhile."""
        if self.has_left(message.place) or not self.has(message):
            return
        message = self.edited.get(message.place, message)
        self._counters.expired += 1
        self.take(message)
        if message.shared:
            # Perhaps it is kept aside: only its row was read.
            self._gathering.freed.fire()
        self._head.discard(message)

    async def load_group_upto(self, group: str, place: int, now: float) -> None:
        """Bring one FIFO group into memory from its first message to `place`."""
        assert self._roll is not None
        await self._roll.load_upto(group, place, lambda loaded: self._take_in(loaded, now))

    def has(self, message: Stored) -> bool:
        """Whether a message read from the disk is not in memory too."""
        if message.place in self._state.known or message.place <= self._counters.purged_upto:
            return False
        if message.state == DELAYED and self._groups is None:
            return (message.until, message.place) >= self.horizon
        if self._groups is None:
            ahead = self.ahead and message.place in self.ahead.get(message.group or UNGROUPED, ())
            # While nothing waits here the cursor stands still, and memory is beyond it.
            return self.ready > 0 and message.place > self.cursor and not ahead
        return message.place > self._groups.last_place(message.group or "")

    def take(self, message: Stored) -> None:
        """Take a message that was read from the disk out of the tail, for another queue to take in."""
        if self._groups is None and message.row & DELAYED_BIT:
            self._waits_no_more(message)
        else:
            self.ready -= 1
            self._tell_tail()
        if self.delays is not None:
            self.delays.leaves(message)
        if message.body is not None:
            self._head.bytes += message.size
        self._head.moved(message)

    def changed(self, message: Stored) -> None:
        """A message that was read from the disk is another one from now on, in its place."""
        if self.left is not None:
            self.edited[message.place] = message
        self._head.changed(message)

    def take_back(self, message: Stored) -> None:
        """Delete a delayed message of a standard queue that only the disk has, or is about to."""
        self._waits_no_more(message)
        if message.body is not None:
            self._head.bytes += message.size
        self._head.gone(message)
        message.state = GONE

    def _waits_no_more(self, message: Stored) -> None:
        self.delayed -= 1
        self.retrying = max(0, min(self.retrying - (message.receives > 0), self.delayed))

    def lose(self, message: Stored) -> None:
        """The body of a message in memory cannot be read back: set its row aside."""
        self._state.forget(message)
        if self.ahead:
            self.not_ahead(message)
        self._head.dirty.pop(message.place, None)
        self._count_damage(message.row)

    def clear(self) -> int:
        """Forget everything, for a purge; how many messages that were."""
        count = self.count
        self.ready = self.delayed = self.retrying = 0
        self.ahead.clear()
        self._begin_behind(self._head.places.last_place)
        self.horizon = (inf, 0)
        self.ending.clear()
        if self.delays is not None:
            self.delays.clear()
        return count
