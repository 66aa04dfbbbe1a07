"""One stream inside the embedded broker: the places its records lie in, who waits for them, and the lane into them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pipeflow.clock import Clock, Signal
from pipeflow.embedded.records import RecordCounters
from pipeflow.errors import ObjectRefused, Overloaded, RefusedError
from pipeflow.messages import Outgoing, Refused, Segment, Trouble
from pipeflow.protocols import Compact, StreamStats
from pipeflow.sinks.layout import Layout
from pipeflow.specs import StreamSpec
from pipeflow.state.buffer import Block, Buffers

TURN = 256 << 10
"""Bytes a memory stream takes without asking: then the event loop gets its turn, and the records their time."""


class SealedChunk:
    __slots__ = ("segment", "blocks", "handed", "trouble", "damaged")

    def __init__(self, segment: Segment, blocks: list[Block], handed: bool = True, damaged: bool = False) -> None:
        self.segment = segment
        self.blocks = blocks
        self.handed = handed
        self.trouble = NO_TROUBLE
        self.damaged = damaged
        """Some of its records are gone: it can be discarded, and never be delivered."""


NO_TROUBLE = Trouble()


class Flush:
    __slots__ = ("accepted", "placed", "signal")

    def __init__(self, accepted: int, placed: int | None) -> None:
        self.accepted = accepted
        self.placed = placed
        self.signal = Signal()


class Channel:
    """One stream's places for records, and who waits for them to move."""

    __slots__ = (
        "spec",
        "places",
        "limit",
        "layout",
        "durable",
        "buffers",
        "intake",
        "intake_size",
        "growing",
        "wary",
        "sealed",
        "parked",
        "sealed_size",
        "counters",
        "signal",
        "rooms",
        "waiters",
        "demanded",
        "deliveries",
        "lane",
        "compact",
    )

    def __init__(self, spec: StreamSpec, new_id: Callable[[], int], journaled: bool) -> None:
        self.spec = spec
        self.places: tuple[Channel, ...] = (self,)
        """Where an accepted record goes: here, and to the backup if there is one."""
        self.limit = spec.max_record
        """Bytes of a record that all of these take."""
        self.layout = Layout(spec)
        self.durable = journaled and spec.durability != "memory"
        self.buffers = Buffers(
            spec.buffering,
            new_id,
            separator=len(spec.separator),
            max_partitions=spec.max_partitions,
            max_buffered=spec.max_buffered,
        )
        self.intake: deque[Block] = deque()
        self.intake_size = 0
        self.growing = False
        """Whether the last block of the intake may take more records."""
        self.wary = False
        """Whether this process has counted itself among those that tried the intake an earlier one left."""
        self.sealed: dict[int, SealedChunk] = {}
        self.parked: dict[int, SealedChunk] = {}
        """Sealed, and waiting for an operator instead of the sink."""
        self.sealed_size = 0
        """Bytes in both."""
        self.counters = RecordCounters()
        self.signal = Signal()
        self.rooms: list[Signal] = []
        self.waiters: list[Flush] = []
        self.demanded: tuple[int, str] | None = None
        self.deliveries = 0
        """How many deliveries of it run in this process."""
        self.lane: OpenLane | None = None
        self.compact: Compact | None = None
        """Merges small files, while something in this process delivers the stream."""

    @property
    def empty(self) -> bool:
        """Nothing waits in it."""
        self.absorb()
        return not (self.intake or self.buffers.open or self.buffers.closed or self.sealed or self.parked)

    def update(self, spec: StreamSpec, journaled: bool) -> None:
        self.absorb()
        self.spec = spec
        self.layout = Layout(spec)
        self.buffers.separator = len(spec.separator)
        self.durable = journaled and spec.durability != "memory"
        self.buffers.buffering = spec.buffering
        self.buffers.max_partitions = spec.max_partitions
        self.buffers.max_buffered = spec.max_buffered
        self.buffers.fit()
        self.signal.fire()
        self.fire_room()

    def absorb(self) -> None:
        """Count what came through the lane."""
        lane = self.lane
        if lane is None or not lane.granted:
            return
        placed = self.buffers.placed
        size = lane.settle()
        self.buffers.absorb(size)
        records = self.buffers.placed - placed
        self.counters.accepted += records
        self.counters.accepted_bytes += size - self.buffers.separator * records
        self.counters.placed = self.buffers.placed

    def misfit(self, layout: Layout) -> str | None:
        """A partition that waits here and could not be named by this layout; None: all of them can."""
        for chunk in [*self.buffers.open.values(), *self.buffers.closed]:
            try:
                layout.check(chunk.partition)
            except RefusedError as error:
                return str(error)
        return None

    @property
    def held(self) -> int:
        """Bytes that wait to be sealed, with their separators: they only grow by what is accepted."""
        return self.buffers.open_size + self.buffers.closed_size + self.intake_size

    def weigh(self, held: int, records: int) -> None:
        """Count the bytes of records that were accepted since so much was held."""
        self.counters.accepted_bytes += self.held - held - self.buffers.separator * records

    @property
    def buffered(self) -> int:
        """Bytes that wait anywhere in the stream."""
        return self.buffers.open_size + self.buffers.closed_size + self.sealed_size + self.intake_size

    def go_to(self, places: tuple[Channel, ...]) -> None:
        """Accepted records go to all of these from now on."""
        self.places = places
        self.limit = min(place.spec.max_record for place in places)

    @property
    def full(self) -> Channel | None:
        """Which of the places for an accepted record is at its bound; None: there is room in all."""
        for place in self.places:
            place.absorb()
            if place.buffered >= place.spec.max_buffered:
                return place
        return None

    @property
    def stuck(self) -> bool:
        """Whether it is at its bound, and nothing is on its way out that will make room."""
        return self.buffered >= self.spec.max_buffered and not (self.sealed or self.buffers.closed)

    def make_room(self) -> None:
        """Somebody wants to put something: what gathers in a stream that is stuck has nothing to wait for."""
        if self.stuck:
            self.buffers.give_way()
            self.signal.fire()

    def fire_room(self) -> None:
        if self.rooms and self.buffered < self.spec.max_buffered:
            for signal in self.rooms:
                signal.fire()

    def reached(self, waiter: Flush) -> bool:
        """Everything before it left the stream; ObjectRefused once nothing is left but what is parked."""
        if not self.is_past(waiter):
            return False
        parked = self.parked_before(waiter)
        if parked is not None:
            raise ObjectRefused(
                f"stream {self.spec.name}: {parked.segment.name} is parked ({parked.trouble.reason}); "
                f"remove the cause, then `pipeflow parked retry {self.spec.name} --all`"
            )
        return True

    def is_past(self, waiter: Flush) -> bool:
        if waiter.placed is None:
            return False
        # The oldest are looked at first: while something is pending, it is among them.
        placed, buffers = waiter.placed, self.buffers
        return not (
            any(sealed.segment.first <= placed for sealed in self.sealed.values())
            or any(chunk.first <= placed for chunk in buffers.closed)
            or any(chunk.first <= placed for chunk in buffers.open.values())
        )

    def parked_before(self, waiter: Flush) -> SealedChunk | None:
        for parked in self.parked.values():
            if waiter.placed is None or parked.segment.first <= waiter.placed:
                return parked
        return None

    def stats(self, now: float) -> StreamStats:
        self.absorb()
        buffers = self.buffers
        chunks = [*buffers.open.values(), *buffers.closed]
        records = sum(chunk.records for chunk in chunks)
        parked = sum(chunk.segment.records for chunk in self.parked.values())
        records += parked + sum(sealed.segment.records for sealed in self.sealed.values())
        records += sum(len(block.bodies) for block in self.intake)
        moments = [chunk.opened_at for chunk in chunks]
        moments += [sealed.segment.opened_at for sealed in [*self.sealed.values(), *self.parked.values()]]
        moments += [block.at for block in self.intake]
        return StreamStats(
            name=self.spec.name,
            accepted=self.counters.accepted,
            dropped=self.counters.dropped,
            failed=self.counters.failed,
            delivered=self.counters.delivered,
            buffered=records,
            buffered_bytes=self.buffered,
            open_partitions=len(buffers.open),
            objects=self.counters.objects,
            object_bytes=self.counters.object_bytes,
            oldest_age=max(0.0, now - min(moments)) if moments else 0.0,
            backup=self.spec.backup,
            parked=parked,
            parked_segments=len(self.parked),
            expired=self.counters.expired,
            discarded=self.counters.discarded,
            added=self.counters.added,
            accepted_bytes=self.counters.accepted_bytes,
            throttled=self.counters.throttled,
            delivered_bytes=self.counters.delivered_bytes,
            deliveries=self.counters.deliveries,
            delivery_failures=self.counters.delivery_failures,
            delivered_at=self.counters.delivered_at or None,
        )


