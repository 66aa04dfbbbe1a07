"""The relay of an outbox: what a program committed in its own database is sent into the store, each message once.

The id of each row commits with its message, as the position of a source does. So a crash between the store's commit
and the deletion of the row sends nothing again, and one before it sends what is still there. Rows are deleted a while
later, when the store has synced what was sent at any durability. A row that cannot be sent is set aside with the
reason, and those behind it go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from math import inf

from anyio import CancelScope
from msgspec.structs import replace

from pipeflow.clock import Clock, Signal
from pipeflow.engine.lacking import lacking
from pipeflow.engine.supervise import Supervisor
from pipeflow.errors import Indeterminate, NotFound, RefusedError, Unavailable
from pipeflow.events import Observers, Published, Queued, Refusal
from pipeflow.messages import Refused, Sent
from pipeflow.outboxes import NotNow, OutboxRow, OutboxTable
from pipeflow.protocols import BEHIND, Store

logger = logging.getLogger("pipeflow")

SOON = 0.001
"""Seconds until the next look after something happened, doubled with each look that finds nothing ..."""
IDLE = 0.25
"""... up to this: how late a commit of another program is seen at most. A look costs 0.1 ms of processor time."""
KEPT = 1.0
"""Seconds that rows are kept after they were sent: a store with durability=normal syncs within a tenth of that."""
TROUBLED = 5.0
"""Seconds until the next look at a database that could not be used, or at a row that the full disk refuses."""
TRANSIENT = frozenset({"disk_full"})
"""Refusals that say nothing about the row."""


class OutboxRelay:
    """Relays one outbox for as long as it runs."""

    def __init__(
        self,
        name: str,
        table: OutboxTable,
        *,
        store: Store,
        clock: Clock,
        observers: Observers,
        supervisor: Supervisor,
        progressed: Callable[[], None],
    ) -> None:
        self.name = name
        self._table = table
        self._store = store
        self._lacking = lacking(store)
        self._clock = clock
        self._observers = observers
        self._supervisor = supervisor
        self._progressed = progressed
        self._source: str | None = None
        """The name that positions have: other outboxes may have this one's."""
        self._after = 0
        self._alone_upto = 0
        """Rows up to this one go alone, as one call for many of them was refused."""
        self._pause = SOON
        self._nudged = Signal()
        self._asking: list[Signal] = []
        self._forget: tuple[float, int] | None = None
        """(when, up to which row): rows that were sent and are to be deleted."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def nudge(self) -> None:
        """Something is about to be committed. May be called from any thread."""
        loop = self._loop
        if loop is None:
            return
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            self._wake()
        else:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._pause = SOON
        self._nudged.fire()

    async def caught_up(self) -> None:
        """Return when everything that was committed before this call has been sent or set aside."""
        signal = Signal()
        self._asking.append(signal)
        self._wake()
        await self._clock.wait(signal)

    async def run(self) -> None:
        """Relay until cancelled. ConfigurationError: the table cannot be where it was said to be."""
        self._loop = asyncio.get_running_loop()
        try:
            with suppress(NotNow):  # it is opened again with every look
                await self._table.open()
            await self._follow()
        finally:
            self._loop = None
            with CancelScope(shield=True):
                await self._table.close()

    async def _follow(self) -> None:
        again = True
        while True:
            asking, self._asking = self._asking, []
            try:
                rows = await self._table.read(self._after, again) if await self._known() else None
                again = bool(rows)
                if rows:
                    self._asking = asking + self._asking
                    await self._relay([self._fit(row) for row in rows] if self._lacking is not None else rows)
                    self._pause = SOON
                await self._tidy()
                if rows:
                    continue
            except NotNow as error:
                logger.warning("%s: %s; it is looked at again in %g s", self.name, error, TROUBLED)
                again = True
                self._asking = asking + self._asking
                await self._clock.wait(Signal(), self._clock.now() + TROUBLED)
                continue
            for signal in asking:
                signal.fire()
            due = self._forget[0] if self._forget is not None else inf
            await self._clock.wait(self._nudged, min(self._clock.now() + self._pause, due))
            self._pause = min(self._pause * 2, IDLE)

    async def _relay(self, rows: Sequence[OutboxRow]) -> None:
        """Send rows in their order, many of one target in one call; return early where one could not be sent."""
        for (kind, target, unreadable, _), some in groupby(rows, key=self._together):
            batch = list(some)
            if unreadable:
                await self._set_aside(batch[:1], unreadable)
                return
            try:
                answers = await self._supervisor.call(partial(self._send, batch), self.name)
            except (NotFound, RefusedError) as error:
                if isinstance(error, RefusedError) and error.code in TRANSIENT:
                    raise NotNow(str(error)) from error
                if isinstance(error, RefusedError) and len(batch) > 1:
                    # Perhaps one row is all that is refused: the next look asks for each of these.
                    self._alone_upto = batch[-1].id
                else:
                    await self._set_aside(batch, str(error))
                return
            except Unavailable as error:
                await self._store.position(str(self._source))  # if the store itself is gone, this says so
                raise NotNow(str(error)) from error
            if answers is None:
                assert self._source is not None
                self._after = max(self._after, await self._position(self._source))
                return
            sent = next((n for n, answer in enumerate(answers) if isinstance(answer, Refused)), len(batch))
            if sent:
                self._passed(batch[sent - 1].id)
                event = Published if kind == "topic" else Queued
                self._observers.emit(event(self._clock.now(), target, sent))
                self._progressed()
            if sent < len(batch):
                await self._refused(batch[sent], answers[sent])
                return

    def _fit(self, row: OutboxRow) -> OutboxRow:
        """The row; unreadable, and so to be set aside, where it asks for what the store cannot do."""
        assert self._lacking is not None
        reason = self._lacking.reason(f"{row.kind} {row.target}", row.message)
        return row if reason is None or row.unreadable else replace(row, unreadable=reason)

    def _together(self, row: OutboxRow) -> tuple[str, str, str, int]:
        """What rows that go in one call have in common."""
        return row.kind, row.target, row.unreadable, row.id if row.id <= self._alone_upto else 0

    async def _send(self, batch: list[OutboxRow]) -> Sequence[Sent | Refused] | None:
        """What became of each; None where that cannot be told, and the store's position says it."""
        # The position goes with each message into the same commit.
        assert self._source is not None
        messages = [replace(row.message, checkpoint=(self._source, str(row.id).encode())) for row in batch]
        send = self._store.publish if batch[0].kind == "topic" else self._store.send
        try:
            return await send(batch[0].target, messages)
        except Indeterminate:
            if not self._store.features.reconnects:
                raise
            return None

    async def _known(self) -> bool:
        """Whether there is an outbox, and so where its relay goes on."""
        if self._source is None:
            # An older pipeflow kept positions by name alone.
            found = await self._table.identity(await self._position(self.name))
            if found is None:
                return False
            identity, upto = found
            self._source = f"{self.name} {identity}"
            self._after = max(upto, await self._position(self._source))
            self._forget = (-inf, self._after) if self._after else None
        return True

    async def _position(self, source: str) -> int:
        position = await self._supervisor.call(lambda: self._store.position(source), self.name)
        return int(position) if position is not None else 0

    async def _refused(self, row: OutboxRow, answer: Sent | Refused) -> None:
        assert isinstance(answer, Refused)
        assert answer is not BEHIND
        if answer.code in TRANSIENT:
            raise NotNow(f"{row.kind} {row.target}: {answer.reason}")
        await self._set_aside([row], answer.reason)

    async def _set_aside(self, rows: Sequence[OutboxRow], reason: str) -> None:
        for row in rows:
            # On disk first: only then may the position of a later row pass it.
            await self._table.set_aside(row.id, reason)
            self._after = row.id
            self._observers.emit(Refusal(self._clock.now(), f"outbox {self.name}", reason))
            logger.error("%s: row %d for %s %s is set aside: %s", self.name, row.id, row.kind, row.target, reason)

    def _passed(self, id: int) -> None:
        self._after = id
        if self._forget is None:
            self._forget = (self._clock.now() + KEPT, id)

    async def _tidy(self) -> None:
        if self._forget is None or self._clock.now() < self._forget[0]:
            return
        _, upto = self._forget
        try:
            await self._table.forget(upto)
        except NotNow:
            # A writer is busy there: what waits to be sent does not wait for this.
            self._forget = (self._clock.now() + KEPT, upto)
            return
        # What was sent meanwhile waits its own while.
        later = self._after > upto
        self._forget = (self._clock.now() + KEPT, self._after) if later else None
