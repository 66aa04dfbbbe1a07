"""Middleware is composed once, when the app starts; an app without it pays nothing.

Around a batch handler it surrounds each message of the batch, and still in plain calls: every message's middleware runs
up to its `call_next`, the handler runs once for all that got there, and the middleware goes on from there in reverse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping, Sequence
from types import coroutine

from pipeflow.engine.outcome import told_to_stop
from pipeflow.engine.plan import HandleBatch
from pipeflow.messages import Delivery
from pipeflow.protocols import Handle, Middleware

__all__ = ["Handle", "Middleware", "composed", "composed_around_batches"]


def composed(middleware: Sequence[Middleware], handle: Handle) -> Handle:
    """The chain with the first of `middleware` outermost and `handle` innermost: plain calls, no task in between."""
    for layer in reversed(middleware):
        handle = _around(layer, handle)
    return handle


def _around(layer: Middleware, inner: Handle) -> Handle:
    def call(delivery: Delivery) -> Awaitable[object]:
        return layer(delivery, inner)

    return call


def composed_around_batches(middleware: Sequence[Middleware], handle: HandleBatch, *, fifo: bool) -> HandleBatch:
    """The same around every message of a batch. `call_next` returns None when the batch handler is done with the
    message, and raises what it failed with.

    A message whose middleware returns without `call_next` is handled; one whose middleware raises has failed. When the
    handler itself raises, so does this, and what middleware made of that counts only for a message that was alone.
    """
    if not middleware:
        return handle
    under_way: list[_Passage] = []
    """The one that runs at this moment is last: `call_next` is called from inside of it."""

    async def admit(delivery: Delivery) -> object:
        if not under_way:
            raise RuntimeError(
                "call_next was awaited in another task: around a batch handler, await it in the middleware itself, "
                "with asyncio.timeout instead of asyncio.wait_for"
            )
        await under_way[-1].admit(delivery)
        return None

    chain = composed(middleware, admit)

    async def call(deliveries: Sequence[Delivery]) -> Mapping[str, BaseException]:
        passages: list[_Passage] = []
        failed: set[str | None] = set()
        for delivery in deliveries:
            if fifo and delivery.group in failed:
                continue  # it will be released: nothing of its group runs before the one that failed (P11)
            passage = _Passage(delivery, chain, under_way)
            passages.append(passage)
            await passage.go_on()
            if passage.error is not None:
                failed.add(delivery.group)
                if told_to_stop(passage.error):
                    break
        raised = next((each.error for each in passages if each.error is not None and told_to_stop(each.error)), None)
        admitted = [passage for passage in passages if not passage.ended]
        answers: Mapping[str, BaseException] = {}
        if admitted and raised is None:
            try:
                answers = await handle([passage.admitted for passage in admitted])
            except BaseException as error:
                raised = error  # again below, when all middleware has heard of it
        for passage in reversed(admitted):
            await passage.go_on(answers.get(passage.admitted.id) if raised is None else raised)
            if passage.error is not None and told_to_stop(passage.error):
                raised = passage.error
        if raised is not None and (len(deliveries) > 1 or told_to_stop(raised)):
            raise raised
        return {passage.delivery.id: passage.error for passage in passages if passage.error is not None}

    return call


class _Passage:
    """One message on its way through middleware, which stands still in `call_next` while the batch is handled."""

    __slots__ = ("delivery", "admitted", "ended", "error", "_steps", "_under_way", "_admissions")

    def __init__(self, delivery: Delivery, chain: Handle, under_way: list[_Passage]) -> None:
        self.delivery = delivery
        self.admitted = delivery
        """What middleware gave to `call_next`: it may be another than what came."""
        self.ended = False
        self.error: BaseException | None = None
        self._steps = _called(chain, delivery)
        self._under_way = under_way
        self._admissions = 0

    @coroutine
    def admit(self, delivery: Delivery) -> Generator[object, None, None]:
        """Stand still until the batch is handled; raise what the message failed with."""
        self._admissions += 1
        if self._admissions > 1:
            raise RuntimeError("call_next was called twice for one message: around a batch handler, call it once")
        self.admitted = delivery
        yield _ADMITTED

    @coroutine
    def go_on(self, error: BaseException | None = None) -> Generator[object, object, None]:
        """Run up to `call_next` or to the end, waiting for what middleware waits for; `error` is raised inside."""
        value: object = None
        place = None if error is None else error.__traceback__
        thrown = error
        while True:
            self._under_way.append(self)
            try:
                waited = self._steps.send(value) if thrown is None else self._steps.throw(thrown)
            except StopIteration:
                self.ended = True
                return
            except BaseException as raised:  # kept: it is this message's, and the others have to end as well
                self.ended, self.error = True, raised
                if raised is error:
                    raised.__traceback__ = place  # the way through middleware is no part of where it failed
                return
            finally:
                self._under_way.pop()
            if waited is _ADMITTED:
                return
            value = thrown = None
            try:
                value = yield waited
            except BaseException as told:  # passed on into the middleware, whose place it is to raise it again
                thrown = told


_ADMITTED = object()


async def _called(chain: Handle, delivery: Delivery) -> object:
    return await chain(delivery)