class OpenLane:
    """Puts records into a stream's buffers without waiting; see `Lane`."""

    __slots__ = ("left", "bodies", "granted", "_check", "_accept", "_spread", "_clock", "_stream")

    def __init__(
        self,
        stream: Channel,
        clock: Clock,
        check: Callable[[], None],
        accept: Callable[[Channel, list[bytes], str | None, int], None],
        spread: Callable[[Channel, Sequence[bytes], Sequence[str]], None],
    ) -> None:
        self.left = 0
        self.bodies: list[bytes] = []
        self.granted = 0
        self._clock = clock
        self._check = check
        self._accept = accept
        self._spread = spread
        self._stream = stream

    def add(self, bodies: Sequence[bytes], partition: str | None = None) -> int:
        """Accept all or none; their bytes. Overloaded at the bound; RefusedError for a record or partition too odd."""
        stream = self._stream
        size = self._admitted(bodies)
        if partition is not None:
            stream.layout.check(partition)
        self._accept(stream, list(bodies), partition, size + stream.buffers.separator * len(bodies))
        self._open()
        return size

    def spread(self, bodies: Sequence[bytes], partitions: Sequence[str]) -> int:
        """The same, each record in the partition at its place; for streams without a transform."""
        stream = self._stream
        assert not stream.spec.transformed
        size = self._admitted(bodies)
        for partition in set(partitions).difference(stream.buffers.open):
            stream.layout.check(partition)
        self._spread(stream, bodies, partitions)
        return size

    def turned_away(self, records: int) -> None:
        """Count records that nobody waits with."""
        self._stream.counters.throttled += records

    def _admitted(self, bodies: Sequence[bytes]) -> int:
        """The bytes of these, when they may come in."""
        self._check()
        stream = self._stream
        full = stream.full
        if full is not None:
            bound = full.spec
            full.make_room()
            raise Overloaded(
                f"stream {bound.name}: {full.buffered} bytes wait for {bound.shown_sink}, "
                f"the bound is {bound.max_buffered}; "
                "use `await put`, or raise max_buffered"
            )
        size = sum(map(len, bodies))
        if size > stream.limit and max(map(len, bodies)) > stream.limit:
            raise RefusedError("TooLarge", too_large(stream, max(map(len, bodies))))
        return size

    def _open(self) -> None:
        stream = self._stream
        spec = stream.spec
        if stream.durable or spec.transformed or spec.partitioned or spec.backup is not None:
            return
        buffers = stream.buffers
        if "" not in buffers.open:
            return  # just closed: the first record of the next buffer starts its clock
        # No more than one record may have, so that what is too large is refused by `add`.
        self.granted, self.bodies = buffers.grant(self._clock.now(), 0, min(TURN, stream.limit))
        self.left = self.granted

    def end(self, check: Callable[[], None]) -> None:
        """Nothing goes in any more; `check` says why."""
        self.settle()
        self._check = check

    def settle(self) -> int:
        """Bytes taken since the grant, which ends."""
        used = self.granted - self.left
        self.left = self.granted = 0
        self.bodies = []
        return used


def refusal(log: Channel, message: Outgoing) -> Refused | None:
    if len(message.body) > log.limit:
        return Refused("TooLarge", too_large(log, len(message.body)))
    partition = message.partition
    if partition is not None and partition not in log.buffers.open:
        try:
            log.layout.check(partition)
        except RefusedError as error:
            return Refused(error.code, f"stream {log.spec.name}: {error}")
    return None


def too_large(log: Channel, size: int) -> str:
    spec = min((place.spec for place in log.places), key=lambda spec: spec.max_record)
    return f"stream {spec.name}: a record of {size} bytes; the limit is max_record={spec.max_record}"


def measured(bodies: Sequence[bytes], separator: int) -> int:
    return sum(map(len, bodies)) + separator * len(bodies)
