"""What the engine is told to run: calls compiled from handlers, sources and streams, with their numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import TypeAlias

from msgspec import Struct

from pipeflow.clock import Clock
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


Derived: TypeAlias = Outgoing | list[Outgoing] | None
"""What came of one record: something with its partition, several, or nothing."""

Derive: TypeAlias = Callable[[bytes], Derived] | Callable[[bytes], Awaitable[Derived]]
"""What becomes of one record; raises what sends it to the error output."""


class Part(Struct, frozen=True):
    """One record as a batch transform gets it."""

    id: str
    """The same whenever this record is tried, and no other's."""
    body: bytes
    at: float
    """When it was accepted."""


class Attempt(Struct, frozen=True):
    """One call of a batch transform."""

    parts: Sequence[Part]
    clock: Clock
    number: int = 1
    until: float = inf
    """When it is given up."""


DeriveBatch: TypeAlias = Callable[[Attempt], Awaitable[Sequence[Derived | Exception]]]
"""What becomes of each record, in their order. Coded: the batch failed for good; any other error: it is tried again."""


class BatchTransform(Struct, frozen=True):
    """A transform of many records at once, and how they gather for it (Firehose: S24)."""

    derive: DeriveBatch
    size: int = 500
    buffer_bytes: int = 1 << 20
    buffer_seconds: float = 1.0
    retries: int = 3
    timeout: float | None = None
    bisects: bool = True
    """Whether a batch that keeps failing is split until the culprits stand alone."""
    lambda_arn: str | None = None
    """Stands in error records."""


Place: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[str | Exception]]]
"""The partition of each of many derived records, or why there is none."""

Placing: TypeAlias = Callable[[Clock], AbstractAsyncContextManager[Place]]
"""Opens what places derived records; it is closed when the stream's tasks end."""


class DeliveryPlan(Struct, frozen=True):
    """What a stream delivers and how its records are derived, one by one or in batches; neither: as they are."""

    spec: StreamSpec
    derive: Derive | None = None
    batch: BatchTransform | None = None
    placing: Placing | None = None
    """Places what comes of them without a partition."""
