"""What of a queue is in memory: a hot head, and behind it a cold tail on disk.

While one cold message exists every new one goes cold, so that order holds; the queue is hot again when everything has
been loaded. The tail of a standard queue is read in order of place, that of a FIFO queue group by group, so that a
blocked group hides no other (SQS: Q80). Delayed messages beyond the bound wait on disk behind a horizon.
Where the messages of noisy tenants fill the memory, those of quiet ones are read from behind them (Q83).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from msgspec.structs import replace

from pipeflow.clock import Signal
from pipeflow.embedded.group import Gathering, crc_of
from pipeflow.embedded.journal import DELAYED_BIT, PLACE_MASK, Counters, Journal, Loaded
from pipeflow.specs import QueueSpec
from pipeflow.state.dedup import Dedup
from pipeflow.state.fair import Fair
from pipeflow.state.groups import Groups
from pipeflow.state.order import Line
from pipeflow.state.queue import NoChanges, QueueState
from pipeflow.state.stored import DELAYED, GONE, IN_FLIGHT, READY, Stored

HOT_MESSAGES = 20_000
HOT_BYTES = 64 << 20
GROUP_HEAD = 64
"""Messages of one FIFO group that are loaded at a time."""
UNGROUPED = " "
"""The tenant of messages without a group, where tenants are told apart on disk. No group has this name."""


class Head:
    """One queue: its state machine, its counters, its waiting receivers, and what of it is on disk only."""

    __slots__ = (
        "spec",
        "number",
        "state",
        "counters",
        "dedup",
        "dirty",
        "touched",
        "cold",
        "cold_delayed",
        "cold_retrying",
        "cursor",
        "group_cursor",
        "ahead",
        "horizon",
        "bytes",
        "limit",
        "armed",
        "waiters",
        "fed",
        "late",
        "left",
        "damaged",
        "suspect_upto",
        "dead",
        "_gathering",
        "_journal",
        "_watching",
        "_groups",
    )

    def __init__(
        self,
        spec: QueueSpec,
        number: int,
        counters: Counters,
        gathering: Gathering,
        journal: Journal,
        limit: int = HOT_MESSAGES,
    ) -> None:
        self.spec = spec
        self.number = number
        self.counters = counters
        self.limit = limit
        self.dirty: dict[int, Stored] = {}
        self.touched = False
        self.cold = counters.rows
        self.cold_delayed = counters.delayed_rows
        self.cold_retrying = counters.delayed_rows
        """How many of those wait for a retry: after a restart maybe all, until they were looked at."""
        self.cursor = counters.purged_upto
        self.group_cursor = ""
        self.ahead: dict[str, dict[int, None]] = {}
        """By tenant: places behind the cursor that are in memory already, in order."""
        self.horizon: tuple[float, int] = (0.0, 0) if self.cold_delayed else (inf, 0)
        self.bytes = 0
        self.armed = inf
        self.waiters: deque[Signal] = deque()
        self.fed: list[Signal] = []
        """Who waits for a load to end."""
        self.late: list[Stored] | None = None
        """Delayed messages accepted while a load of delayed ones runs: it may not have seen them."""
        self.left: set[int] | None = None
        """Places that left the queue since before the commit a reader waits for: what it reads of them is outdated."""
        self._watching = 0
        self.damaged: set[int] = set()
        """Keys of rows that were found damaged: each is counted once, however often it is met until it is set aside."""
        self.suspect_upto = 0
        self.dead: Head | None = None
        self.dedup = Dedup()
        self._gathering = gathering
        gathering.owners[number] = self
        self._journal = journal
        self._groups = Groups() if spec.fifo else None
        self.state = QueueState(spec, self._groups or Line(), NoChanges() if journal.instant else self)

    # -- what the state machine tells ----------------------------------------------------------------------------

    def touch(self) -> None:
        """The counters changed: they belong into the group."""
        if not self.touched and not self._journal.instant:
            self.touched = True
            self._gathering.heads.append(self)

    def changed(self, message: Stored) -> None:
        self.dirty[message.place] = message
        if not self.touched:
            self.touched = True
            self._gathering.heads.append(self)

    def gone(self, message: Stored) -> None:
        self.moved(message)
        self.discard(message)

    def moved(self, message: Stored) -> None:
        self.dirty.pop(message.place, None)
        if self.left is not None:
            self.left.add(message.place)
        if self.ahead:
            self._not_ahead(message)
        if not self.touched:
            self.touched = True
            self._gathering.heads.append(self)
        if message.body is not None:
            self.bytes -= message.size

    def discard(self, message: Stored) -> None:
        """Let a message that left this queue leave the disk."""
        if message.row:
            gathering = self._gathering
            gathering.deletes.append(message.row)
            gathering.uncount(message.row)
            if message.shared:
                gathering.releases[message.shared] = gathering.releases.get(message.shared, 0) + 1
            message.row = 0

    # -- in ------------------------------------------------------------------------------------------------------

    def add(self, message: Stored, now: float, delay: float) -> None:
        """Take a new message: into memory while the queue is hot and has room there, else onto the cold tail."""
        counters = self.counters
        counters.last_place += 1
        message.place = counters.last_place
        message.queue = self.number
        if self._journal.instant:
            self.state.add(message, now, delay)
            return
        state = self.state
        if delay > 0 and not self.spec.fifo:
            if (now + delay, message.place) >= self.horizon:
                self._add_cold_delayed(message, now + delay)
                return
        elif self.cold or self.bytes >= HOT_BYTES or self._hot + state.in_flight >= self.limit:
            self._add_cold(message, now, delay)
            return
        if message.body is not None:
            self.bytes += message.size
        state.add(message, now, delay)
        self.shed()

    @property
    def _hot(self) -> int:
        # Only standard queues keep their delayed messages apart, behind a bound of their own.
        return self.state.ready + (self.state.delayed if self.spec.fifo else 0)

    def _add_cold(self, message: Stored, now: float, delay: float) -> None:
        if delay > 0:
            message.state = DELAYED
            message.until = now + delay
        else:
            message.state = READY
        if not self.cold and self._groups is None:
            self.cursor = message.place - 1
        self.cold += 1
        self._left_to_tail(message)
        self.changed(message)

    def _add_cold_delayed(self, message: Stored, due: float) -> None:
        message.state = DELAYED
        message.until = due
        self.cold_delayed += 1
        self.changed(message)
        if self.late is not None:
            self.late.append(message)

    def shed(self) -> None:
        """Let the half of the delayed messages that come due last leave memory, when there are too many."""
        if self.state.delayed <= self.limit or self.spec.fifo or self.late is not None or self._journal.instant:
            return
        for message in self.state.later_half():
            if self.horizon > (message.until, message.place):
                self.horizon = (message.until, message.place)
            if message.place in self.dirty:
                # The group still has to write it, as it is now.
                self.dirty[message.place] = replace(message)
            self.bytes -= message.size if message.body is not None else 0
            self.state.forget(message)
            if self.ahead:
                self._not_ahead(message)
            self.cold_delayed += 1
            self.cold_retrying += message.receives > 0
        self.state.compact_waiting()

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time have its effect. What comes due while the queue is cold goes to the end of the tail."""
        state = self.state
        if self.cold and not self.spec.fifo:
            for message in state.take_due(now):
                self._to_tail(message)
        state.tick(now)
        if state.expired:
            self.counters.expired += state.expired
            state.expired = 0
            self.touch()

    def _to_tail(self, message: Stored) -> None:
        self.dirty.pop(message.place, None)
        if self.left is not None:
            self.left.add(message.place)
        # A twin: who still looks at the old one finds it gone.
        message = replace(message)
        self.counters.last_place += 1
        message.place = self.counters.last_place
        message.state = READY
        message.until = 0.0
        if message.body is not None:
            self.bytes -= message.size
        if message.body is None and not message.row:
            raise AssertionError("a message without a body has a row")
        if self.ahead:
            self._not_ahead(message)
        self.cold += 1
        self._left_to_tail(message)
        self.changed(message)

    def _left_to_tail(self, message: Stored) -> None:
        """A ready message waits on disk: where queues have tenants, they are told apart there too (SQS: Q83)."""
        if self._groups is not None:
            return
        if message.group is not None and self.state.fair is None:
            self.state.share()
        if self.state.fair is not None:
            self.state.fair.sent(message.group, message.sent_at)

    def tenant_of(self, message: Stored) -> str | None:
        """Under which name the disk has to find this message's group; None where nobody asks for groups."""
        if self.spec.fifo:
            return message.group
        if self.state.fair is None or message.state == DELAYED:
            return None
        return message.group or UNGROUPED

    @property
    def progress(self) -> tuple[int, int, int, str, bool]:
        """Changes with every load that met anything."""
        fair = self.state.fair
        return self.cold, self.cold_delayed, self.cursor, self.group_cursor, fair is not None and fair.elsewhere

    def next_due(self) -> float:
        """When time next changes something here, the horizon of delayed messages included."""
        due = self.state.next_due()
        return min(due, self.horizon[0]) if self.cold_delayed else due

    # -- the cold tail -------------------------------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether a load would bring something into memory that has room there."""
        if not self.cold or self.spec.archives:
            return False
        fair = self.state.fair
        if fair is not None and fair.starved:
            return True
        return self._hot < max(1, self.limit // 2) and self.bytes < HOT_BYTES

    def delayed_due(self, now: float) -> bool:
        """Whether delayed messages on disk may be due."""
        return self.cold_delayed > 0 and self.horizon[0] <= now

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

    async def load(self, now: float) -> int:
        """Bring the next part of the tail into memory; how many rows it found. One load at a time.

        The caller has waited for the open group: what is on disk is what this process did until then.
        """
        limit = max(1, self.limit // 2)
        if self._groups is not None:
            return await self._load_groups(self._groups, limit, now)
        fair = self.state.fair
        if fair is not None and fair.starved:
            found = await self._load_quiet(fair, limit, now)
            self._tell_tail()
            return found
        upto = self.counters.purged_upto
        loaded = await self._journal.load(self.number, max(self.cursor, upto), limit)
        found = self._take_in(loaded, now)
        if loaded.last > self.cursor:
            self.cursor = loaded.last
            if self.ahead:
                self._catch_up()
        self._tell_tail()
        return found

    async def _load_quiet(self, fair: Fair, limit: int, now: float) -> int:
        """Messages of quiet tenants from behind those of noisy ones, which fill the memory (SQS: Q83)."""
        upto = max(self.cursor, self.counters.purged_upto)
        count, each = max(1, limit // GROUP_HEAD // 2), min(GROUP_HEAD, limit)
        start, wrapped = self.group_cursor, not self.group_cursor
        while True:
            starts = {name: next(reversed(places)) for name, places in self.ahead.items()}
            loaded = await self._journal.load_groups(self.number, start, fair.noisy(), upto, count, each, starts)
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

    def _not_ahead(self, message: Stored) -> None:
        name = message.group or UNGROUPED
        places = self.ahead.get(name)
        if places is not None:
            places.pop(message.place, None)
            if not places:
                del self.ahead[name]

    def _tell_tail(self) -> None:
        """Say whether tenants may have more messages on disk; whose they are was not known if none were known of."""
        fair = self.state.fair
        if fair is not None:
            fair.elsewhere = bool(self.cold) and (fair.elsewhere or not fair.tail)
            fair.tail = bool(self.cold)

    async def _load_groups(self, groups: Groups, limit: int, now: float) -> int:
        """First what groups with messages here have more of, then groups that have none, from where we stopped."""
        found = 0
        upto = self.counters.purged_upto
        for name in groups.names():
            if groups.length(name) < GROUP_HEAD // 2:
                last = max(groups.last_place(name), upto)
                found += self._take_in(await self._journal.load_group(self.number, name, last, GROUP_HEAD), now)
        if found >= limit:
            return found
        skip = groups.names()
        count = max(1, limit // GROUP_HEAD)
        for start in (self.group_cursor, "") if self.group_cursor else ("",):
            loaded = await self._journal.load_groups(self.number, start, skip, upto, count, min(GROUP_HEAD, limit))
            found += self._take_in(loaded, now)
            if loaded.messages:
                self.group_cursor = loaded.messages[-1].group or ""
                return found
            self.group_cursor = ""
        return found

    def _take_in(self, loaded: Loaded, now: float) -> int:
        found = self._set_aside(loaded.damaged)
        expired_before = now - self.spec.retention
        for message in loaded.messages:
            if self._is_elsewhere(message):
                continue
            found += 1
            self.cold -= 1
            self._settle_in(message, now, expired_before)
        return found

    def _set_aside(self, keys: Sequence[int]) -> int:
        """Have damaged rows of the tail moved out of it, whole, and count them; how many were new."""
        new = 0
        for key in keys:
            place = key & PLACE_MASK
            ahead = any(place in places for places in self.ahead.values())
            if ahead or key in self.damaged or place in self.state.known or self.has_left(place):
                continue
            self._count_damage(key)
            if key & DELAYED_BIT:
                self.cold_delayed -= 1
            else:
                self.cold -= 1
            new += 1
        return new

    def _count_damage(self, key: int) -> None:
        self.damaged.add(key)
        self.counters.quarantined += 1
        self._gathering.damaged.append(key)
        self._gathering.uncount(key)
        self.touch()

    def lose(self, message: Stored) -> None:
        """The body of a message in memory cannot be read back: set its row aside."""
        self.state.forget(message)
        if self.ahead:
            self._not_ahead(message)
        self.dirty.pop(message.place, None)
        self._count_damage(message.row)

    def _is_elsewhere(self, message: Stored) -> bool:
        """Whether what was read of a message is out of date: it is here already, or left while the load ran."""
        if self.ahead and message.place in self.ahead.get(message.group or UNGROUPED, ()):
            return True
        return message.place in self.state.known or self.has_left(message.place)

    def has_left(self, place: int) -> bool:
        """Whether the message of this place was purged, or left since somebody watches."""
        left = self.left
        return place <= self.counters.purged_upto or (left is not None and place in left)

    def _settle_in(self, message: Stored, now: float, expired_before: float) -> None:
        message.suspect = message.place <= self.suspect_upto
        message.queue = self.number
        if message.body is not None:
            self.bytes += message.size
        if message.kept_from <= expired_before:
            self.counters.expired += 1
            self.gone(message)
            return
        if message.state == DELAYED and self.spec.fifo and not message.receives:
            message.until = message.sent_at + self.spec.delay
        delayed = message.state == DELAYED and message.until > now
        if delayed or (message.state == IN_FLIGHT and message.durable and message.until > now):
            self.state.restore(message)
            return
        # Whoever held it died with the last process; it is visible at once.
        message.state = READY
        message.until = 0.0
        self.state.restore(message)

    async def load_delayed(self, now: float) -> None:
        """Bring delayed messages that come due next into memory."""
        limit = max(1, self.limit // 2)
        due, place = self.horizon
        purged_upto = self.counters.purged_upto
        loaded = await self._journal.load_delayed(self.number, due, place, limit)
        if self.counters.purged_upto == purged_upto:
            # Else a purge has set the horizon anew, and nothing that was read is there any more.
            full = len(loaded.messages) + len(loaded.damaged) >= limit
            self._take_in_delayed(loaded, self.late or [], full, now)
        self.tick(now)

    def _take_in_delayed(self, loaded: Loaded, late: list[Stored], full: bool, now: float) -> None:
        self._set_aside(loaded.damaged)
        last = loaded.messages[-1] if loaded.messages else None
        self.horizon = (last.until, last.place + 1) if full and last is not None else (inf, 0)
        unseen = {message.place for message in late}
        seen = [message for message in loaded.messages if message.place not in unseen]
        expired_before = now - self.spec.retention
        for message in [*seen, *(m for m in late if (m.until, m.place) < self.horizon)]:
            if not self._is_elsewhere(message):
                self.cold_delayed -= 1
                self.cold_retrying -= message.receives > 0
                self._settle_in(message, now, expired_before)
        self.cold_retrying = max(0, min(self.cold_retrying, self.cold_delayed))

    async def load_group_upto(self, group: str, place: int, now: float) -> None:
        """Bring one FIFO group into memory from its first message to `place`."""
        assert self._groups is not None
        while self._groups.last_place(group) < place:
            last = max(self._groups.last_place(group), self.counters.purged_upto)
            if not self._take_in(await self._journal.load_group(self.number, group, last, GROUP_HEAD), now):
                return

    def is_cold(self, message: Stored) -> bool:
        """Whether a message read from the disk is not in memory too."""
        if message.place in self.state.known or message.place <= self.counters.purged_upto:
            return False
        if message.state == DELAYED and self._groups is None:
            return (message.until, message.place) >= self.horizon
        if self._groups is None:
            ahead = self.ahead and message.place in self.ahead.get(message.group or UNGROUPED, ())
            return message.place > self.cursor and not ahead
        return message.place > self._groups.last_place(message.group or "")

    def take_cold(self, message: Stored) -> None:
        """Take a message that was read from the disk out of the tail, for another queue to take in."""
        if self._groups is None and message.row & DELAYED_BIT:
            self.cold_delayed -= 1
        else:
            self.cold -= 1
            self._tell_tail()
        if message.body is not None:
            self.bytes += message.size
        self.moved(message)

    def expire(self, message: Stored) -> None:
        """Delete a message of an archive: it is too old. Read from the disk where there is one."""
        self.counters.expired += 1
        if message.place in self.state.known:
            self.state.move_out(message)
            self.discard(message)
            return
        self.take_cold(message)
        self.discard(message)
        self.touch()

    def respec(self, spec: QueueSpec) -> None:
        """Go on with other options; messages keep what they were sent with."""
        self.spec = spec
        self.state.respec(spec)

    def hold(self, message: Stored) -> None:
        """Take back a message that an outside consumer has held since before the restart."""
        message.queue = self.number
        message.suspect = message.place <= self.suspect_upto
        self.cold -= 1
        if message.body is not None:
            self.bytes += message.size
        self.state.restore(message)

    def drop_body(self, message: Stored) -> None:
        """Let a body leave memory when the disk has it and memory is short of room."""
        if message.row and self.bytes > HOT_BYTES and message.body is not None and message.state != GONE:
            crc_of(message)
            self.bytes -= message.size
            message.body = None

    def purge(self) -> int:
        """Forget everything; rows that only the disk has are swept later, and passed over until then."""
        count = self.cold + self.cold_delayed + self.state.purge()
        for message in self.dirty.values():
            # Its row may lie under the key of the queue it came from, where no sweep of this queue finds it.
            self.discard(message)
        counters = self.counters
        counters.purged += count
        counters.purged_upto = counters.last_place
        counters.rows = counters.delayed_rows = 0
        self.cold = self.cold_delayed = self.cold_retrying = 0
        self.ahead.clear()
        self.cursor = counters.last_place
        self.horizon = (inf, 0)
        self.dirty.clear()
        self.touch()
        return count

    # -- receivers -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake as many waiting receivers as there are messages for them, and no more (SQS: Q48)."""
        waiters = self.waiters
        if not waiters:
            return
        count = self.state.ready if self.state.order.available() else 0
        while waiters and count > 0:
            waiters.popleft().fire()
            count -= 1
