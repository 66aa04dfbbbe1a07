"""The store as a test sees it: what topics accepted is noted, and misfortune strikes on the way to the handlers."""

from __future__ import annotations

from asyncio import CancelledError, current_task
from collections.abc import Awaitable, Collection, Generator, Sequence

from pipeflow.messages import (
    Ack,
    Delivery,
    Emit,
    Outgoing,
    Receipt,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import Handle, Store
from pipeflow.testing.chaos import Misfortune

DEAD = Stale("the worker that held it died")


class Tap:
    """A store that passes everything on to the one it watches."""

    def __init__(self, store: Store, misfortune: Misfortune | None = None, fifo: Collection[str] = ()) -> None:
        self._store = store
        self._misfortune = misfortune
        self._fifo = frozenset(fifo)
        self._doomed: dict[tuple[str, Receipt], int] = {}
        """Deliveries whose worker dies, and how many awaits their call is granted."""
        self.published: dict[str, list[Outgoing]] = {}
        """What each topic accepted, in the order of its commits."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Note what was accepted, duplicates apart."""
        answers = await self._store.publish(topic, batch)
        for outgoing, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Sent) and not answer.duplicate:
                self.published.setdefault(topic, []).append(outgoing)
        return answers

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        """Keep the settlements of the dead back, and note what the others published."""
        living = [each for each in batch if (queue, each.receipt) not in self._doomed]
        answers = iter(await self._store.settle(queue, living)) if living else iter(())
        told = [DEAD if (queue, each.receipt) in self._doomed else next(answers) for each in batch]
        for settlement, answer in zip(batch, told, strict=True):
            if isinstance(settlement, Ack) and isinstance(answer, Settled):
                self._note(settlement.emits)
        return told

    def _note(self, emits: Sequence[Emit]) -> None:
        for emit in emits:
            if emit.kind == "topic":
                self.published.setdefault(emit.target, []).append(emit.message)

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        """What the store hands out; for each of them it is decided now what will befall it."""
        arrived = await self._store.receive(queue, want)
        misfortune = self._misfortune
        if misfortune is None:
            return arrived
        if queue in self._fifo:
            self._strike_groups(arrived, misfortune)
        elif twice := self._second_copies(arrived, misfortune):
            # Visible again while the first call works; the second receive makes the receipt of the first stale.
            await self._store.settle(queue, [Release(delivery.receipt) for delivery in twice])
        return arrived

    def _second_copies(self, arrived: Sequence[Delivery], misfortune: Misfortune) -> list[Delivery]:
        living = [delivery for delivery in arrived if not self._dies(delivery, misfortune)]
        return [delivery for delivery in living if misfortune.comes_twice()]

    def _strike_groups(self, arrived: Sequence[Delivery], misfortune: Misfortune) -> None:
        # No second copies: a FIFO queue never gives a message twice while its receiver holds it. And a worker that dies
        # takes the rest of its group along, or later messages of it would be done before the one that comes back.
        dying: set[str | None] = set()
        for delivery in arrived:
            if delivery.group in dying:
                self._doomed[delivery.queue, delivery.receipt] = 0
            elif self._dies(delivery, misfortune):
                dying.add(delivery.group)

    def _dies(self, delivery: Delivery, misfortune: Misfortune) -> bool:
        if not misfortune.crashes():
            return False
        self._doomed[delivery.queue, delivery.receipt] = misfortune.last_step()
        return True

    async def middleware(self, delivery: Delivery, call_next: Handle) -> object:
        """Cut the calls of dying workers off."""
        steps = self._doomed.get((delivery.queue, delivery.receipt))
        if steps is None:
            return await call_next(delivery)
        if steps:
            await _CutOff(call_next(delivery), steps)
        # The engine hears of a failure, so that it runs no later message of a group; what it settles is kept back.
        raise WorkerDied(f"chaos: the worker died with message {delivery.id} of {delivery.queue}")


class WorkerDied(Exception):
    """What the call of a dying worker ends with; nobody but the log hears of it."""


class _CutOff:
    """Runs a call up to its nth await and cancels it there from inside, so that no scope around it is told."""

    def __init__(self, call: Awaitable[object], steps: int) -> None:
        self._call = call
        self._steps = steps

    def __await__(self) -> Generator[object, None, None]:
        call = self._call.__await__()
        left = self._steps
        error: BaseException | None = None
        while True:
            try:
                waited = next(call) if error is None else call.throw(error)
            except StopIteration:
                return
            except CancelledError:
                if left <= 0 and not _cancelled_from_outside():
                    return
                raise
            error = None
            left -= 1
            if not left:
                error = CancelledError()
                continue
            try:
                yield waited
            except BaseException as told:  # passed on into the call, whose place it is to raise it again
                error = told


def _cancelled_from_outside() -> bool:
    task = current_task()
    return task is not None and task.cancelling() > 0
