"""What remembers the state machines: a journal takes groups of changes and gives back what it was given.

`commit` returns when the group survives a crash. Changes carry absolute values, never deltas. SQL is one journal's
business, and forgetting another's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from pipeflow.messages import AttributeValue, Claim, Failure
from pipeflow.moves import Move
from pipeflow.specs import ClaimSpec, QueueSpec, StreamSpec, Subscription, TopicSpec
from pipeflow.state.stored import Stored

T = TypeVar("T")

PLACE_BITS = 43
"""A row's key is (queue number, place): 2**43 messages a queue, 2**19 queues."""

DELAYED_BIT = 1 << (PLACE_BITS - 1)
"""Delayed messages of standard queues lie in a region of their own: ready ones are read without passing them."""

PLACE_MASK = DELAYED_BIT - 1

NO_STARTS: Mapping[str, int] = MappingProxyType({})


class Counters(Struct):
    """What a queue counts, ever: journaled with every group that touches the queue."""

    last_place: int = 0
    sent: int = 0
    acked: int = 0
    expired: int = 0
    buried: int = 0
    redriven: int = 0
    discarded: int = 0
    """Dead letters that an operator deleted."""
    purged: int = 0
    quarantined: int = 0
    purged_upto: int = 0
    rows: int = 0
    """Rows on disk in the ready region."""
    delayed_rows: int = 0
    """Rows on disk in the delayed region."""
    created_at: float = 0.0
    modified_at: float = 0.0
    """When its options last changed (SQS: Q103)."""
    expiring: bool = False
    """A message with a time to live ever came: what of them lies on disk has to be looked for."""
    cancelled: int = 0
    """Taken back by key before they were visible, also to make room for another of the key."""
    redelayed_at: float = 0.0
    """When a FIFO queue's delay changed, while rows on disk do not all tell so; 0: they do (SQS: Q17)."""
    redelayed_upto: int = 0
    """The last place that there was then."""


class TopicCounters(Struct):
    """What a topic counts, ever."""

    last_sequence: int = 0
    published: int = 0
    delivered: int = 0


class Row(Struct, array_like=True, gc=False):
    """Everything of a message that is not its body, as it lies on disk."""

    id: str
    sent_at: float
    kept_from: float
    size: int
    state: int
    until: float
    attributes: dict[str, AttributeValue] | None
    headers: dict[str, str] | None
    group: str | None
    dedup_id: str | None
    receives: int
    releases: int
    first_received_at: float
    received_at: float
    boot: int
    held_by: int
    durable: bool
    stops: int
    failures: list[Failure] | None
    source: str | None
    envelope: tuple[str, str] | None
    body_crc: int
    expires_at: float | None = None
    """None: it has no time to live of its own."""
    key: str | None = None
    tried: int = 0


class Declared(Struct, frozen=True):
    """A noun to remember; `spec` None: to forget."""

    kind: str
    name: str
    number: int
    spec: bytes | None


class Known(Struct, frozen=True, array_like=True):
    """One accepted deduplication id."""

    scope: int
    key: bytes
    at: float
    id: str
    sequence: int


class FrozenGroup(Struct):
    """A group as it is committed: rows encoded, nothing in it changes any more."""

    inserts: list[Any]
    """(key, due, group, held until, expires, kept, head, crc, body, shared) of every new row, one after the other.

    `kept` marks a row that is out of line with the moment that retention counts from: of all others that goes up with
    their places.
    """
    rewritten: dict[int, bytes | int]
    """Key of a row as it is until now -> the body it has from now on, its own, or the number of one kept aside."""
    updates: list[tuple[Any, ...]]
    """(key, due, held until, head, crc, old key, group, expires, kept) of every row that is on disk and changed.

    `kept` None: the last three are as they were.
    """
    deletes: list[int]
    bodies: dict[int, tuple[bytes, int]]
    """Shared body -> (bytes, how many rows of this group hold it)."""
    claims: dict[int, tuple[Claim, int]]
    """Body kept aside -> (where, how many rows of this group hold it). 0: it goes unless an earlier row holds it."""
    releases: dict[int, int]
    """Shared body -> how many rows of this group let it go."""
    queues: list[tuple[int, bytes]]
    topics: list[tuple[int, bytes]]
    known: list[Known]
    sources: dict[str, bytes | None]
    """None: it is forgotten."""
    streams: list[Any]
    declared: list[Declared]
    damaged: list[int]
    """Keys of damaged rows, to be set aside whole."""
    audit: list[tuple[int, float, str, bytes]]
    """(number, time, subject, entry) of what operators did."""
    clock: float
    sync: bool
    """Sync to disk even where the durability is `normal`."""

    @property
    def empty(self) -> bool:
        return not (
            self.inserts
            or self.updates
            or self.deletes
            or self.queues
            or self.topics
            or self.known
            or self.sources
            or self.streams
            or self.declared
            or self.claims
            or self.releases
            or self.damaged
            or self.audit
        )


