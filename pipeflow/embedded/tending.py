"""What happens to queues while nobody calls: deadlines pass, cold tails are read, purged rows are swept away.

One task keeps the time of every queue by an agenda of their next deadlines, so that ten thousand idle queues cost
nothing; one task reads tails, one queue at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

from pipeflow.clock import Clock, Signal
from pipeflow.embedded.group import Gathering
from pipeflow.embedded.head import Head
from pipeflow.embedded.journal import Journal, Recovered
from pipeflow.embedded.nouns import Nouns
from pipeflow.errors import PipeflowError, Unavailable

SWEEP_ROWS = 2_000


class Tended(Protocol):
    """What tending needs of the broker it is part of."""

    url: str
    nouns: Nouns

    @property
    def clock(self) -> Clock: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def gathering(self) -> Gathering: ...

    async def committed(self) -> None: ...

    def written_behind(self) -> None: ...

    def check_open(self) -> None: ...

    def fail(self, error: PipeflowError) -> None: ...


class Tending:
    """The agenda, the queues that want more of their tail, and the purged ones that want sweeping."""

    def __init__(self, broker: Tended) -> None:
        self._broker = broker
        self._agenda: list[tuple[float, int, Head]] = []
        self._agenda_changed = Signal()
        self._agenda_count = 0
        self._heads: dict[int, Head] = {}
        """Every queue that was ever armed, and is still there."""
        self._hungry: dict[int, Head] = {}
        self._hunger = Signal()
        self._sweeps: dict[int, Head] = {}
        self._unswept: set[int] = set()
        """Queues purged since their last sweep began."""

    async def take_held(self, recovered: Recovered) -> None:
        """Messages that outside consumers hold keep their deadline across the restart."""
        for number, message in recovered.held:
            head = self._broker.nouns.head_by_number(number)
            if head is None:
                continue
            if head.spec.fifo:
                await head.tail.load_group_upto(message.group or "", message.place, self._broker.clock.now())
            else:
                head.hold(message)
            self.arm(head)
        for head in self._broker.nouns.lanes():
            self.feed(head)
            if head.tail.count:
                self.arm(head)
            if head.counters.purged_upto:
                self.sweep(head)
        for head in self._broker.nouns.gone():
            self.sweep(head)

    def arm(self, head: Head) -> None:
        """See to it that time reaches this queue when it next changes something there."""
        due = head.next_due()
        if due < head.armed:
            head.armed = due
            self._agenda_count += 1
            heappush(self._agenda, (due, self._agenda_count, head))
            self._heads[head.number] = head
            if len(self._agenda) > 4 * len(self._heads) + 1024:
                self._tidy()
            if self._agenda[0][2] is head:
                self._agenda_changed.fire()

    def _tidy(self) -> None:
        # Far deadlines that nearer ones took the place of would gather for as long as they are far.
        current = {head.number: (due, count, head) for due, count, head in self._agenda if due == head.armed}
        self._agenda[:] = current.values()
        heapify(self._agenda)

    async def keep_time(self) -> None:
        """Let every deadline have its effect when it comes."""
        agenda = self._agenda
        while True:
            await self._broker.clock.wait(self._agenda_changed, until=agenda[0][0] if agenda else inf)
            now = self._broker.clock.now()
            while agenda and agenda[0][0] <= now:
                due, _, head = heappop(agenda)
                if due != head.armed:
                    continue
                head.armed = inf
                head.tick(now)
                if head.tail.due(now):
                    self.feed(head, force=True)
                else:
                    self.arm(head)
                head.wake()
                self.feed(head)
            self._broker.written_behind()

    def feed(self, head: Head, force: bool = False) -> None:
        """Ask for more of the cold tail when memory has room for it."""
        if (force or head.tail.hungry) and head.number not in self._hungry and not self._broker.journal.instant:
            self._hungry[head.number] = head
            self._hunger.fire()

    async def fed(self, head: Head) -> None:
        """Return when a load of this queue's tail has ended."""
        self._broker.check_open()  # else nobody loads any more
        signal = Signal()
        head.tail.fed.append(signal)
        self.feed(head, force=True)
        await self._broker.clock.wait(signal)
        self._broker.check_open()

    async def load_tails(self) -> None:
        """Read tails and sweep what was purged, whenever somebody asks."""
        while True:
            await self._broker.clock.wait(self._hunger)
            while self._hungry or self._sweeps:
                if self._hungry:
                    head = self._hungry.pop(next(iter(self._hungry)))
                    alive = await self.guarded(self._load(head))
                else:
                    alive = await self.guarded(self._sweep(next(iter(self._sweeps.values()))))
                if not alive:
                    return

    async def _load(self, head: Head) -> None:
        # Who asks from now on may have sent what this load does not see: the next load is theirs.
        fed, head.tail.fed = head.tail.fed, []
        before, found = head.tail.progress, 0
        head.tail.begin_load()
        now, delays = self._broker.clock.now(), head.tail.delays
        ending, coming = head.tail.ending.begin(now), delays is not None and delays.begin(now)
        try:
            # What is on disk must be what this process did until now: rows deleted in the open group are gone.
            await self._broker.committed()
            now = self._broker.clock.now()
            if ending:
                await head.tail.ending.look(now)
            if delays is not None and coming:
                await delays.look()
            if head.tail.delayed_due(now):
                await head.tail.load_delayed(now)
            if head.tail.ready and (fed or head.tail.hungry):
                found = await head.tail.load(now)
        finally:
            head.tail.end_load()
            for signal in fed:
                signal.fire()
        self.arm(head)
        head.wake()
        self._broker.written_behind()
        if found or head.tail.progress != before:
            # A load that met nothing will meet nothing: whoever changes that asks again.
            self.feed(head)

    async def _sweep(self, head: Head) -> None:
        if head.number in self._unswept:
            self._unswept.discard(head.number)
            # Rows may still be on their way to another queue, and the purge itself is not on disk yet.
            await self._broker.committed()
        swept = await self._broker.journal.sweep(head.number, head.counters.purged_upto, SWEEP_ROWS)
        self._broker.gathering.freed.fire()
        if not swept and head.number not in self._unswept:
            self._sweeps.pop(head.number, None)
            self._swept(head)
            self._broker.written_behind()

    def _swept(self, head: Head) -> None:
        if not self._broker.nouns.swept(head):
            return
        # Programs that make queues and delete them for as long as they run are not to keep them all.
        self._broker.gathering.owners.pop(head.number, None)
        self._heads.pop(head.number, None)
        self._agenda[:] = [entry for entry in self._agenda if entry[2] is not head]
        heapify(self._agenda)

    def sweep(self, head: Head) -> None:
        """Delete the rows of a purged queue from the disk, in chunks, when nothing else is to be done."""
        if self._broker.journal.instant:
            self._swept(head)
            return
        self._sweeps[head.number] = head
        self._unswept.add(head.number)
        self._hunger.fire()

    async def guarded(self, work: Awaitable[None]) -> bool:
        """Whether background work went well; what went wrong closes the store."""
        try:
            await work
        except PipeflowError as error:
            self._broker.fail(error)
            return False
        except OSError as error:
            self._broker.fail(Unavailable(f"{self._broker.url}: {error}"))
            return False
        return True
