"""What a record log promises: records in the order they were accepted, and batches of them with durable bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from pipeflow.clock import Signal
from pipeflow.files import Compaction, CompactReport, CompactRequest, FileFacts, FileQuery, ManifestFacts
from pipeflow.messages import (
    Manifest,
    Outgoing,
    Position,
    Records,
    Refused,
    Segment,
    Trouble,
)


class Lane(Protocol):
    """The way of accepted records into a stream's buffers without waiting; only where the store is in this process.

    A body whose size with its separator is below `left` may go straight to the end of `bodies` once `left` is lowered
    by that, and so may several; every other goes through `add`. On a durable stream `left` is always 0.
    """

    left: int
    bodies: list[bytes]

    def add(self, bodies: Sequence[bytes], partition: str | None = None) -> int:
        """Accept all or none, not yet acknowledged; how many bytes they are.

        Overloaded at the bound; RefusedError for a record too large.
        """
        ...

    def spread(self, bodies: Sequence[bytes], partitions: Sequence[str]) -> int:
        """The same, each record in the partition at its place."""
        ...

    def turned_away(self, records: int) -> None:
        """Count records that met the bound and that nobody waits with."""


Compact: TypeAlias = Callable[[CompactRequest], Awaitable[CompactReport]]


class Catalogue(Protocol):
    """One stream's delivered files, and the steps of merging them; only where the store is in this process.

    A compaction is begun, written to the sink, and finished: what is begun and not finished is `pending` after a crash.
    """

    store_id: str
    boot: int | None
    """Where sequences and ids start anew with every boot of the store: which one this is."""

    def new_id(self) -> int:
        """Higher than every id before it."""
        ...

    async def files(self, query: FileQuery) -> list[FileFacts]:
        """One page, in the order of sequences."""
        ...

    async def partitions(self) -> list[str]:
        """Every partition that has files."""
        ...

    async def manifests(self) -> list[ManifestFacts]:
        """Every manifest in the sink, in the order of ids."""
        ...

    async def retired(self, before: float) -> list[str]:
        """Some of the files that were retired by then; none when there is none."""
        ...

    async def pending(self) -> list[Compaction]:
        """Begun and neither finished nor abandoned."""
        ...

    async def begin(self, compaction: Compaction) -> None:
        """On disk when it returns: now its objects may be written."""

    async def finish(self, compaction: Compaction, outputs: Sequence[FileFacts]) -> None:
        """Its swap is in the sink."""

    async def abandon(self, compaction: Compaction) -> None:
        """Its swap never was."""

    async def forget(self, files: Sequence[str], manifests: Sequence[int]) -> None:
        """These are gone from the sink."""

    def serve(self, compact: Compact | None) -> None:
        """Who is asked by `Admin.compact`; None: nobody any more."""


class Waiting(Struct, frozen=True):
    """What waits in a stream's intake for `derive`."""

    records: int
    size: int
    since: float
    """When the oldest was accepted."""
    hurried: bool
    """A flush or a full stream waits for it, or an earlier process left it: it is not held back for others to come."""


class RecordLog(Protocol):
    """An append-only buffer with durable batch boundaries: what makes file output exactly-once.

    A stream that unpacks or transforms, or that is partitioned and fed by topics, has two stages: `append` fills the
    intake, `derive` moves what was made of it to the partition buffers in one commit. Others have one stage.
    """

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        """Accept records. Waits while the stream's buffers are at their bound; RefusedError values are per record."""
        ...

    async def intake(self, stream: str, after: Position, limit: int) -> Sequence[Records]:
        """Records that wait for `derive`, behind `after`, in whole blocks; returns at once, maybe empty."""
        ...

    def waiting(self, stream: str) -> Waiting | None:
        """What the intake holds, left as it is; None: nothing."""
        ...

    async def derive(self, stream: str, upto: Position, batch: Sequence[Outgoing], dropped: int = 0) -> None:
        """Forget the intake up to a position and append what came of it to the partition buffers, in one commit.

        `dropped` is how many records came to nothing on purpose, of those that were accepted or made of them.
        """

    def ripens(self, stream: str) -> tuple[Signal, float]:
        """(fires when intake arrives, a buffer opens, fills or is demanded; when the next buffer is old enough)."""
        ...

    async def seal(self, stream: str) -> Segment | None:
        """Freeze the next buffer that is full, old or demanded, durably, or hand out an undelivered one; None: none."""
        ...

    def read(self, segment: Segment) -> AsyncIterator[Records]:
        """The records of a sealed segment, in order."""
        ...

    async def commit(self, segment: Segment, manifest: Manifest) -> None:
        """Forget the records, remember the objects."""

    def demand(self, stream: str, reason: str = "demand") -> None:
        """Make every open buffer of the stream ripe now."""

    async def delivered(self, stream: str) -> None:
        """Return when everything accepted before the call has been delivered and committed.

        ObjectRefused when some of it is parked, once all the rest is delivered.
        """

    def delivering(self, stream: str, running: bool) -> None:
        """A delivery of the stream begins in this process, or ends: only between the two can `flush` be answered."""

    def hand_back(self, segment: Segment) -> None:
        """Undelivered: `seal` hands it out again."""

    def trouble(self, segment: Segment) -> Trouble:
        """What earlier attempts to deliver it met, in this process or before."""
        ...

    async def note(self, segment: Segment, trouble: Trouble) -> None:
        """Remember, durably, what became of an attempt; `parked_at`: `seal` hands it out again when it is retried."""

    async def expire(self, stream: str, max_age: float) -> float:
        """Drop and count parked segments without a record younger than this; when to ask again (inf: none left)."""
        ...

    def catalogue(self, stream: str) -> Catalogue | None:
        """The stream's files, None where the store is in another process. NotFound: no such stream."""
        ...

    def lane(self, stream: str) -> Lane | None:
        """The stream's lane, None where the store is in another process. NotFound: no such stream."""
        ...
