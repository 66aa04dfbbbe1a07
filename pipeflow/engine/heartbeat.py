"""Keeps every message in hand ours: at half-life all visibility timeouts that need it are extended in one call.

One that is gone cancels its handler's scope. Handler timeouts are kept here too, so that a queue has one timer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from pipeflow.clock import Clock, Signal
from pipeflow.engine.slot import Slot
from pipeflow.engine.supervise import Supervisor
from pipeflow.messages import Delivery, Extend, Receipt, Settled
from pipeflow.protocols import Store

if TYPE_CHECKING:
    from pipeflow.engine.consumer import Consumer


class Heartbeat:
    """One queue's timer. Arms nothing while nothing is in hand."""

    def __init__(self, consumer: Consumer, store: Store, clock: Clock, supervisor: Supervisor) -> None:
        self._consumer = consumer
        self._store = store
        self._clock = clock
        self._supervisor = supervisor
        self._queue = consumer.plan.queue
        self._timeout = consumer.plan.visibility_timeout
        self._changed = Signal()
        self._armed = inf
        self._stopping = False
        self._deadlines: dict[Receipt, float] = {}
        """Of messages whose visibility timeout was changed since they were received; never, of those that are lost."""

    def arrived(self) -> None:
        """Messages came in hand; those that are there already have earlier deadlines."""
        if self._armed == inf and self._timeout:
            self._changed.fire()

    def limit(self, slot: Slot, seconds: float) -> None:
        """Cancel this slot's handler in so many seconds."""
        slot.timeout_at = self._clock.now() + seconds
        if slot.timeout_at < self._armed:
            self._changed.fire()

    def extended(self, delivery: Delivery, until: float) -> None:
        """A handler changed its own visibility timeout."""
        self._deadlines[delivery.receipt] = until
        self._changed.fire()

    def stop(self) -> None:
        """End `run`: nothing is in hand any more."""
        self._stopping = True
        self._changed.fire()

    async def run(self) -> None:
        """Extend and cancel what is due, and sleep until something is."""
        while not self._stopping:
            await self._clock.wait(self._changed, until=self._armed)
            self._expire(self._clock.now())
            due = self._due(self._clock.now())
            if due:
                await self._extend(due)
            self._armed = self._next(self._clock.now())

    def _expire(self, now: float) -> None:
        for slot in self._consumer.slots:
            if slot.timeout_at <= now:
                slot.expire()

    def _due(self, now: float) -> list[Delivery]:
        if not self._timeout:
            return []
        half = self._timeout / 2
        return [delivery for delivery in self._consumer.holding() if self._deadline(delivery) - half <= now]

    async def _extend(self, due: Sequence[Delivery]) -> None:
        batch = [Extend(delivery.receipt, self._timeout) for delivery in due]
        answers = await self._supervisor.call(lambda: self._store.settle(self._queue, batch), self._queue)
        until = self._clock.now() + self._timeout
        in_hand = {delivery.receipt for delivery in self._consumer.holding()}
        for delivery, answer in zip(due, answers, strict=True):
            if delivery.receipt not in in_hand:
                continue  # it was settled meanwhile, and so its receipt is rightly stale
            if isinstance(answer, Settled):
                self._deadlines[delivery.receipt] = until
            else:
                self._deadlines[delivery.receipt] = inf  # until its handler has stopped
                self._consumer.lost(delivery)

    def _next(self, now: float) -> float:
        live = list(self._consumer.holding())
        self._forget(live)
        first = min((slot.timeout_at for slot in self._consumer.slots), default=inf)
        if live and self._timeout:
            first = min(first, min(map(self._deadline, live)) - self._timeout / 2)
        return first

    def _deadline(self, delivery: Delivery) -> float:
        return self._deadlines.get(delivery.receipt, delivery.deadline)

    def _forget(self, live: Sequence[Delivery]) -> None:
        for gone in self._deadlines.keys() - {delivery.receipt for delivery in live}:
            del self._deadlines[gone]