class Waiting(Struct, frozen=True):
    """The delayed rows of a queue, as they were found."""

    moment: float = 0.0
    fifo: int = 0
    """How many of a FIFO queue come due after this moment."""
    retries: int = 0
    """How many of a standard queue wait for a retry."""


class RecoveredQueue(Struct):
    """A queue as the journal remembers it; its messages are loaded when somebody asks for them."""

    number: int
    spec: QueueSpec
    counters: Counters
    waiting: Waiting = Waiting()


class RecoveredLane(Struct):
    """One priority of a queue as the journal remembers it."""

    number: int
    of: int
    """Number of the queue."""
    priority: int
    counters: Counters
    waiting: Waiting = Waiting()


class RecoveredTopic(Struct):
    """A topic as the journal remembers it."""

    number: int
    spec: TopicSpec
    counters: TopicCounters


class Recovered(Struct):
    """What a journal held when it was opened."""

    store_id: str
    boot: int
    clean: bool
    clock: float
    receipt_key: bytes
    last_body: int
    queues: list[RecoveredQueue]
    lanes: list[RecoveredLane]
    topics: list[RecoveredTopic]
    subscriptions: list[Subscription]
    streams: list[StreamSpec]
    held: list[tuple[int, Stored]]
    """(queue number, message) held by consumers outside the process when the store was last open."""
    known: list[Known]
    """The newest accepted deduplication ids, oldest first."""
    known_upto: float
    """Ids accepted up to here were too many to bring along; 0 when all of the window are here."""
    sources: dict[str, bytes]
    gone: list[RecoveredQueue]
    """Deleted queues of which rows may be left."""
    moves: list[Move]
    """Moves of dead letters, under way or ended."""
    claims: ClaimSpec | None
    """Where large bodies are kept aside, if an app ever said so."""
    last_entry: int
    """Number of the audit's newest entry."""
    log: Any
    """What `embedded.log` needs of its own tables."""


class Loaded(Struct):
    """Messages that came back from the cold tail."""

    messages: list[Stored]
    last: int = 0
    """The last place looked at, damaged rows included; 0 when there was no row."""
    damaged: list[int] = []
    """Keys of rows whose CRC did not hold: never delivered. The caller has them set aside, and counts them."""
    due: float = 0.0
    """Of delayed messages: the due time that the row of the last place lies under."""
    waiting: dict[int, float] = {}
    """By key of a damaged row: when it comes due, if it waits for a delay."""


Way: TypeAlias = Literal["expires", "kept", "place", "due"]
"""In which order messages are looked through for what time does to them: by time to live, by retention where that does
not count in the order of places, by places, or by the end of delays."""


class Heads(Struct):
    """Messages without their bodies, as they were met on a way."""

    messages: list[Stored]
    """Damaged ones are not among them: whoever reads them whole has them set aside."""
    damaged: list[tuple[float, int]] = []
    """(moment, row) of those."""
    last: tuple[float, int] = (0.0, 0)
    """(moment, row) of the last row met, damaged or not; by places (0, place)."""
    rows: int = 0
    """How many were met."""


class Met(Struct):
    """Rows that were passed, and whose they are."""

    first: dict[str, int]
    """By group: the first place that it was met at."""
    others: int = 0
    """How many of those groups were not named as being here."""
    rows: int = 0
    last: int = 0
    """The last place that was passed; 0 when there was no row."""


