"""The contracts between the floors: what a broker, a record log, an admin and a sink promise.

Five verbs, each over a batch. The order of results is the order of the input; a refused item is a value, not an
exception. Every verb but `receive` answers after the group that was open when it ran, also when it changed nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.clock import Clock, Signal
from pipeflow.events import Event
from pipeflow.files import Compaction, CompactReport, CompactRequest, FileFacts, FileQuery, ManifestFacts
from pipeflow.letters import Change, Discard, Discarded, Redrive, Redriven, Rewrite
from pipeflow.looking import Found, Peeked, Search, State
from pipeflow.messages import (
    Delivery,
    Manifest,
    Outgoing,
    Position,
    Records,
    Refused,
    Segment,
    Sent,
    Settled,
    Settlement,
    Stale,
    Trouble,
    Want,
)
from pipeflow.moves import Move
from pipeflow.specs import FilterPolicy, Topology
from pipeflow.stats import Parked, QueueStats, StoreStats, StreamStats, TopicStats
from pipeflow.webhooks import SubscriptionFacts

__all__ = [
    "Admin",
    "Broker",
    "Catalogue",
    "Compact",
    "Clock",
    "Discard",
    "Discarded",
    "Features",
    "Found",
    "Handle",
    "Lane",
    "Middleware",
    "Object",
    "Parked",
    "Peeked",
    "QueueStats",
    "ReadableSink",
    "RecordBatch",
    "RecordLog",
    "RecordSink",
    "Redrive",
    "Redriven",
    "Rewrite",
    "Search",
    "Signal",
    "State",
    "Sink",
    "Store",
    "StoreStats",
    "StreamStats",
    "SweepingSink",
    "TopicStats",
]


BEHIND = Refused("behind_refused", "an item of the same source before it was refused, and a source does not pass it")


class Features(Struct, frozen=True):
    """What a broker can do, as data. A noun that asks for more is refused when the app opens, by name; a message that
    asks for more, by whoever sends it."""

    durable: bool
    fifo: bool = True
    """Order in groups, of FIFO queues and topics; and groups that share a standard queue."""
    dedup: bool = True
    max_delay: float = 366 * 86_400.0
    """Seconds."""
    ttl: bool = True
    """Messages can have a time to live of their own."""
    priorities: bool = True
    """Of what is ready in a standard queue the highest priority comes first."""
    atomic_emits: bool = True
    """An acknowledgement and what it emits commit together."""
    record_log: bool = True
    checkpoints: bool = True
    """Source positions commit with what they belong to."""
    admin: bool = True
    rates: bool = True
    """A queue can bound how many messages it hands out in any second."""
    archives: bool = True
    """A topic can keep what was published, to be replayed."""
    delayed_keys: bool = True
    """A delayed message can be replaced and cancelled by its key."""
    reconnects: bool = False
    """Reached over a connection: what was Unavailable may work again, so the engine asks again instead of ending."""


class Broker(Protocol):
    """Topics and queues. See the module for what every verb promises."""

    features: Features

    async def declare(self, topology: Topology) -> None:
        """Make what is missing, migrate what changed where that is safe; SpecConflict with a diff where not."""

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Accept each message for every subscription that matches it now, all in one commit. NotFound: no topic.

        Behind a refused message with a checkpoint nothing of the batch is accepted: its source must not pass it.
        """
        ...

    async def send(self, queue: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        """Accept each message into one queue. NotFound: no such queue. Behind a refused one with a checkpoint: none.

        A message with a key takes the place of the one of this key that is still delayed, in the same commit.
        """
        ...

    async def cancel_delayed(self, queue: str, key: str) -> bool:
        """Delete the message of this key if it is still delayed; whether there was one.

        RefusedError: a FIFO queue, or no key. Once a message is visible its key is free.
        """
        ...

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        """What is ready now, at most `want.limit`; waits up to `want.wait` for the first. Empty when time came."""
        ...

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale | Refused]:
        """Decide the fate of received messages, with everything they emit, in one commit.

        Refused: an emit of this settlement cannot be accepted; nothing of the settlement was done, the message is
        still held.
        """
        ...

    async def position(self, source: str) -> bytes | None:
        """The last committed position of a source, encoded; None when it never committed."""
        ...


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


