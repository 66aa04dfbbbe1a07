"""What operators are shown of a store: counts, ages and what is parked. Values, and how to read them."""

from __future__ import annotations

from msgspec import Struct


class QueueStats(Struct, frozen=True):
    """Counts of one queue, exact at commit points."""

    name: str
    fifo: bool
    ready: int
    delayed: int
    retrying: int
    """Delayed messages that were received before; the others were sent with a delay."""
    in_flight: int
    dead: int
    """Messages in its dead letters now."""
    sent: int
    acked: int
    expired: int
    buried: int
    """Ever moved to the dead letters."""
    redriven: int
    purged: int
    quarantined: int
    oldest_age: float
    """Seconds since the oldest message was sent that is ready, in flight or waits for a retry; 0 when there is none.

    A dead letter counts from when it died, what was delayed for more than 15 minutes from when it came due.
    """
    holds_dead_letters: bool = False
    archives: bool = False
    dead_letters_of: list[str] = []
    """The queues whose dead letters it takes (SQS: Q104)."""
    cancelled: int = 0
    """Taken back by key while they were delayed: cancelled, or replaced."""
    created_at: float = 0.0
    modified_at: float = 0.0
    """When its options last changed (SQS: Q103)."""
    tags: dict[str, str] = {}
    discarded: int = 0
    """Of its dead letters, ever deleted by an operator."""


class TopicStats(Struct, frozen=True):
    """Counts of one topic, ever."""

    name: str
    fifo: bool
    published: int
    delivered: int
    """Copies that matched a subscription."""
    subscriptions: list[str]
    pending: list[str] = []
    """Of these, the webhooks that have not confirmed, or were unsubscribed (SNS: T6)."""
    archived: int = 0
    """What its archive holds now."""
    archived_since: float | None = None
    """When the oldest of that was published, in epoch seconds: a replay can begin there (SNS: T6)."""
    tags: dict[str, str] = {}


class PatternStats(Struct, frozen=True):
    """One subscription to every topic that a pattern names."""

    pattern: str
    target: str
    """As in the subscriptions of topics: "queue:audit"."""


class StreamStats(Struct, frozen=True):
    """Counts of one stream."""

    name: str
    accepted: int
    dropped: int
    """Records that a transform dropped, or that held nothing once unpacked."""
    failed: int
    """Records in the error output."""
    delivered: int
    buffered: int
    """Records that wait in intake, buffers and sealed segments."""
    buffered_bytes: int
    open_partitions: int
    objects: int
    object_bytes: int
    oldest_age: float
    """Seconds since the oldest record arrived that is not delivered; 0 when there is none."""
    backup: str | None = None
    """The stream that keeps its records as they came."""
    parked: int = 0
    """Records of `buffered` in segments that wait for an operator."""
    parked_segments: int = 0
    expired: int = 0
    """Records ever dropped for their age, where the stream asks for it."""
    discarded: int = 0
    """Parked records ever deleted by an operator."""
    accepted_bytes: int = 0
    """Of the records that were accepted, as they came."""
    throttled: int = 0
    """Records that met the bound: `put` waited with them, or `put_nowait` was refused."""
    delivered_bytes: int = 0
    """Of segments with delivered records, as they were buffered: with separators, before compression."""
    deliveries: int = 0
    """Segments of which something was delivered, or written to the error output."""
    delivery_failures: int = 0
    """Attempts to deliver that failed."""
    delivered_at: float | None = None
    """When the last of them was, in epoch seconds."""
    added: int = 0
    """Records beyond those accepted, where one became several: what was accepted and these were delivered, dropped,
    failed, expired or discarded, or are buffered."""


class Parked(Struct, frozen=True):
    """One sealed segment that could not be delivered and waits for an operator."""

    id: int
    """What `retry_parked` and `discard_parked` take."""
    stream: str
    partition: str
    name: str
    """The object it was to become."""
    records: int
    size: int
    opened_at: float
    """When its oldest record arrived."""
    parked_at: float
    attempts: int
    code: str
    reason: str


class StoreStats(Struct, frozen=True):
    """Everything an operator asks for first."""

    url: str
    store_id: str
    durability: str
    boot: int
    owner: int
    """Process id of the owner."""
    queues: list[QueueStats]
    topics: list[TopicStats]
    streams: list[StreamStats]
    quarantined: int = 0
    patterns: list[PatternStats] = []
