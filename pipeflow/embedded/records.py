"""What the record log tells a journal, and what a journal tells the log when a store is opened.

Changes ride in the broker's commit group, in order; the first of each group carries the totals, absolute.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from pipeflow.files import Compaction, FileFacts
from pipeflow.messages import Manifest, Segment, Trouble
from pipeflow.state.buffer import Block

INTAKE = 0
"""The id under which records wait for `derive`; open buffers and segments have ids from 1."""


RECOVERED = -1
"""The era of blocks that an earlier process took in."""


def replays_of_topic(topic: str) -> str:
    """What the names begin with that replays of a topic's archive keep their positions under."""
    return f"archive/{topic}/"


def replays_of(stream: str) -> tuple[str, str]:
    """Names between these two are those that replays of the stream keep their positions under."""
    return f"replay/{stream}/", f"replay/{stream}0"  # the sign behind `/`


class RecordCounters(Struct):
    """What a stream counts, ever, and which of its intake is under suspicion."""

    accepted: int = 0
    accepted_bytes: int = 0
    throttled: int = 0
    placed: int = 0
    """Sequence of the newest record in a buffer: what names are made of."""
    added: int = 0
    """Records made beyond those accepted, where one becomes several."""
    dropped: int = 0
    failed: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    deliveries: int = 0
    delivery_failures: int = 0
    delivered_at: float = 0.0
    """When the last segment became objects; 0: none ever did."""
    objects: int = 0
    object_bytes: int = 0
    quarantined: int = 0
    expired: int = 0
    discarded: int = 0
    suspected_upto: int = 0
    """The process died while intake up to here was being derived ..."""
    deaths: int = 0
    """... this many times, without getting past it."""

    def copy(self) -> RecordCounters:
        """The counts as they are now."""
        return replace(self)


class Totals(Struct):
    """First in a group: every count that the group changes, as it is when the group is taken."""

    era: int
    last_id: int = 0
    streams: dict[str, RecordCounters] = field(default_factory=dict)


class Appended(Struct, frozen=True):
    """Records entered a buffer. The block grows until the group is taken."""

    stream: str
    chunk: int
    partition: str
    block: Block


class Consumed(Struct, frozen=True):
    """Intake up to this position was derived."""

    stream: str
    upto: int


class Sealed(Struct, frozen=True):
    """A buffer is frozen: its objects may be written once this is on disk."""

    segment: Segment


class Committed(Struct, frozen=True):
    """A segment became objects: its records are forgotten, its manifest is remembered."""

    segment: Segment
    manifest: Manifest
    at: float


class Troubled(Struct, frozen=True):
    """An attempt to deliver a segment failed, or what failed is tried anew: what is known of it from now on."""

    stream: str
    id: int
    trouble: Trouble


class Compacting(Struct, frozen=True):
    """A compaction is planned: its objects may be written once this is on disk."""

    compaction: Compaction


class Compacted(Struct, frozen=True):
    """Its swap is in the sink: the outputs count, the inputs are retired."""

    compaction: Compaction
    outputs: list[FileFacts]
    at: float


class Abandoned(Struct, frozen=True):
    """A compaction that cannot be done: nothing of it was ever visible."""

    stream: str
    id: int


class Forgotten(Struct, frozen=True):
    """Retired files and replaced manifests are gone from the sink."""

    stream: str
    files: list[str]
    manifests: list[int]


class Deleted(Struct, frozen=True):
    """A stream is gone: nothing of it is remembered but how far its numbers went, and what was set aside as damaged."""

    stream: str


CatalogueChange: TypeAlias = Committed | Compacting | Compacted | Abandoned | Forgotten


class RecoveredChunk(Struct):
    """A buffer as it was: open while it has no segment."""

    stream: str
    id: int
    partition: str
    blocks: list[Block]
    segment: Segment | None = None
    damaged: bool = False
    """Some of its records did not read back: they were set aside."""
    trouble: Trouble | None = None


class RecoveredStreams(Struct):
    """What the log's own tables held."""

    last_id: int
    counters: dict[str, RecordCounters]
    chunks: list[RecoveredChunk]
    """In order of their ids; intake has id 0."""
