"""What a sink promises: where objects go, or records, and what some of them can do besides."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from pipeflow.messages import (
    Records,
)


class Object(Struct):
    """One object on its way to a sink: its name below the root, and its content in pieces."""

    name: str
    chunks: Sequence[bytes]
    records: int = 0
    replace: bool = True
    """False: it was never written before, so an object of this name is somebody else's (ObjectRefused)."""

    @property
    def size(self) -> int:
        """Bytes as they will lie in the sink."""
        return sum(map(len, self.chunks))


@runtime_checkable
class Sink(Protocol):
    """Where objects go. `write` is atomic, durable when it returns, and replaces the same name whole.

    SinkUnavailable: try again later. ObjectRefused: never as it is.
    """

    async def write(self, obj: Object) -> None: ...

    async def close(self) -> None: ...


class RecordBatch(Struct, frozen=True):
    """Records of one segment on their way to a sink that takes records."""

    name: str
    """The same at every attempt, after a restart too, and never used for other records: what a receiver dedups by."""
    stream: str
    sealed_at: float
    blocks: Sequence[Records]
    delimiter: bytes = b""
    """What the stream appends to each record (Firehose: S23)."""

    @property
    def records(self) -> int:
        """How many."""
        return sum(len(block.bodies) for block in self.blocks)


@runtime_checkable
class RecordSink(Sink, Protocol):
    """A sink that takes records instead of objects, at least once each. Its `write` refuses every object.

    Records that failed before delivery go to the stream's sink for failures.
    """

    def split(self, batch: RecordBatch) -> Sequence[RecordBatch]:
        """The same records in batches that one call of `deliver` can take: equal input, equal batches and names."""
        ...

    async def deliver(self, batch: RecordBatch) -> None:
        """Return when the receiver has them. SinkUnavailable: try again later. ObjectRefused: never as they are."""
        ...


@runtime_checkable
class ReadableSink(Sink, Protocol):
    """A sink that gives back what it took. Ask with `isinstance`; a sink need not be one.

    SinkUnavailable: try again later. ObjectRefused: a name that could never be written.
    """

    async def read(self, name: str) -> bytes:
        """The object's bytes, whole; ObjectMissing when there is none of that name."""
        ...

    async def delete(self, name: str) -> None:
        """Gone for good when it returns, also when it was not there."""
        ...

    async def list(self, prefix: str = "") -> list[str]:
        """Names of whole objects that begin with `prefix` (any text, not only a folder), sorted.

        What a write has not finished, and what no write could have named, is left out.
        """
        ...


@runtime_checkable
class PagingSink(ReadableSink, Protocol):
    """A readable sink that need not hold all names at once to list them."""

    def pages(self, prefix: str = "", size: int = 1000) -> AsyncGenerator[list[str], None]:
        """The names of `list`, up to `size` at a time, in any order; deleting those that were told is allowed.

        What comes or goes meanwhile may be told or not. SinkUnavailable: try again later, from the beginning.
        """
        ...


@runtime_checkable
class SweepingSink(Sink, Protocol):
    """A sink whose writes leave something behind when their process is killed. It is asked before the first write."""

    async def sweep(self, mine: Callable[[str], bool], rewritten: bool) -> int:
        """Take away what writes of earlier processes left unfinished; how much there was.

        `mine` tells by an object's name whether it is of the stream that asks, and of its store. `rewritten`: every
        such object is written again under its name. SinkUnavailable: said in the log, and delivery begins.
        """
        ...
