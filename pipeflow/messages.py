"""The values that move: what callers hand in, what brokers hand out, and what becomes of it.

All of them are plain data. Times are epoch seconds, sizes bytes, bodies bytes as they were encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct, field

from pipeflow.webhooks import TOPIC

T = TypeVar("T")

if TYPE_CHECKING:
    AttributeValue: TypeAlias = str | int | float | bool | bytes | list[str | int | float | bool | None]
    """SNS and SQS types in Python: String, Number, Number, String "true"/"false", Binary, String.Array."""
else:
    # msgpack tells str and bytes apart by itself; msgspec refuses to decode a union that names both.
    AttributeValue = Any

Attributes: TypeAlias = Mapping[str, AttributeValue]


class Claim(Struct, frozen=True, gc=False, array_like=True):
    """Where a body lies that is kept aside, for being large: what its message carries in its place."""

    number: int
    """What its references are counted under."""
    place: str
    """URL of the sink that holds it; empty: in files beside the store."""
    name: str
    """Of the object in that place; with the place, what a pointer of AWS's extended client says."""
    size: int
    crc: int
    digest: str
    """SHA-256 in hexadecimal."""


class Outgoing(Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """One message or record on its way into a broker."""

    body: bytes
    attributes: dict[str, AttributeValue] | None = None
    headers: dict[str, str] | None = None
    """Internal: trace, correlation, causation, content type. Never counted towards attribute limits."""
    group: str | None = None
    dedup_id: str | None = None
    delay: float | None = None
    """Seconds until visible; None takes the queue's own delay."""
    partition: str | None = None
    """Streams only: the partition this record was assigned by `partition_by`."""
    checkpoint: tuple[str, bytes] | None = None
    """(source name, encoded position): committed together with the message."""
    id: str | None = None
    """Given when the id must be stable across retries; else the broker makes one."""
    claim: Claim | None = None
    """Set by the broker: the body is kept aside already, and is here for whoever looks at it on the way in."""
    ttl: float | None = None
    """Seconds from the send, delay included, after which it is gone unless it was acknowledged; None: retention."""
    key: str | None = None
    """Queues only: takes the place of the message of this key that is still delayed, and can itself be cancelled."""
    priority: int = 0
    """0 to 9; of what is ready in a standard queue the highest comes first."""


class Emit(Struct, frozen=True, gc=False, array_like=True):
    """What a handler published: it commits with the acknowledgement that carries it."""

    kind: Literal["topic", "queue", "stream"]
    target: str
    message: Outgoing


class Receipt(Struct, frozen=True, gc=False, array_like=True):
    """One receive of one message: (place in its queue, boot of the store, receive number). Never reused."""

    place: int
    boot: int
    receive: int


class Failure(Struct, frozen=True, gc=False, array_like=True):
    """One failed attempt, as it is kept with the message."""

    at: float
    attempt: int
    type: str
    message: str
    digest: str = ""
    """Eight hex digits over the frames of the traceback: equal for equal places of failure."""


class Delivery(Struct, frozen=True, gc=False, array_like=True):
    """One message in the hands of one receiver until `deadline`."""

    id: str
    queue: str
    body: bytes
    receipt: Receipt
    attempt: int
    """1-based: receives in this queue minus releases. This is what `max_receives` compares."""
    sent_at: float
    deadline: float
    sequence: int
    attributes: dict[str, AttributeValue] = {}
    headers: dict[str, str] = {}
    group: str | None = None
    dedup_id: str | None = None
    receives: int = 1
    first_received_at: float = 0.0
    alone: bool = False
    """It was in flight at two unclean stops: run nothing beside it."""
    failures: list[Failure] = []
    dead_letter_source: str | None = None
    priority: int = 0
    """0 to 9, as it was sent."""
    expires_at: float | None = None
    """When its own time to live ends, in epoch seconds; None where the queue's retention alone holds."""


class Ack(Struct, frozen=True, gc=False, tag=True):
    """Handled: delete it, and commit what it emitted in the same group."""

    receipt: Receipt
    emits: list[Emit] = []
    superseded_ok: bool = False
    """Set by the AWS door on standard queues only: an older receipt deletes too (SQS: Q59, Q60)."""


class Defer(Struct, frozen=True, gc=False, tag=True):
    """Failed, again after `delay` seconds; counts as an attempt."""

    receipt: Receipt
    delay: float
    failure: Failure | None = None


class Extend(Struct, frozen=True, gc=False, tag=True):
    """Keep it for `visibility_timeout` seconds from now; 0 makes it visible at once (SQS: Q62)."""

    receipt: Receipt
    visibility_timeout: float


class Bury(Struct, frozen=True, gc=False, tag=True):
    """Never again: to the dead letters now, with the reason."""

    receipt: Receipt
    failure: Failure | None = None
    headers: dict[str, str] | None = None
    """Internal ones that the dead letter is to keep besides its own."""


class Release(Struct, frozen=True, gc=False, tag=True):
    """Given back unharmed, as nothing was done or what was done cannot be kept now: not an attempt."""

    receipt: Receipt
    delay: float = 0.0
    """Seconds until it is visible again; 0: at once, before those behind it."""


Settlement: TypeAlias = Ack | Defer | Extend | Bury | Release


class Sent(Struct, frozen=True, gc=False, tag=True):
    """Accepted and committed. `duplicate`: an equal dedup id was accepted before; same id, same sequence."""

    id: str
    sequence: int = 0
    duplicate: bool = False
    replaced: bool = False
    """It took the place of a delayed message of its key."""


class Refused(Struct, frozen=True, gc=False, tag=True):
    """This item was not accepted and never will be as it is; the others of its batch were."""

    code: str
    reason: str


class Settled(Struct, frozen=True, gc=False, tag=True):
    """Done and committed."""


class Stale(Struct, frozen=True, gc=False, tag=True):
    """Not done: the receipt is older than the message's newest, or the message is gone."""

    reason: str = "the message was received again or is gone"


class Want(Struct, frozen=True, gc=False, array_like=True):
    """What a receiver asks for."""

    limit: int = 10
    max_bytes: int = 64 << 20
    wait: float = 0.0
    """Seconds to wait for the first message; 0 looks once."""
    visibility_timeout: float | None = None
    """None takes the queue's own."""
    durable: bool = False
    """Commit the receive before answering: set for every consumer outside the owner's process."""
    attempt_id: str | None = None
    """FIFO queues only: within five minutes the same id brings the same messages and receipts again (SQS: Q57)."""


class Message(Struct, Generic[T], frozen=True, gc=False):
    """What a handler sees when it asks for `Message[Order]`: the payload with its envelope."""

    body: T
    id: str
    attempt: int
    sent_at: float
    attributes: dict[str, AttributeValue]
    headers: dict[str, str]
    group: str | None
    dedup_id: str | None
    sequence: int
    queue: str
    deadline: float
    """Epoch seconds at which it is visible again, if nothing extends that."""
    priority: int = 0
    """0 to 9, as it was sent."""
    expires_at: float | None = None
    """Epoch seconds at which its `ttl` ends, and a handler that still has it is cancelled; None: it has none."""

    @property
    def topic(self) -> str | None:
        """The topic it came by, where its queue has several; None where there is one only, or it was sent."""
        return self.headers.get(TOPIC)


class Batch(Generic[T]):
    """Several messages for one call of a batch handler; `fail` names the ones that did not work.

    Messages not failed are acknowledged when the handler returns. Raising instead makes the engine bisect the batch.
    """

    __slots__ = ("messages", "failed")

    def __init__(self, messages: list[Message[T]]) -> None:
        self.messages = messages
        self.failed: dict[str, str | BaseException] = {}

    def fail(self, message: Message[T], reason: str | BaseException = "") -> None:
        """Mark one message as failed: it is retried or dead-lettered alone, the others are acknowledged."""
        if not any(message is known for known in self.messages):
            raise ValueError(f"message {message.id} is not part of this batch")
        self.failed[message.id] = reason

    def __iter__(self) -> Iterator[Message[T]]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def __repr__(self) -> str:
        return f"Batch({len(self.messages)} messages, {len(self.failed)} failed)"


P = TypeVar("P")


class At(Struct, Generic[P, T], frozen=True):
    """What a source yields: a payload and the position that a restart goes on after."""

    position: P
    payload: T
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    group: str | None = None
    dedup_id: str | None = None


class Position(Struct, frozen=True, gc=False, array_like=True, order=True):
    """The place of one accepted record in its stream: 1, 2, 3 ... in the order of acceptance."""

    sequence: int


class Records(Struct, frozen=True, gc=False, array_like=True):
    """Consecutive records accepted together at one moment; `first` is the sequence of the first."""

    first: int
    at: float
    bodies: list[bytes]
    suspect: bool = False
    """Intake only: each time these were handed out the process died; they go to the error output underived."""


class Column(Struct, frozen=True, array_like=True):
    """One column of a csv, parquet or orc object, or one field of a nested one."""

    name: str
    type: str
    """bool, int8 to int64, uint8 to uint64, float32, float64, string, binary, date, timestamp, decimal(10,2), json; or
    list, map and struct, whose parts are `fields`."""
    required: bool = False
    """A record in which it is missing or null does not fit."""
    default: bytes = b""
    """JSON of what a missing key means; none: null."""
    fields: tuple[Column, ...] = ()


class Segment(Struct, frozen=True, array_like=True):
    """A sealed buffer: everything its objects depend on, frozen and durable before anything is written."""

    id: int
    stream: str
    partition: str
    first: int
    last: int
    records: int
    size: int
    """Bytes of the records as buffered, before compression (Firehose: S34)."""
    opened_at: float
    """When the oldest record arrived: the time part of names (Firehose: S42)."""
    sealed_at: float
    reason: str
    """Why: size, time, drain, demand or pressure."""
    name: str
    """Object name below the sink's root."""
    format: str
    compression: str
    delimiter: bytes = b""
    columns: tuple[Column, ...] = ()
    """What csv, parquet and orc make of its records."""
    errors_name: str = ""
    """Where the records go that do not fit these columns."""
    compression_level: int | None = None
    """How hard to compress: frozen like all that the bytes depend on."""
    manifest_name: str = ""
    """What the object is called that tells readers of this segment's objects; none: readers are told nothing."""


class ObjectFacts(Struct, frozen=True, array_like=True):
    """One object as it was written."""

    name: str
    size: int
    crc: int
    records: int
    raw_size: int = 0
    """Bytes of its records before compression."""


class Manifest(Struct, frozen=True, array_like=True):
    """Which objects a segment became."""

    objects: list[ObjectFacts]
    failed: int = 0
    """Records that lie in an error object: they did not fit the format, or could not be delivered."""
    expired: int = 0
    """Records that were dropped undelivered, for their age."""


class Trouble(Struct, frozen=True, array_like=True):
    """What a sealed segment met on its way. It is kept beside the segment, on disk, until that is delivered."""

    attempts: int = 0
    """That failed; an operator's retry goes on counting."""
    waited: float = 0.0
    """Seconds between attempts so far: what `retry_seconds` bounds. Waiting for answers and downtime do not count."""
    at: float = 0.0
    """When the last attempt ended."""
    code: str = ""
    reason: str = ""
    done: int = 0
    """Of its objects or requests, in order, the sink has so many: those are not sent again."""
    untouched: bool = False
    """Nothing of ours can lie under the name of the next object: it was refused to be replaced."""
    parked_at: float | None = None
    """It waits for an operator since then."""
    diverted_to: str = ""
    """The object in the failures' sink that takes its records: it may have been written, so nothing else is tried."""
    requests: bool = False
    """`done` counts requests, not objects: to a sink of the other kind it says nothing."""
