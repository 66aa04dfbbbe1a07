"""What of a queue is in memory: a hot head, its state machine, and what the group has to write of it.

A new message comes into memory while the queue is hot and has room there; else it joins the cold tail on disk.
"""

from __future__ import annotations

from itertools import islice
from math import inf

from pipeflow.clock import Signal
from pipeflow.embedded.group import Gathering, crc_of
from pipeflow.embedded.journal import Counters, Journal
from pipeflow.embedded.keys import Keys, name_of_delayed
from pipeflow.embedded.tail import UNGROUPED, Tail
from pipeflow.specs import QueueSpec
from pipeflow.state.changes import NoChanges
from pipeflow.state.dedup import Dedup
from pipeflow.state.groups import Groups
from pipeflow.state.order import Line
from pipeflow.state.pace import Pace
from pipeflow.state.queue import QueueState
from pipeflow.state.stored import DELAYED, GONE, Stored
from pipeflow.state.wishes import PRIORITIES

HOT_MESSAGES = 20_000
HOT_BYTES = 64 << 20
LANES = PRIORITIES - 1
"""The priorities above 0 share as much memory again."""


class Head:
    """One queue, or one priority of it: its state machine, its counters, and what of it is on disk only."""

    __slots__ = (
        "spec",
        "number",
        "state",
        "counters",
        "dedup",
        "dirty",
        "touched",
        "tail",
        "keys",
        "bytes",
        "limit",
        "most_bytes",
        "priority",
        "lanes",
        "root",
        "places",
        "armed",
        "pace",
        "waiters",
        "_woken",
        "dead",
        "_gathering",
        "_journal",
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
        lane_of: Head | None = None,
        priority: int = 0,
    ) -> None:
        self.spec = spec
        self.number = number
        self.counters = counters
        self.limit = limit
        self.most_bytes = HOT_BYTES if lane_of is None else HOT_BYTES // LANES
        self.priority = priority
        self.lanes: tuple[Head, ...] = (self,)
        """The priorities that the queue ever saw, each a queue of its own, highest first; this one is the last."""
        self.places = counters if lane_of is None else lane_of.counters
        """Who counts places: those of one queue, of whatever priority, are all different."""
        self.dirty: dict[int, Stored] = {}
        self.touched = False
        self.bytes = 0
        self.armed = inf
        self.pace = Pace(spec.max_per_second) if spec.max_per_second is not None else None
        if lane_of is not None:
            self.pace = lane_of.pace
        self.root: Head = self if lane_of is None else lane_of
        self.waiters: dict[Signal, None] = {} if lane_of is None else lane_of.waiters
        """Receivers that wait, the longest first, whatever the priority."""
        self._woken = 0
        """Receivers that were woken and have not looked yet."""
        self.dead: Head | None = None if lane_of is None else lane_of.dead
        self.dedup = Dedup()
        self._gathering = gathering
        gathering.owners[number] = self
        self._journal = journal
        self._groups = Groups() if spec.fifo else None
        self.state = QueueState(spec, self._groups or Line(), NoChanges() if journal.instant else self)
        self.tail = Tail(self, gathering, journal, self._groups)
        self.keys = Keys(self)

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
        tail = self.tail
        if tail.left is not None:
            tail.left.add(message.place)
        if tail.ahead:
            tail.not_ahead(message)
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
                if message.claim is not None:
                    gathering.freed.fire()
            message.row = 0

    # -- in ------------------------------------------------------------------------------------------------------

    def add(self, message: Stored, now: float, delay: float) -> None:
        """Take a new message: into memory while the queue is hot and has room there, else onto the cold tail."""
        message.place = self.next_place()
        message.queue = self.number
        if self._journal.instant:
            self.state.add(message, now, delay)
            return
        state, tail = self.state, self.tail
        if delay > 0 and not self.spec.fifo:
            if (now + delay, message.place) >= tail.horizon:
                tail.add_delayed(message, now + delay)
                return
        elif tail.ready or self.bytes >= self.most_bytes or self.hot + state.in_flight >= self.limit:
            tail.add(message, now, delay)
            return
        if message.body is not None:
            self.bytes += message.size
        state.add(message, now, delay)
        if delay > 0:
            tail.shed()

    def next_place(self) -> int:
        """A place that no message of the queue ever had."""
        # A priority remembers its own last one too: after a restart the queue goes on behind the greatest of all.
        place = self.places.last_place + 1
        self.places.last_place = self.counters.last_place = place
        return place

    @property
    def hot(self) -> int:
        """How many messages in memory wait for a receiver, as the bound counts them."""
        # Only standard queues keep their delayed messages apart, behind a bound of their own.
        return self.state.ready + (self.state.delayed if self.spec.fifo else 0)

    @property
    def has_room(self) -> bool:
        """Whether memory takes more bodies."""
        return self.bytes < self.most_bytes

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time have its effect. What comes due while the queue is cold goes to the end of the tail."""
        state = self.state
        if self.tail.ready and not self.spec.fifo:
            for message in state.take_due(now):
                self.tail.queue_up(message)
        state.tick(now)
        if self.pace is not None:
            self.pace.tick(now)
        if state.expired:
            self.counters.expired += state.expired
            state.expired = 0
            self.touch()

    def tenant_of(self, message: Stored) -> str | None:
        """Under which name the disk has to find this message: its group's, or its key's; None where nobody asks."""
        if self.spec.fifo:
            return message.group
        if message.state == DELAYED:
            return name_of_delayed(message)
        if self.state.fair is None:
            return None
        return message.group or UNGROUPED

    def next_due(self) -> float:
        """When time next changes something here, or may change something on disk."""
        due, tail = self.state.next_due(), self.tail
        if tail.ending.at < due:
            due = tail.ending.at
        if tail.delays is not None and tail.delays.at < due:
            due = tail.delays.at
        if self.pace is not None:
            due = min(due, self.pace.again)
        return min(due, tail.horizon[0]) if tail.delayed else due

    def respec(self, spec: QueueSpec, now: float) -> None:
        """Go on with other options, in every priority; messages keep what they were sent with."""
        redelayed = spec.fifo and spec.delay != self.spec.delay
        if spec.max_per_second != self.spec.max_per_second:
            before = self.pace
            self.pace = Pace(spec.max_per_second) if spec.max_per_second is not None else None
            if self.pace is not None and before is not None:
                self.pace.go_on_from(before)
        for lane in self.lanes:
            lane.tick(now)
            lane.pace = self.pace
            lane.spec = spec
            lane.state.respec(spec)
            lane.tail.respec(now, redelayed)

    def hold(self, message: Stored) -> None:
        """Take back a message that an outside consumer has held since before the restart."""
        message.queue = self.number
        message.suspect = message.place <= self.tail.suspect_upto
        self.tail.ready -= 1
        if message.body is not None:
            self.bytes += message.size
        self.state.restore(message)

    def drop_body(self, message: Stored) -> None:
        """Let a body leave memory when the disk has it and memory is short of room."""
        if message.row and self.bytes > self.most_bytes and message.body is not None and message.state != GONE:
            if message.row in self._gathering.rewritten:
                return  # the disk has another one yet
            crc_of(message)
            self.bytes -= message.size
            message.body = None

    def purge(self) -> int:
        """Forget everything; rows that only the disk has are swept later, and passed over until then."""
        count = self.tail.clear() + self.state.purge()
        for message in self.dirty.values():
            # Its row may lie under the key of the queue it came from, where no sweep of this queue finds it.
            self.discard(message)
        counters = self.counters
        counters.purged += count
        counters.purged_upto = self.places.last_place
        counters.rows = counters.delayed_rows = 0
        self.dirty.clear()
        self.touch()
        return count

    # -- priorities ----------------------------------------------------------------------------------------------

    def add_lane(self, lane: Head) -> None:
        """This queue has messages of one more priority."""
        self.lanes = tuple(sorted((*self.lanes, lane), key=lambda lane: -lane.priority))

    def lane_with(self, place: object) -> Head:
        """Where a message that was received before is; this head itself when it is nowhere."""
        return next((lane for lane in self.lanes if place in lane.state.known), self)

    # -- receivers -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake as many waiting receivers as there are messages for them, and no more (SQS: Q48)."""
        waiters = self.waiters
        if not waiters:
            return
        if self.root is not self:
            self.root.wake()
            return
        woken = self._woken
        most = len(waiters) + woken
        count = sum(lane.state.receivable(most) for lane in self.lanes)
        if self.pace is not None:
            count = min(count, self.pace.room)
        for signal in [*islice(waiters, count - woken)] if count > woken else ():
            del waiters[signal]
            self._woken += 1
            signal.fire()

    def comes(self) -> None:
        """A receiver that is awake will look again, and take a message."""
        self._woken += 1

    def came(self) -> None:
        """It is about to."""
        self._woken -= 1

    def looks(self, signal: Signal) -> bool:
        """A receiver waits no more; whether it was woken for a message."""
        if signal in self.waiters:
            del self.waiters[signal]
            return False
        self._woken -= 1
        return True
