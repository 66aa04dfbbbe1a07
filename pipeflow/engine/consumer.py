"""One queue's consumer: demand is free slots, and a slot is a worker that lives as long as the app.

Intake asks the broker for what the workers can take now, which is the back-pressure. Workers share what has arrived;
there is no task, stream or scope per message. What is in hand when the app closes is released unharmed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from anyio import CancelScope
from anyio.abc import TaskGroup

from pipeflow.clock import Clock, Signal
from pipeflow.engine.batches import Batches
from pipeflow.engine.gate import Gate
from pipeflow.engine.heartbeat import Heartbeat
from pipeflow.engine.outcome import Cancelled, EmitRefused, Raised, decide, waitable
from pipeflow.engine.plan import HandlerPlan
from pipeflow.engine.settler import Settler
from pipeflow.engine.singles import Singles
from pipeflow.engine.slot import Slot, current_slot
from pipeflow.engine.supervise import Supervisor, spawn
from pipeflow.errors import Retry
from pipeflow.events import Lost, Observers
from pipeflow.messages import Ack, Bury, Delivery, Release, Want
from pipeflow.names import Chance
from pipeflow.protocols import Store

if TYPE_CHECKING:
    from pipeflow.engine.runtime import Runtime

logger = logging.getLogger("pipeflow")


class Consumer:
    """Receives from one queue, runs its handler and settles what came of it."""

    def __init__(
        self,
        plan: HandlerPlan,
        runtime: Runtime,
        *,
        store: Store,
        clock: Clock,
        chance: Chance,
        observers: Observers,
        supervisor: Supervisor,
        gate: Gate,
        progressed: Signal,
    ) -> None:
        self.plan = plan
        self.clock = clock
        self.gate = gate
        self.observers = observers
        self.slots = [Slot(runtime) for _ in range(plan.concurrency)]
        self.in_hand = 0
        """Messages received and not yet decided about."""
        self.stopping = False
        self._store = store
        self._chance = chance
        self._supervisor = supervisor
        self._progressed = progressed
        self._idle: list[Slot] = []
        self._called = False
        """Whether a worker was woken by `call_one` and has not come yet."""
        self._freed = Signal()
        self._alive = 0
        self._gone = Signal()
        self._hurried = False
        self.settler = Settler(
            plan.queue, store, clock, supervisor, observers, settled=self._settled, refused=self._emit_refused
        )
        self.heartbeat = Heartbeat(self, store, clock, supervisor)
        self.work: Singles | Batches = Singles(self) if plan.handle is not None else Batches(self)

    # -- life

    def start(self, heartbeats: TaskGroup, workers: TaskGroup, intake: TaskGroup) -> None:
        """Start every task of this queue in the scope that may outlive the others."""
        queue = self.plan.queue
        spawn(heartbeats, self.clock, self.settler.run, f"settle {queue}")
        spawn(heartbeats, self.clock, self.heartbeat.run, f"heartbeat {queue}")
        self._alive = len(self.slots)
        for number, slot in enumerate(self.slots):
            spawn(workers, self.clock, partial(self._live, slot), f"worker {number} of {queue}")
        spawn(intake, self.clock, self._receive, f"intake {queue}")
        if isinstance(self.work, Batches):
            spawn(intake, self.clock, self.work.linger, f"gather {queue}")

    def stop(self) -> None:
        """Let workers finish what they run and leave; what waits in hand stays for `give_back`."""
        self.stopping = True
        self.wake(len(self._idle))

    async def give_back(self) -> None:
        """Release everything in hand and settle all that was decided; called when no worker is left."""
        self.heartbeat.stop()
        for delivery in list(self.holding()):
            self.settler.add(decide(delivery, Cancelled(), self.plan.policy, 0.0, 0.0), delivery)
        self.in_hand = 0
        await self.settler.finish()

    def finish(self) -> None:
        """Let the last task end: everything is settled."""
        self.settler.close()

    async def left(self, until: float) -> None:
        """Return when no worker is left, at `until`, or when `hurry` was called."""
        while self._alive and not self._hurried:
            if not await self.clock.wait(self._gone, until):
                return

    def hurry(self) -> None:
        """Wait for workers no longer."""
        self._hurried = True
        self._gone.fire()

    def holding(self) -> Iterator[Delivery]:
        """Every message in hand: in handlers, behind them in a FIFO group, and waiting for a worker."""
        return chain(
            chain.from_iterable(slot.held for slot in self.slots),
            chain.from_iterable(slot.run for slot in self.slots),
            self.work.waiting(),
        )

    @property
    def quiet(self) -> bool:
        """Whether nothing is in hand and nothing waits to be settled."""
        return not self.in_hand and self.settler.empty

    # -- intake

    async def _receive(self) -> None:
        capacity = self.plan.concurrency * self.plan.batching.size
        while True:
            free = capacity - self.in_hand
            if free <= 0 or self.settler.full:
                await self.clock.wait(self._freed)
                continue
            want = Want(limit=free, wait=inf)
            arrived = await self._supervisor.call(partial(self._store.receive, self.plan.queue, want), self.plan.queue)
            if arrived:
                self.in_hand += len(arrived)
                self.work.put(arrived)
                self.heartbeat.arrived()

    # -- workers

    async def _live(self, slot: Slot) -> None:
        current_slot.set(slot)
        try:
            while not self.stopping:
                with CancelScope() as slot.scope:
                    await self.work.serve(slot)
                if slot.held and slot.scope.cancel_called:
                    self.work.interrupted(slot)
        finally:
            self._alive -= 1
            if not self._alive:
                self._gone.fire()

    async def park(self, slot: Slot) -> None:
        """Wait until there may be something to do."""
        if self.stopping:
            return
        self._idle.append(slot)
        await self.clock.wait(slot.signal)
        self._called = False

    def wake(self, count: int) -> None:
        """Wake so many idle workers, or all there are."""
        for _ in range(min(count, len(self._idle))):
            self._idle.pop().signal.fire()

    def call_one(self) -> None:
        """Wake one idle worker, unless one is on its way already."""
        if self._idle and not self._called:
            self._called = True
            self._idle.pop().signal.fire()

    # -- fates

    def fail(self, delivery: Delivery, error: BaseException) -> None:
        """One attempt failed: later, or to the dead letters."""
        now = self.clock.now()
        settlement = decide(delivery, Raised(error), self.plan.policy, self._chance.roll(), now)
        if isinstance(settlement, Release):
            logger.warning(
                "%s: message %s is tried again in %.1f s, which counts as no attempt: %s",
                self.plan.queue, delivery.id, settlement.delay, error,
            )  # fmt: skip
            self.settler.add(settlement, delivery)
            self.let_go()
            return
        fate = "to the dead letters" if isinstance(settlement, Bury) else "again later"
        logger.info(
            "%s: attempt %d of message %s failed in %s, %s: %s: %s",
            self.plan.queue, delivery.attempt, delivery.id, self.plan.name, fate, type(error).__name__, error,
            exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
        )  # fmt: skip
        if isinstance(error, Retry) and error.after is not None and not waitable(error.after):
            logger.warning(
                "%s: %s raised Retry(after=%r); use a number of seconds up to a year. The message waits as after any"
                " other failure",
                self.plan.queue, self.plan.name, error.after,
            )  # fmt: skip
        self.settler.add(settlement, delivery)
        self.let_go()

    def release(self, delivery: Delivery) -> None:
        """Give one message back: not an attempt."""
        self.settler.add(decide(delivery, Cancelled(), self.plan.policy, 0.0, 0.0), delivery)
        self.let_go()

    def ack(self, acknowledgement: Ack, delivery: Delivery, seconds: float) -> None:
        """Handled."""
        self.settler.add(acknowledgement, delivery, seconds)
        self.let_go()

    def let_go(self) -> None:
        """One message is decided about: its place is free."""
        self.in_hand -= 1
        self._freed.fire()

    def timed_out(self) -> TimeoutError:
        """What a handler that took too long is taken to have raised (H31)."""
        return TimeoutError(f"{self.plan.name} took longer than its timeout of {self.plan.timeout} s")

    def lost(self, delivery: Delivery) -> None:
        """The visibility timeout could not be kept: whoever works on it stops, and its fate is not ours any more."""
        logger.warning("%s: lost message %s: its visibility timeout ran out", self.plan.queue, delivery.id)
        self.observers.emit(Lost(self.clock.now(), self.plan.queue, [delivery.id]))
        if any(slot.lose(delivery) for slot in self.slots):
            return
        if self.work.drop(delivery):
            self.let_go()

    def _settled(self) -> None:
        self._freed.fire()
        if self.quiet:
            self._progressed.fire()

    def _emit_refused(self, delivery: Delivery, error: EmitRefused) -> None:
        # The message is still held, as the acknowledgement that carried the emit was not done.
        self.in_hand += 1
        self.fail(delivery, error)