class Admin(Protocol):
    """What operators do to a store; every method works through the owner's socket too."""

    async def describe(self) -> Topology:
        """Every noun the store holds, declared by any program."""
        ...

    async def peek(
        self, queue: str, limit: int = 10, dead: bool = False, where: FilterPolicy | None = None
    ) -> list[Peeked]:
        """Messages in delivery order, without touching them; `dead` looks at the queue's dead letters."""
        ...

    async def search(self, request: Search) -> Found:
        """The same, and how far it looked: the whole queue if it must, in pages that hold nobody up for long."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete every message, in flight or not; how many there were."""
        ...

    async def delete_queue(self, queue: str) -> int:
        """Forget a queue, its subscriptions and what is in it (SQS: Q105); how many messages were dropped.

        Receives that wait on it end with NotFound (Q106). RefusedError while it takes another queue's dead letters.
        """
        ...

    async def redrive(self, request: Redrive) -> Redriven:
        """Move dead letters back, each with a new id and no attempts (SQS: Q99), in chunks of one commit each.

        With an edit each is changed in the commit that moves it; one that it does not fit stays. RefusedError while a
        move that was started takes from them (Q97).
        """
        ...

    async def edit(self, request: Rewrite) -> Change:
        """Change one dead letter where it lies, in one commit. Its id, its place and all that is not named stay.

        NotFound: no such letter. RefusedError: the edit does not fit it, its body is not the expected one, a receiver
        has it, or a move takes from these letters.
        """
        ...

    async def discard(self, request: Discard) -> Discarded:
        """Delete dead letters for good, counted, in chunks of one commit each. RefusedError as of `redrive`."""
        ...

    async def audit(self, name: str | None = None, limit: int = 100, before: int | None = None) -> list[Entry]:
        """What operators did, newest first: to the dead letters of one queue, to one stream, or to all of the store.

        `before`: entries below this number, for the next page. Each entry is in the commit of what it tells; the last
        10,000 of a store are kept, for 90 days. NotFound: neither a queue nor a stream of this name.
        """
        ...

    async def start_move(self, request: Redrive) -> Move:
        """The same as a move that outlives its caller and the process, at `rate`: on disk when this returns.

        Without `to` each goes back to the queue it came from (SQS: Q98). RefusedError while another one takes from the
        same dead letters (Q97).
        """
        ...

    async def moves(self, queue: str | None = None) -> list[Move]:
        """The last ten moves of one queue's dead letters, or of each queue's, newest first (SQS: Q100)."""
        ...

    async def cancel_move(self, id: str) -> Move:
        """Stop a move; what was moved stays moved (SQS: Q101). NotFound; RefusedError when it has ended."""
        ...

    async def delete_stream(self, stream: str, drop: bool = False) -> int:
        """Forget a stream and everything about it, but not its objects; how many records were dropped.

        RefusedError while an app delivers it or a topic or stream feeds it, and, unless `drop`, while records wait in
        it. Firehose: S9 discards what waits; here that is asked for.
        """
        ...

    async def delete_topic(self, topic: str) -> bool:
        """Forget a topic and its subscriptions; whether there was one (SNS: T4). RefusedError: it has an archive."""
        ...

    async def archived(self, request: ArchiveRequest) -> ArchiveReport:
        """The next chunk of a topic's archive, sent again to one subscriber with the position it came to, or looked at.

        NotFound: no such topic, archive or subscriber. RefusedError: the subscriber cannot take it; nothing was sent.
        """
        ...

    async def webhooks(self) -> list[SubscriptionFacts]:
        """Every subscription of a webhook, and whether it is confirmed."""
        ...

    async def confirm(self, topic: str, token: str) -> SubscriptionFacts:
        """Deliver to the subscription that this token was sent for (SNS: T19). RefusedError: there is none."""
        ...

    async def unsubscribe(self, arn: str, undo: bool = False) -> SubscriptionFacts | None:
        """Deliver nothing more by this subscription of a webhook, and tell its endpoint (SNS: T18); None: no such.

        The endpoint is sent a token that brings it back within three days; `undo` asks it to confirm anew. What was
        published before still arrives. RefusedError: that is no ARN.
        """
        ...

    async def stats(self) -> StoreStats:
        """Counts from the store's own durable counters."""
        ...

    async def flush(self, stream: str) -> None:
        """Deliver what the stream holds now; return when it lies in its sink.

        ConfigurationError when the owner holds records of it and delivers none; ObjectRefused when some are parked.
        """
        ...

    async def files(self, stream: str, query: FileQuery) -> list[FileFacts]:
        """Delivered objects of a stream, one page. NotFound: no such stream."""
        ...

    async def parked(self, stream: str) -> list[Parked]:
        """The segments that could not be delivered, in the order of sealing. NotFound: no such stream."""
        ...

    async def retry_parked(self, stream: str, ids: Sequence[int] | None = None) -> int:
        """Deliver these again, or all that can be; how many. NotFound, RefusedError: nothing was done."""
        ...

    async def discard_parked(self, stream: str, ids: Sequence[int]) -> int:
        """Delete these for good, counted and logged; how many records. NotFound: nothing was done."""
        ...

    async def compact(self, stream: str, request: CompactRequest) -> CompactReport:
        """Merge small files, in the process that delivers the stream. ConfigurationError when none does."""
        ...

    def watch(self) -> AsyncIterator[Event]:
        """Events as they happen, from now on; slow watchers miss events rather than slow the store."""
        ...


class Store(Broker, RecordLog, Admin, Protocol):
    """A broker with a record log and an admin: what the embedded broker is."""

    url: str
    clock: Clock

    async def close(self) -> None:
        """Drain the open group and let go. Idempotent."""


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
class SweepingSink(Sink, Protocol):
    """A sink whose writes leave something behind when their process is killed. It is asked before the first write."""

    async def sweep(self, mine: Callable[[str], bool], rewritten: bool) -> int:
        """Take away what writes of earlier processes left unfinished; how much there was.

        `mine` tells by an object's name whether it is of the stream that asks, and of its store. `rewritten`: every
        such object is written again under its name. SinkUnavailable: said in the log, and delivery begins.
        """
        ...


Handle: TypeAlias = Callable[[Delivery], Awaitable[object]]
"""The rest of the chain: give it the delivery, get what the handler returned."""

Middleware: TypeAlias = Callable[[Delivery, Handle], Awaitable[Any]]
