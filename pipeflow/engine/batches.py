"""Handlers that take many messages a call: size or linger, whichever first, and bisect until the culprits stand alone.

A batch whose handler raises is split, the first half first; bisecting costs no attempt. In FIFO queues a group is in
one batch at a time, and a failure releases every later message of its group in hand (P11, H29).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from pipeflow.clock import Signal
from pipeflow.engine.outcome import EmitRefused, shrugged_off, told_to_stop
from pipeflow.engine.slot import Slot
from pipeflow.errors import Retry
from pipeflow.messages import Ack, Delivery, Emit, Refused, Settled

if TYPE_CHECKING:
    from pipeflow.engine.consumer import Consumer


class Batches:
    """What gathers into batches, and what a worker does with one batch after the other."""

    def __init__(self, consumer: Consumer) -> None:
        assert consumer.plan.handle_batch is not None
        self._consumer = consumer
        self._handle = consumer.plan.handle_batch
        self._size = consumer.plan.batching.size
        self._linger = consumer.plan.batching.linger
        self._fifo = consumer.plan.fifo
        self._pending: deque[tuple[float, Delivery]] = deque()
        """(when it arrived, message), oldest first."""
        self._parts: dict[Slot, list[list[Delivery]]] = {slot: [] for slot in consumer.slots}
        """What is left of each worker's batch after a split; the next part is last."""
        self._groups: dict[Slot, set[str | None]] = {slot: set() for slot in consumer.slots}
        """FIFO: the groups of each worker's batch, which no other batch may hold."""
        self._changed = Signal()

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Hand over what arrived."""
        now = self._consumer.clock.now()
        self._pending.extend((now, delivery) for delivery in deliveries)
        self._announce()

    def waiting(self) -> Iterator[Delivery]:
        """What no handler works on: gathering, or in a part whose turn has not come."""
        parts = chain.from_iterable(chain.from_iterable(self._parts.values()))
        return chain((delivery for _, delivery in self._pending), parts)

    def drop(self, delivery: Delivery) -> bool:
        """Forget a message that waits: it is not ours any more."""
        if any(delivery is waiting for _, waiting in self._pending):
            self._pending = deque(pair for pair in self._pending if pair[1] is not delivery)
            return True
        for part in chain.from_iterable(self._parts.values()):
            if any(delivery is waiting for waiting in part):
                part.remove(delivery)
                return True
        return False

    async def linger(self) -> None:
        """Wake a worker when the oldest message has waited long enough for others."""
        clock = self._consumer.clock
        while True:
            if not await clock.wait(self._changed, until=self._due(clock.now())):
                self._consumer.wake(1)

    def _due(self, now: float) -> float:
        eligible = self._eligible()
        if not eligible or self._ripe(eligible, now):
            return inf  # nothing to wait for: the workers know
        return eligible[0][0] + self._linger

    def _eligible(self) -> Sequence[tuple[float, Delivery]]:
        if not self._fifo:
            return self._pending
        busy = set().union(*self._groups.values())
        return [pair for pair in self._pending if pair[1].group not in busy]

    def _ripe(self, eligible: Sequence[tuple[float, Delivery]], now: float) -> bool:
        if not eligible:
            return False
        since, oldest = eligible[0]
        # A message that runs alone has nobody to wait for: a batch of them after a crash would linger one by one.
        return len(eligible) >= self._size or oldest.alone or now >= since + self._linger

    def _announce(self) -> None:
        eligible = self._eligible()
        if self._ripe(eligible, self._consumer.clock.now()):
            self._consumer.wake(-(-len(eligible) // self._size))
        self._changed.fire()

    async def serve(self, slot: Slot) -> None:
        """Handle one batch after the other until cancelled or told to stop."""
        while not self._consumer.stopping:
            part = self._next(slot)
            if part is None:
                await self._consumer.park(slot)
                continue
            await self._run(slot, part)
            if slot.held or slot.scope.cancel_called:
                return
            # Batches are long: the others get the loop after each.
            await asyncio.sleep(0)

    def _next(self, slot: Slot) -> list[Delivery] | None:
        parts = self._parts[slot]
        while parts:
            part = parts.pop()
            if part:
                return part
        if self._fifo and self._groups[slot]:
            self._groups[slot].clear()
            self._announce()
        return self._take(slot)

    def _take(self, slot: Slot) -> list[Delivery] | None:
        eligible = self._eligible()
        if not self._ripe(eligible, self._consumer.clock.now()):
            return None
        batch: list[Delivery] = []
        for _, delivery in eligible:
            if len(batch) == self._size or (batch and (delivery.alone or batch[0].alone)):
                break
            batch.append(delivery)
        self._remove(batch)
        if self._fifo:
            self._groups[slot].update(delivery.group for delivery in batch)
        if self._pending:
            self._changed.fire()
        return batch

    def _remove(self, batch: Sequence[Delivery]) -> None:
        if not self._fifo:
            for _ in batch:
                self._pending.popleft()
            return
        taken = {id(delivery) for delivery in batch}
        self._pending = deque(pair for pair in self._pending if id(pair[1]) not in taken)

    async def _run(self, slot: Slot, part: list[Delivery]) -> None:
        consumer = self._consumer
        slot.held = part
        gate = consumer.gate
        alone = part[0].alone
        if (gate.closed or alone) and not await gate.admit(slot.signal, alone):
            return  # stopping: all of it stays in hand, to be given back
        gate.busy += 1
        if consumer.plan.timeout is not None:
            consumer.heartbeat.limit(slot, consumer.plan.timeout)
        started = consumer.clock.now()
        try:
            failures = await self._handle(part)
        except BaseException as error:
            if told_to_stop(error):
                raise
            if slot.scope.cancel_called:
                return
            self._raised(slot, part, error)
        else:
            if slot.scope.cancel_called or (consumer.stopping and shrugged_off()):
                return
            await self._returned(slot, part, failures, consumer.clock.now() - started)
        finally:
            gate.left(alone)
        self._done(slot)

    async def _returned(
        self, slot: Slot, part: Sequence[Delivery], failures: Mapping[str, BaseException], seconds: float
    ) -> None:
        emits, slot.emits = slot.emits, []
        if emits:
            slot.timeout_at = inf
            part, refused = await self._carry(slot, part, failures, emits)
            if refused is not None:
                self._raised(slot, part, refused)
                return
        self._settle(slot, part, failures, seconds)

    async def _carry(
        self, slot: Slot, part: Sequence[Delivery], failures: Mapping[str, BaseException], emits: list[Emit]
    ) -> tuple[Sequence[Delivery], EmitRefused | None]:
        """Commit what the batch emitted with its first acknowledgement; what is left of the batch.

        Before any other: were the receipt stale or an emit refused, the others would be gone and the emits with them.
        """
        for delivery in self._handled(part, failures):
            answer = await self._consumer.settler.settle_now(Ack(delivery.receipt, emits), delivery, 0.0)
            if isinstance(answer, Refused):
                return part, EmitRefused.by(self._consumer.plan.queue, answer)
            part = [other for other in part if other is not delivery]
            slot.held = part
            self._consumer.let_go()
            if isinstance(answer, Settled):
                break
        return part, None

    def _handled(self, part: Sequence[Delivery], failures: Mapping[str, BaseException]) -> list[Delivery]:
        handled: list[Delivery] = []
        failed: set[str | None] = set()
        for delivery in part:
            if delivery.id in failures:
                failed.add(delivery.group)
            elif not (self._fifo and delivery.group in failed):
                handled.append(delivery)
        return handled

    def _settle(
        self, slot: Slot, part: Sequence[Delivery], failures: Mapping[str, BaseException], seconds: float
    ) -> None:
        handled = {delivery.id for delivery in self._handled(part, failures)}
        failed: set[str | None] = set()
        for delivery in part:
            if delivery.id in handled:
                self._consumer.ack(Ack(delivery.receipt), delivery, seconds)
                seconds = 0.0
            elif self._fifo and delivery.group in failed:
                self._consumer.release(delivery)
            else:
                self._consumer.fail(delivery, failures[delivery.id])
                failed.add(delivery.group)
        self._release_later(slot, failed)

    def _raised(self, slot: Slot, part: Sequence[Delivery], error: BaseException) -> None:
        slot.emits = []
        whole = isinstance(error, Retry) or (isinstance(error, EmitRefused) and error.for_now)
        if len(part) > 1 and not whole:
            middle = (len(part) + 1) // 2
            self._parts[slot] += [list(part[middle:]), list(part[:middle])]
            return
        self._settle(slot, part, {delivery.id: error for delivery in part}, 0.0)

    def _release_later(self, slot: Slot, failed: set[str | None]) -> None:
        """A group that failed runs on from its failure, so nothing of it that is in hand may run before."""
        if not self._fifo or not failed:
            return
        for part in self._parts[slot]:
            for delivery in [later for later in part if later.group in failed]:
                part.remove(delivery)
                self._consumer.release(delivery)
        late = [delivery for _, delivery in self._pending if delivery.group in failed]
        self._remove(late)
        for delivery in late:
            self._consumer.release(delivery)

    def _done(self, slot: Slot) -> None:
        slot.held = ()
        slot.timeout_at = inf

    def interrupted(self, slot: Slot) -> None:
        """The handler was cancelled: its time was up, or a message is not ours any more."""
        lost = {delivery.group for delivery in slot.held if delivery.id in slot.lost}
        ours = [delivery for delivery in slot.held if delivery.id not in slot.lost]
        for _ in range(len(slot.held) - len(ours)):
            self._consumer.let_go()
        slot.emits = []
        if slot.timed_out and ours and not slot.lost:
            self._raised(slot, ours, self._consumer.timed_out())
        else:
            for delivery in ours:
                self._consumer.release(delivery)
        self._release_later(slot, lost)
        slot.stopped()
        self._done(slot)
