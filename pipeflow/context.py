"""What a handler may do besides returning: what it publishes here leaves with its acknowledgement, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pipeflow.clock import Signal
from pipeflow.engine.slot import Slot, caused_by
from pipeflow.errors import ConfigurationError, StaleReceipt
from pipeflow.messages import AttributeValue, Delivery, Emit, Extend, Message, Settled
from pipeflow.topic import outgoing

if TYPE_CHECKING:
    from pipeflow.queue import Queue
    from pipeflow.stream import Stream
    from pipeflow.topic import Topic

T = TypeVar("T")

__all__ = ["Context"]


class Context:
    """One call of one handler. Ask for it by its type: `async def record(order: Order, ctx: Context)`.

    Works from handler threads too, but for `extend` and `sleep`, which are awaited.
    """

    __slots__ = ("_slot", "_deliveries", "_message", "_emits", "_headers", "_done")

    def __init__(self, slot: Slot, deliveries: tuple[Delivery, ...], message: Message[object] | None) -> None:
        self._slot = slot
        self._deliveries = deliveries
        self._message = message
        self._emits: list[Emit] = []
        self._headers = caused_by(deliveries[0]) if len(deliveries) == 1 else None
        self._done = False
        slot.emits = self._emits

    @property
    def message(self) -> Message[object]:
        """The message that is being handled, with its envelope. ConfigurationError in a batch handler."""
        if self._message is None:
            raise ConfigurationError("ctx.message: a batch has many messages; iterate over the batch instead")
        return self._message

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1; of a batch, the highest of its messages."""
        return max(delivery.attempt for delivery in self._deliveries)

    def now(self) -> float:
        """Epoch seconds on the app's clock: virtual in tests."""
        return self._slot.runtime.clock.now()

    def publish(
        self,
        topic: Topic[T],
        value: T,
        /,
        *,
        group: str | None = None,
        dedup_id: str | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> None:
        """Publish when this call is acknowledged, in the same commit; dropped when it fails."""
        body = topic.encode(value)
        message = outgoing(body, group, dedup_id, delay, ttl, priority, attributes, keywords, self._headers)
        self._emit(Emit("topic", topic.name, message))

    def send(
        self,
        queue: Queue[T],
        value: T,
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        group: str | None = None,
        dedup_id: str | None = None,
        key: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> None:
        """Send to a queue when this call is acknowledged, in the same commit; dropped when it fails."""
        body = queue.codec.encode(value)
        message = outgoing(body, group, dedup_id, delay, ttl, priority, attributes, keywords, self._headers, key)
        self._emit(Emit("queue", queue.name, message))

    def put(self, stream: Stream[T], value: T, /) -> None:
        """Put into a stream when this call is acknowledged, in the same commit; dropped when it fails."""
        self._emit(Emit("stream", stream.name, stream.outgoing(value)))

    async def extend(self, seconds: float) -> None:
        """Keep the message for so many seconds from now, beyond what the heartbeat does by itself (SQS: Q62).

        StaleReceipt: it is not ours any more.
        """
        runtime = self._slot.runtime
        queue = self._deliveries[0].queue
        batch = [Extend(delivery.receipt, seconds) for delivery in self._deliveries]
        answers = await runtime.store.settle(queue, batch)
        until = runtime.clock.now() + seconds
        for delivery, answer in zip(self._deliveries, answers, strict=True):
            if not isinstance(answer, Settled):
                raise StaleReceipt(f"{queue}: message {delivery.id} cannot be extended: it is held by somebody else")
            runtime.extended(delivery, until)

    async def sleep(self, seconds: float) -> None:
        """Wait on the app's clock, which a test advances; the visibility timeout is kept meanwhile."""
        clock = self._slot.runtime.clock
        await clock.wait(Signal(), clock.now() + seconds)

    def close(self) -> None:
        """The call is over: nothing may be added to its acknowledgement any more."""
        self._done = True

    def _emit(self, emit: Emit) -> None:
        if self._done:
            raise ConfigurationError(
                f"the handler has returned, so {emit.kind} {emit.target} cannot leave with its acknowledgement; "
                "await everything the handler starts before it returns"
            )
        lacking = self._slot.runtime.lacking
        if lacking is not None:
            lacking.check(f"{emit.kind} {emit.target}", (emit.message,))
        self._emits.append(emit)


def envelope(body: object, delivery: Delivery) -> Message[object]:
    """The payload with what is known about its message."""
    return Message(
        body,
        delivery.id,
        delivery.attempt,
        delivery.sent_at,
        delivery.attributes,
        delivery.headers,
        delivery.group,
        delivery.dedup_id,
        delivery.sequence,
        delivery.queue,
        delivery.deadline,
        delivery.priority,
        delivery.expires_at,
    )
