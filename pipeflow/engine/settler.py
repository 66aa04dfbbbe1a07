"""Settlements gather while the last call runs, and all that gathered goes in one call.

Nothing is reported as handled before the call that carries it has answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeflow.clock import Clock, Signal
from pipeflow.engine.outcome import EmitRefused
from pipeflow.engine.supervise import Supervisor
from pipeflow.events import Buried, Event, Handled, Lost, Observers, Published, Queued, Refusal, Released, Retried
from pipeflow.messages import Ack, Bury, Defer, Delivery, Emit, Extend, Refused, Release, Settled, Settlement, Stale
from pipeflow.protocols import Store

logger = logging.getLogger("pipeflow")

BOUND = 1_000
"""Settlements that may wait before intake pauses: what a slow commit may pile up, per queue."""


class Settler:
    """Settles what one queue's workers decided."""

    __slots__ = (
        "_queue", "_store", "_clock", "_supervisor", "_observers", "_gathered", "_deliveries", "_seconds", "_arrived",
        "_calls", "_answered", "_settled", "_refused", "_closing", "given_back",
    )  # fmt: skip

    def __init__(
        self,
        queue: str,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
        observers: Observers,
        *,
        settled: Callable[[], None],
        refused: Callable[[Delivery, EmitRefused], None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._clock = clock
        self._supervisor = supervisor
        self._observers = observers
        self._gathered: list[Settlement] = []
        self._deliveries: list[Delivery] = []
        self._seconds = 0.0
        self._arrived = Signal()
        self._calls = 0
        self._answered = Signal()
        self._settled = settled
        self._refused = refused
        self._closing = False
        self.given_back = 0
        """Messages released unharmed so far."""

    def add(self, settlement: Settlement, delivery: Delivery, seconds: float = 0.0) -> None:
        """Settle this soon; never waits."""
        self._gathered.append(settlement)
        self._deliveries.append(delivery)
        self._seconds += seconds
        if len(self._gathered) == 1:
            self._arrived.fire()

    @property
    def full(self) -> bool:
        """Whether intake should pause until the broker has caught up."""
        return len(self._gathered) >= BOUND

    @property
    def empty(self) -> bool:
        """Whether everything added has been settled."""
        return not self._gathered and not self._calls

    def close(self) -> None:
        """End `run` once everything added has been settled."""
        self._closing = True
        self._arrived.fire()

    async def run(self) -> None:
        """Settle whatever gathers, until closed."""
        while self._gathered or not self._closing:
            if not self._gathered:
                await self._clock.wait(self._arrived)
                continue
            await self.flush()

    async def flush(self) -> None:
        """Settle what has gathered, in one call."""
        batch, deliveries, seconds = self._gathered, self._deliveries, self._seconds
        self._gathered, self._deliveries, self._seconds = [], [], 0.0
        self._calls += 1
        try:
            answers = await self._supervisor.call(lambda: self._store.settle(self._queue, batch), self._queue)
        finally:
            self._calls -= 1
            self._answered.fire()
        self._report(batch, deliveries, answers, seconds)
        self._settled()

    async def finish(self) -> None:
        """Return when everything added has been settled, whether or not `run` still runs."""
        while not self.empty:
            if self._gathered:
                await self.flush()
            else:
                await self._clock.wait(self._answered)

    async def settle_now(self, settlement: Settlement, delivery: Delivery, seconds: float) -> Settled | Stale | Refused:
        """Settle one thing and return the answer, for those who must know it before they go on."""
        (answer,) = await self._supervisor.call(lambda: self._store.settle(self._queue, [settlement]), self._queue)
        if isinstance(answer, Refused):
            self._observers.emit(Refusal(self._clock.now(), self._queue, answer.reason))
        else:
            self._report([settlement], [delivery], [answer], seconds)
        return answer

    def _report(
        self,
        batch: Sequence[Settlement],
        deliveries: Sequence[Delivery],
        answers: Sequence[Settled | Stale | Refused],
        seconds: float,
    ) -> None:
        done: list[tuple[Settlement, Delivery]] = []
        stale: list[str] = []
        for settlement, delivery, answer in zip(batch, deliveries, answers, strict=True):
            if type(answer) is Settled:
                done.append((settlement, delivery))
            elif isinstance(answer, Refused):
                self._observers.emit(Refusal(self._clock.now(), self._queue, answer.reason))
                self._refused(delivery, EmitRefused.by(self._queue, answer))
            else:
                stale.append(delivery.id)
        if stale:
            logger.warning(
                "%s: %d settlements came too late, their messages have newer receivers: %s",
                self._queue, len(stale), stale[:10],
            )  # fmt: skip
        if self._observers:
            if stale:
                self._observers.emit(Lost(self._clock.now(), self._queue, stale))
            for event in events_of(self._queue, done, self._clock.now(), seconds):
                self._observers.emit(event)
        self.given_back += sum(type(settlement) is Release and not settlement.delay for settlement, _ in done)


def events_of(queue: str, done: Sequence[tuple[Settlement, Delivery]], now: float, seconds: float) -> list[Event]:
    """What observers are told about settlements that were done: one event per batch where they can share one."""
    events: list[Event] = []
    acked: list[str] = []
    released: list[str] = []
    emitted: list[Emit] = []
    for settlement, delivery in done:
        match settlement:
            case Ack(emits=emits):
                acked.append(delivery.id)
                emitted += emits
            case Defer(delay=delay, failure=failure):
                events.append(Retried(now, queue, delivery.id, delivery.attempt, delay, failure))
            case Bury(failure=failure):
                events.append(Buried(now, queue, delivery.id, delivery.attempt, failure))
            case Release():
                released.append(delivery.id)
            case Extend():
                pass  # time was bought, nothing happened
    if acked:
        events.append(Handled(now, queue, acked, seconds))
    if released:
        events.append(Released(now, queue, released))
    return events + _emit_events(emitted, now)


def _emit_events(emits: Sequence[Emit], now: float) -> list[Event]:
    counts: dict[tuple[str, str], int] = {}
    for emit in emits:
        key = (emit.kind, emit.target)
        counts[key] = counts.get(key, 0) + 1
    return [
        Published(now, target, count) if kind == "topic" else Queued(now, target, count)
        for (kind, target), count in counts.items()
        if kind != "stream"
    ]