class Journal(Protocol):
    """Remembers what the state machines changed."""

    instant: bool
    """Commits take no time and remember nothing: nobody waits for them."""
    durability: str
    idle_at: float
    """When `idle` is next to be called; inf when there is nothing to do."""
    aside: Path | None
    """The directory in which large bodies are kept aside; None: every body stays with its message."""

    @property
    def full(self) -> bool:
        """There is no room for new messages; what is there can still be deleted."""
        ...

    async def recover(self) -> Recovered:
        """Open and read; called once, first."""
        ...

    async def commit(self, group: FrozenGroup) -> None:
        """Return when the group survives a crash. Unavailable or Indeterminate when it may not."""

    async def load(self, queue: int, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        """Ready messages of a standard queue behind a place, in order of place. Damaged rows are set aside.

        Their bodies have no more than `most_bytes` together, unless the first one has.
        """
        ...

    async def load_delayed(self, queue: int, due: float, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        """Delayed messages of a standard queue from (due, place) on, in order of due time; so many bytes as above."""
        ...

    async def load_groups(
        self,
        queue: int,
        after: str,
        skip: Sequence[str],
        upto: int,
        groups: int,
        limit: int,
        starts: Mapping[str, int] = NO_STARTS,
    ) -> Loaded:
        """The first `limit` messages behind place `upto` of each of up to `groups` groups behind a group name.

        Groups without any are passed over. `starts`: by group, a place behind `upto` to begin behind instead.
        """
        ...

    async def load_of_groups(self, queue: int, groups: Sequence[tuple[str, int]], limit: int) -> list[Loaded]:
        """Of each FIFO (group, place) the first `limit` messages behind the place, in order."""
        ...

    async def pass_over(self, queue: int, after: int, here: Collection[str], groups: int, limit: int) -> Met:
        """Which groups the next `limit` rows behind a place belong to, up to so many groups that are not `here`."""
        ...

    async def load_ending(self, queue: int, way: Way, after: tuple[float, int], limit: int) -> Heads:
        """What lies on a way behind (moment, row); on that of places ready messages only, without the marked ones."""
        ...

    async def load_keyed(self, queue: int, names: Sequence[str]) -> Loaded:
        """Of each name of a key, the delayed message of a standard queue that was sent last."""
        ...

    async def bodies(self, messages: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Bodies of (row, shared body) pairs; None where the row is damaged or gone."""
        ...

    async def known(self, wanted: Sequence[tuple[int, bytes]], since: float) -> list[Known]:
        """Which of these (scope, deduplication id) were accepted since then."""
        ...

    async def read(self, question: Callable[..., T], *arguments: object) -> T:
        """What this function answers, given the journal's tables and these arguments; it changes nothing."""
        ...

    async def sweep(self, queue: int, upto: int, limit: int) -> int:
        """Delete up to `limit` rows of a purged queue; how many there were."""
        ...

    def has_room(self, size: int) -> bool:
        """Whether the store can go on when so many bytes are written beside it. Asks the disk: not on the loop."""
        ...

    async def doomed(self, after: int, upto: int, limit: int) -> list[tuple[int, Claim | None]]:
        """(number of the entry, body kept aside) of which the last reference is gone, of these entries, in order."""
        ...

    async def last_doomed(self) -> int:
        """The number of the newest such entry; 0: there is none."""
        ...

    async def undoom(self, numbers: Sequence[int]) -> None:
        """These entries are done: the bodies are deleted."""

    async def idle(self) -> None:
        """Make durable what was acknowledged before it was synced."""

    async def close(self, clean: bool) -> None:
        """Let go; `clean` records that nothing was lost."""


class Forget:
    """The journal of memory://: it remembers nothing."""

    instant = True
    durability = "memory"
    full = False
    idle_at = inf
    aside: Path | None = None

    def __init__(self, store_id: str, receipt_key: bytes) -> None:
        self._store_id = store_id
        self._receipt_key = receipt_key

    async def recover(self) -> Recovered:
        return Recovered(
            store_id=self._store_id,
            boot=1,
            clean=True,
            clock=0.0,
            receipt_key=self._receipt_key,
            last_body=0,
            queues=[],
            lanes=[],
            topics=[],
            subscriptions=[],
            streams=[],
            held=[],
            known=[],
            known_upto=0.0,
            sources={},
            gone=[],
            moves=[],
            claims=None,
            last_entry=0,
            log=None,
        )

    async def commit(self, group: FrozenGroup) -> None:
        return

    async def load(self, queue: int, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        return Loaded([])

    async def load_delayed(self, queue: int, due: float, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        return Loaded([])

    async def load_groups(
        self,
        queue: int,
        after: str,
        skip: Sequence[str],
        upto: int,
        groups: int,
        limit: int,
        starts: Mapping[str, int] = NO_STARTS,
    ) -> Loaded:
        return Loaded([])

    async def load_of_groups(self, queue: int, groups: Sequence[tuple[str, int]], limit: int) -> list[Loaded]:
        return [Loaded([]) for _ in groups]

    async def pass_over(self, queue: int, after: int, here: Collection[str], groups: int, limit: int) -> Met:
        return Met({})

    async def load_ending(self, queue: int, way: Way, after: tuple[float, int], limit: int) -> Heads:
        return Heads([])

    async def load_keyed(self, queue: int, names: Sequence[str]) -> Loaded:
        return Loaded([])

    async def bodies(self, messages: Sequence[tuple[int, int]]) -> list[bytes | None]:
        return [None for _ in messages]

    async def known(self, wanted: Sequence[tuple[int, bytes]], since: float) -> list[Known]:
        return []

    async def read(self, question: Callable[..., T], *arguments: object) -> T:
        raise AssertionError("what nothing was written to is not asked")

    async def sweep(self, queue: int, upto: int, limit: int) -> int:
        return 0

    def has_room(self, size: int) -> bool:
        return True

    async def doomed(self, after: int, upto: int, limit: int) -> list[tuple[int, Claim | None]]:
        return []

    async def last_doomed(self) -> int:
        return 0

    async def undoom(self, numbers: Sequence[int]) -> None:
        return

    async def idle(self) -> None:
        return

    async def close(self, clean: bool) -> None:
        return
