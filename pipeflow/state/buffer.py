"""THE BATCHING CORE: records gather in one buffer per partition until it is full, old enough, demanded or pressed out.

Pure: time, eras and ids are arguments. A buffer closes when its bytes reach the size, counted with separators and
before compression, or when its first record is old enough, whichever comes first (Firehose: S33, S34). A record is
never split; an empty buffer does not exist. Nothing is made per record: a record is one place in a list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf

from pipeflow.specs import Buffering

GRAIN = 0.1
"""Seconds that records in memory only may share as their moment: a block per millisecond and partition costs more than
the records in it, where there are hundreds of partitions."""


class Block:
    """Records of one buffer that were accepted in one era (one commit) at one moment."""

    __slots__ = ("first", "last", "at", "era", "bodies")

    def __init__(self, first: int, at: float, era: int, bodies: list[bytes], last: int = 0) -> None:
        self.first = first
        self.last = last or first + len(bodies) - 1
        self.at = at
        self.era = era
        self.bodies = bodies


class Chunk:
    """The records of one partition that will become one object. Open while `reason` is empty."""

    __slots__ = (
        "id",
        "partition",
        "opened_at",
        "due",
        "limit",
        "first",
        "last",
        "size",
        "blocks",
        "tail",
        "tail_at",
        "reason",
    )

    def __init__(self, id: int, partition: str, opened_at: float, buffering: Buffering, first: int) -> None:
        self.id = id
        self.partition = partition
        self.opened_at = opened_at
        # Hints are taken when a buffer opens; an update concerns the ones opened after it (Firehose: S36).
        self.due = opened_at + buffering.seconds
        self.limit = buffering.bytes
        self.first = first
        self.last = first - 1
        self.size = 0
        self.blocks: list[Block] = []
        self.tail: list[bytes] = []
        """What `spread` adds to: the bodies of the last block, while `tail_at` is its moment."""
        self.tail_at = -inf
        self.reason = ""

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(len(block.bodies) for block in self.blocks)


class Buffers:
    """The open buffers of one stream and the closed ones that wait for delivery, oldest closing first."""

    __slots__ = (
        "buffering",
        "separator",
        "max_partitions",
        "max_buffered",
        "placed",
        "last_at",
        "open",
        "closed",
        "open_size",
        "closed_size",
        "_new_id",
        "_due",
        "_spread_at",
    )

    def __init__(
        self,
        buffering: Buffering,
        new_id: Callable[[], int],
        *,
        separator: int = 0,
        max_partitions: int = 500,
        max_buffered: int = 256 << 20,
    ) -> None:
        self.buffering = buffering
        self.separator = separator
        self.max_partitions = max_partitions
        self.max_buffered = max_buffered
        self.placed = 0
        """Sequence of the newest record."""
        self.last_at = 0.0
        self.open: dict[str, Chunk] = {}
        self.closed: deque[Chunk] = deque()
        self.open_size = 0
        self.closed_size = 0
        self._new_id = new_id
        self._due: float | None = inf
        self._spread_at = -inf

    def append(
        self, partition: str, bodies: list[bytes], at: float, era: int, size: int | None = None
    ) -> list[tuple[Chunk, Block]]:
        """Accept records in order; answers the blocks that were begun for them. `bodies` may be kept.

        `size`: their bytes with separators, when the caller has counted them.
        """
        begun: list[tuple[Chunk, Block]] = []
        separator = self.separator
        at = self.moment(at)
        total = size if size is not None else sum(map(len, bodies)) + separator * len(bodies)
        while bodies:
            chunk = self.open.get(partition) or self._open(partition, at)
            room = chunk.limit - chunk.size
            if total < room:
                self._extend(chunk, bodies, total, at, era, begun)
                break
            count, cut = _cut(bodies, room, separator)
            self._extend(chunk, bodies[:count], cut, at, era, begun)
            self._close(chunk, "size")
            bodies = bodies[count:]
            total -= cut
        self._relieve()
        return begun

    def spread(self, partitions: Sequence[str], bodies: Sequence[bytes], at: float) -> None:
        """Accept records in order, each in the partition at its place: into memory only, so blocks have no era.

        For batches whose records hardly share a partition: 0.2 us a record where `append` takes 4 a partition
        (benchmarks/partitions.py).
        """
        at = self.moment(at)
        if at >= self._spread_at + GRAIN:
            self._spread_at = at
        moment = self._spread_at
        separator = self.separator
        find = self.open.get
        placed, grown = self.placed, 0
        for partition, body in zip(partitions, bodies, strict=True):
            chunk = find(partition)
            length = len(body) + separator
            if chunk is not None and chunk.tail_at == moment and (size := chunk.size + length) < chunk.limit:
                placed += 1
                grown += length
                chunk.tail.append(body)
                chunk.size = size
                chunk.last = placed
                continue
            self.placed = placed
            self.open_size += grown
            grown = 0
            self._begin(partition, body, length, at, moment)
            placed = self.placed
        self.placed = placed
        self.open_size += grown
        self._relieve()

    def _begin(self, partition: str, body: bytes, length: int, at: float, moment: float) -> None:
        """One record, in a block that `spread` may add to where the buffer stays open."""
        chunk = self.open.get(partition) or self._open(partition, at)
        if chunk.tail_at != moment:
            self._end_tail(chunk)
            chunk.tail = []
            chunk.tail_at = moment
            chunk.blocks.append(Block(self.placed + 1, moment, 0, chunk.tail, self.placed + 1))
        chunk.tail.append(body)
        self.placed += 1
        chunk.last = self.placed
        chunk.size += length
        self.open_size += length
        if chunk.size >= chunk.limit:
            self._close(chunk, "size")

    def _end_tail(self, chunk: Chunk) -> None:
        if chunk.tail_at != -inf:
            chunk.blocks[-1].last = chunk.last
            chunk.tail_at = -inf

    def moment(self, at: float) -> float:
        """The time of acceptance: whole milliseconds that never go backwards (Firehose: S16)."""
        at = round(at * 1000) / 1000
        if at < self.last_at:
            return self.last_at
        self.last_at = at
        return at

    def grant(self, at: float, era: int, turn: int) -> tuple[int, list[bytes]]:
        """(bytes, list): fewer bytes than that may be put into the unpartitioned buffer's list without asking.

        `absorb` counts them afterwards, before anything else is done to these buffers.
        """
        chunk = self.open.get("") or self._open("", self.moment(at))
        block = Block(self.placed + 1, self.moment(at), era, [], self.placed)
        chunk.blocks.append(block)
        return min(turn, chunk.limit - chunk.size), block.bodies

    def absorb(self, size: int) -> None:
        """Count what was put into the granted list: `size` bytes with separators."""
        chunk = self.open[""]
        block = chunk.blocks[-1]
        if not block.bodies:
            chunk.blocks.pop()
            if not chunk.blocks:
                self._forget(chunk)
            return
        self.placed += len(block.bodies)
        block.last = chunk.last = self.placed
        chunk.size += size
        self.open_size += size
        self._relieve()

    @property
    def due(self) -> float:
        """When the next open buffer is old enough; now or never for what is closed."""
        if self._due is None:
            self._due = min((chunk.due for chunk in self.open.values()), default=inf)
        return self._due

    def ripen(self, now: float) -> None:
        """Close every buffer that is old enough."""
        if self.due <= now:
            for chunk in [chunk for chunk in self.open.values() if chunk.due <= now]:
                self._close(chunk, "time")

    def demand(self, reason: str) -> None:
        """Close every open buffer now."""
        for chunk in list(self.open.values()):
            self._close(chunk, reason)

    def next(self) -> Chunk | None:
        """Hand over the buffer that closed first."""
        if not self.closed:
            return None
        chunk = self.closed.popleft()
        self.closed_size -= chunk.size
        return chunk

    def fit(self) -> None:
        """Close what is open beyond the bounds: they may have been lowered."""
        self._relieve()
        while len(self.open) > self.max_partitions:
            self._press()

    def give_way(self) -> None:
        """Close the largest buffer, if one is open: the bound is met, and what it waits for cannot come."""
        if self.open:
            self._close(max(self.open.values(), key=_size), "pressure")

    def restore(self, id: int, partition: str, blocks: Sequence[Block]) -> None:
        """Take back an open buffer as it was before a restart; its age goes on from its first record."""
        chunk = Chunk(id, partition, blocks[0].at, self.buffering, blocks[0].first)
        chunk.blocks = list(blocks)
        chunk.size = measure(blocks, self.separator)
        chunk.last = blocks[-1].last
        self.placed = max(self.placed, chunk.last)
        self.last_at = max(self.last_at, blocks[-1].at)
        twin = self.open.get(partition)
        if twin is not None:
            # Two buffers of one partition: the older one had closed, and nobody had sealed it yet.
            self._close(twin, "size")
        self.open[partition] = chunk
        self.open_size += chunk.size
        self._due = None
        if chunk.size >= chunk.limit:
            self._close(chunk, "size")
        elif len(self.open) > self.max_partitions:
            self._press()

    def _open(self, partition: str, at: float) -> Chunk:
        if len(self.open) >= self.max_partitions:
            self._press()
        chunk = Chunk(self._new_id(), partition, at, self.buffering, self.placed + 1)
        self.open[partition] = chunk
        if self._due is not None and chunk.due < self._due:
            self._due = chunk.due
        return chunk

    def _extend(
        self, chunk: Chunk, bodies: list[bytes], size: int, at: float, era: int, begun: list[tuple[Chunk, Block]]
    ) -> None:
        self._end_tail(chunk)
        tail = chunk.blocks[-1] if chunk.blocks else None
        if tail is not None and tail.era == era and tail.at == at:
            tail.bodies += bodies
        else:
            tail = Block(self.placed + 1, at, era, bodies)
            chunk.blocks.append(tail)
            begun.append((chunk, tail))
        self.placed += len(bodies)
        tail.last = chunk.last = self.placed
        chunk.size += size
        self.open_size += size

    def _close(self, chunk: Chunk, reason: str) -> None:
        self._end_tail(chunk)
        self._forget(chunk)
        chunk.reason = reason
        self.closed.append(chunk)
        self.closed_size += chunk.size

    def _forget(self, chunk: Chunk) -> None:
        del self.open[chunk.partition]
        self.open_size -= chunk.size
        if chunk.due == self._due:
            self._due = None

    def _press(self) -> None:
        # The least recently used partition makes place: the one whose newest record is the oldest.
        self._close(min(self.open.values(), key=_last), "pressure")

    def _relieve(self) -> None:
        # Many open buffers must not fill the bound before one of them is ripe: half of it is for what is in delivery.
        limit = max(self.max_buffered // 2, self.buffering.bytes)
        while self.open_size > limit:
            self.give_way()


def measure(blocks: Iterable[Block], separator: int) -> int:
    """Bytes of the records with their separators, before compression (Firehose: S34)."""
    return sum(sum(map(len, block.bodies)) + separator * len(block.bodies) for block in blocks)


def _cut(bodies: list[bytes], room: int, separator: int) -> tuple[int, int]:
    """(records, bytes) of the shortest beginning that fills `room`."""
    size = 0
    for count, body in enumerate(bodies, 1):
        size += len(body) + separator
        if size >= room:
            return count, size
    raise AssertionError("the caller knows that they fill it")


def _last(chunk: Chunk) -> int:
    return chunk.last


def _size(chunk: Chunk) -> int:
    return chunk.size
