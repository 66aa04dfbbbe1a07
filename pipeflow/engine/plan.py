"""What the engine is told to run: calls compiled from handlers, sources and streams, with their numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from msgspec import Struct

from pipeflow.engine.outcome import RetryPolicy
from pipeflow.messages import Delivery, Outgoing
from pipeflow.protocols import Handle
from pipeflow.specs import StreamSpec

HandleBatch: TypeAlias = Callable[[Sequence[Delivery]], Awaitable[Mapping[str, BaseException]]]
"""Run one batch: the messages that failed, by id, with why. Raises when the handler raised."""


class Batching(Struct, frozen=True):
    """How many messages one call takes, and how long the first may wait for the others."""

    size: int = 10
    linger: float = 0.0


class HandlerPlan(Struct, frozen=True):
    """One queue's handler, ready to be called. Exactly one of `handle` and `handle_batch` is there."""

    queue: str
    name: str
    """The function and where it stands, for errors: "charge (shop.py:31)"."""
    policy: RetryPolicy
    handle: Handle | None = None
    handle_batch: HandleBatch | None = None
    batching: Batching = Batching()
    fifo: bool = False
    concurrency: int = 10
    timeout: float | None = None
    visibility_timeout: float = 30.0


class SourceItem(Struct, frozen=True):
    """One item of a source: the message with its checkpoint, and the position in words for errors."""

    message: Outgoing
    position: str


class Unfit(Exception):
    """An item that no store would ever take: what is wrong with it, and its position in words."""

    def __init__(self, reason: str, position: str) -> None:
        super().__init__(reason)
        self.position = position


class SourcePlan(Struct, frozen=True):
    """One source: `start` is given the last committed position and yields what comes after it."""

    name: str
    place: str
    kind: str
    """topic or stream."""
    target: str
    start: Callable[[bytes | None], AsyncIterator[SourceItem]]


Derive: TypeAlias = Callable[[bytes], Outgoing | None] | Callable[[bytes], Awaitable[Outgoing | None]]
"""What becomes of one record: something with its partition, nothing, or an error that sends it to the error output."""


class DeliveryPlan(Struct, frozen=True):
    """What a stream delivers and how its records are derived; None: they are delivered as they are."""

    spec: StreamSpec
    derive: Derive | None = None
