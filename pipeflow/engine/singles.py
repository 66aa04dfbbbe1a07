"""Handlers that take one message a call: the hot path, and the order of FIFO groups.

All messages of a FIFO group in hand are one worker's, in order; one that fails releases every later one (P11, H22).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from pipeflow.engine.outcome import EmitRefused, shrugged_off, told_to_stop
from pipeflow.engine.slot import Slot
from pipeflow.messages import Ack, Delivery, Refused

if TYPE_CHECKING:
    from pipeflow.engine.consumer import Consumer

BURST = 64
"""Messages a worker handles without a real await before others get the loop; or as many as fit in SPELL."""

SPELL = 0.005
"""Seconds."""


class Singles:
    """What waits for a worker, and what a worker does with one message after the other."""

    def __init__(self, consumer: Consumer) -> None:
        assert consumer.plan.handle is not None
        self._consumer = consumer
        self._handle = consumer.plan.handle
        self._fifo = consumer.plan.fifo
        self._waiting: deque[Delivery] = deque()
        self._groups: dict[str | None, deque[Delivery]] = {}
        """FIFO: what is in hand of each group, behind the message its worker handles."""
        self._ready: deque[deque[Delivery]] = deque()
        """FIFO: groups that no worker has taken yet."""

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Hand over what arrived."""
        if not self._fifo:
            self._waiting.extend(deliveries)
            self._consumer.call_one()
            return
        for delivery in deliveries:
            group = self._groups.get(delivery.group)
            if group is None:
                group = self._groups[delivery.group] = deque()
                self._ready.append(group)
            group.append(delivery)
        if self._ready:
            self._consumer.call_one()

    def waiting(self) -> Iterator[Delivery]:
        """What no worker has taken yet."""
        return chain(self._waiting, chain.from_iterable(self._ready))

    def drop(self, delivery: Delivery) -> bool:
        """Forget a message that waits: it is not ours any more."""
        places: Iterable[deque[Delivery]] = chain((self._waiting,), self._groups.values())
        for place in places:
            if any(waiting is delivery for waiting in place):
                place.remove(delivery)
                if place in self._ready and not place:
                    self._ready.remove(place)
                    del self._groups[delivery.group]
                return True
        return False

    async def serve(self, slot: Slot) -> None:
        """Handle one message after the other until cancelled or told to stop.

        Does not suspend while handlers do not and there is work, for one burst.
        """
        consumer = self._consumer
        clock = consumer.clock
        count, since = 0, clock.now()
        while not consumer.stopping:
            delivery = self._next(slot)
            if delivery is None:
                await consumer.park(slot)
                count, since = 0, clock.now()
                continue
            await self._run(slot, delivery)
            if slot.held or slot.scope.cancel_called:
                return
            count += 1
            if count >= BURST or (not count & 3 and clock.now() - since > SPELL):
                await asyncio.sleep(0)
                count, since = 0, clock.now()

    def _next(self, slot: Slot) -> Delivery | None:
        # Whoever takes one wakes one other for the next: where handlers do not wait, one worker does it all, and the
        # others are not woken for nothing.
        if not self._fifo:
            if not self._waiting:
                return None
            delivery = self._waiting.popleft()
            if self._waiting:
                self._consumer.call_one()
            return delivery
        while not slot.run:
            if not self._ready:
                return None
            slot.run = self._ready.popleft()
            if self._ready:
                self._consumer.call_one()
        return slot.run.popleft()

    async def _run(self, slot: Slot, delivery: Delivery) -> None:
        consumer = self._consumer
        slot.held = (delivery,)
        gate = consumer.gate
        if (gate.closed or delivery.alone) and not await gate.admit(slot.signal, delivery.alone):
            return  # stopping: it stays in hand, to be given back
        gate.busy += 1
        watched = bool(consumer.observers)
        if consumer.plan.timeout is not None:
            consumer.heartbeat.limit(slot, consumer.plan.timeout)
        started = consumer.clock.now() if watched else 0.0
        try:
            await self._handle(delivery)
        except BaseException as error:
            if told_to_stop(error):
                raise
            if slot.scope.cancel_called:
                return  # it was told to stop, and says so in its own words
            self._failed(slot, delivery, error)
        else:
            if slot.scope.cancel_called or (consumer.stopping and shrugged_off()):
                return
            await self._returned(slot, delivery, consumer.clock.now() - started if watched else 0.0)
        finally:
            gate.left(delivery.alone)
        self._done(slot, delivery)

    async def _returned(self, slot: Slot, delivery: Delivery, seconds: float) -> None:
        emits = slot.emits
        if not emits:
            self._consumer.ack(Ack(delivery.receipt), delivery, seconds)
            return
        slot.emits = []
        slot.timeout_at = inf
        acknowledgement = Ack(delivery.receipt, emits)
        if not self._fifo:
            self._consumer.ack(acknowledgement, delivery, seconds)
            return
        # A refused emit is a failure, and then no later message of the group may have run: so the answer is awaited.
        answer = await self._consumer.settler.settle_now(acknowledgement, delivery, seconds)
        if isinstance(answer, Refused):
            self._failed(slot, delivery, EmitRefused.by(self._consumer.plan.queue, answer))
        else:
            self._consumer.let_go()

    def _failed(self, slot: Slot, delivery: Delivery, error: BaseException) -> None:
        self._consumer.fail(delivery, error)
        self._release_rest(slot)

    def _release_rest(self, slot: Slot) -> None:
        while slot.run:
            self._consumer.release(slot.run.popleft())

    def _done(self, slot: Slot, delivery: Delivery) -> None:
        slot.held = ()
        slot.timeout_at = inf
        if slot.emits:
            slot.emits = []
        if self._fifo and not slot.run:
            self._groups.pop(delivery.group, None)
            slot.run = deque()

    def interrupted(self, slot: Slot) -> None:
        """The handler was cancelled: its time was up, or the message is not ours any more."""
        (delivery,) = slot.held
        if delivery.id in slot.lost:
            self._consumer.let_go()
        elif slot.timed_out:
            self._consumer.fail(delivery, self._consumer.timed_out())
        else:
            self._consumer.release(delivery)
        self._release_rest(slot)
        slot.stopped()
        self._done(slot, delivery)
