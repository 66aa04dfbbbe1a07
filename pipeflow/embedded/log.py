"""The record log of the embedded broker: buffers in memory, every change of them in the broker's commit group.

A record is in exactly one place: the intake, an open buffer, a sealed segment, or an object named in a manifest. Each
move is one commit, and a segment's name is durable before anything is written under it; so after a crash the same
objects are written again, whole (P17). Streams of memory durability go the same ways and are never journaled.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from pipeflow.clock import Signal
from pipeflow.embedded.catalogue import StreamCatalogue
from pipeflow.embedded.channel import Channel, OpenLane, SealedChunk, measured, refusal
from pipeflow.embedded.ledger import Ledger, Owner
from pipeflow.embedded.outlet import Outlet
from pipeflow.embedded.parking import Parking
from pipeflow.embedded.records import (
    INTAKE,
    RECOVERED,
    Appended,
    Consumed,
    Deleted,
    RecordCounters,
    RecoveredChunk,
    RecoveredStreams,
)
from pipeflow.errors import RefusedError, SpecConflict
from pipeflow.messages import Outgoing, Position, Records, Refused, Trouble
from pipeflow.protocols import Lane, StreamStats, Waiting
from pipeflow.sinks.layout import Layout
from pipeflow.specs import StreamSpec
from pipeflow.state.buffer import Block, measure

logger = logging.getLogger("pipeflow")


class Log:
    """The verbs of `RecordLog` over the buffers of every stream; and `append_in_group`, for topics and emits."""

    def __init__(self, owner: Owner, recovered: RecoveredStreams | None = None) -> None:
        self._recovered = recovered or RecoveredStreams(0, {}, [])
        self._journaled = not owner.journal.instant
        self._ledger = Ledger(owner, self._recovered.last_id)
        self.outlet = Outlet(self._ledger)
        self.parking = Parking(self._ledger)
        self.fail = self._ledger.fail

    # Declaring

    def declare(self, spec: StreamSpec) -> None:
        """Make the stream, or change its options; buffers that are open keep the hints they opened with."""
        known = self._ledger.streams.get(spec.name)
        if known is not None:
            conflict = self.conflict(spec)
            if conflict is not None:
                raise SpecConflict(conflict)
            known.update(spec, self._journaled)
            self._skip_intake(known)
        else:
            stream = Channel(spec, self._ledger.new_id, self._journaled)
            self._ledger.streams[spec.name] = stream
            self._restore(stream)
        self._lay_ways()

    def _lay_ways(self) -> None:
        streams = self._ledger.streams
        for stream in streams.values():
            backup = streams.get(stream.spec.backup) if stream.spec.backup is not None else None
            stream.go_to((stream,) if backup is None else (stream, backup))

    def delete(self, stream: str, drop: bool) -> int:
        """Forget the stream; how many records were dropped. RefusedError when it is in use, or holds some unasked."""
        log = self._ledger.stream(stream)
        held = log.stats(self._ledger.clock.now()).buffered
        if log.deliveries:
            raise RefusedError(
                "InUse",
                f"stream {stream}: process {os.getpid()} runs an app that delivers it; stop the app, then delete",
            )
        if held and not drop:
            raise RefusedError(
                "NotEmpty",
                f"stream {stream}: {held} records wait in it; run its app once, so that they are delivered, or lose "
                "them with --drop",
            )
        del self._ledger.streams[stream]
        if log.lane is not None:
            log.lane.end(lambda: self._gone(stream))
        # Its numbers are spent: a new stream of this name must not write over the files that the old one left.
        spent = RecordCounters(placed=log.buffers.placed)
        self._recovered.counters[stream] = spent
        if log.durable:
            self._ledger.changes().append(Deleted(stream))
            self._ledger.totals().streams[stream] = spent
        else:
            self._ledger.volatile.delete(stream)
        for signal in [*log.rooms, *(waiter.signal for waiter in log.waiters), log.signal]:
            signal.fire()
        self._lay_ways()
        return held

    def _gone(self, stream: str) -> None:
        self._ledger.stream(stream)

    def conflict(self, spec: StreamSpec) -> str | None:
        """Why the stream cannot become this; None when it can."""
        layout = Layout(spec)  # options that make no names are refused before anything is declared
        known = self._ledger.streams.get(spec.name)
        if known is None or known.empty:
            return None
        misfit = known.misfit(layout)
        if misfit is not None:
            return (
                f"stream {spec.name}: records wait in it that its new prefix cannot name ({misfit}); "
                "run once as it was, so that they are delivered, then change it"
            )
        if known.spec.durability == spec.durability:
            return None
        return (
            f"stream {spec.name}: durability was {known.spec.durability!r} and is declared {spec.durability!r}, while "
            f"{known.buffered} bytes wait in it; run once as it was, so that they are delivered, then change it"
        )

    def _skip_intake(self, log: Channel) -> None:
        """What waited for a transform that was taken out of the program is delivered as it came."""
        if not log.intake or log.spec.transformed or log.spec.partitioned:
            return
        bodies = [body for block in log.intake for body in block.bodies]
        self._consume(log, log.intake[-1].last)
        self._place(log, "", bodies)
        self._ledger.count(log)
        self._flush_behind(log)
        self._ledger.tell(log)

    def catalogue(self, stream: str) -> StreamCatalogue:
        """What the stream delivered."""
        return StreamCatalogue(self._ledger, self._ledger.stream(stream))

    def __contains__(self, stream: str) -> bool:
        return stream in self._ledger.streams

    def stats(self) -> list[StreamStats]:
        """The counts of every stream."""
        now = self._ledger.clock.now()
        return [stream.stats(now) for stream in self._ledger.streams.values()]

    # Accepting

    async def append(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        """Accept records; on a durable stream they are on disk when this returns."""
        log = self._ledger.stream(stream)
        if batch:
            if log.full is not None:
                log.counters.throttled += len(batch)
                self._ledger.count(log)
            await self._until_room(log)
        results = self._accept(log, batch)
        if log.durable:
            await self._ledger.committed()
        return results

    def append_in_group(self, stream: str, batch: Sequence[Outgoing]) -> Sequence[Position | Refused]:
        """Accept records into the group that gathers now; the caller waits for its commit, and waited for `room`."""
        return self._accept(self._ledger.stream(stream), batch)

    async def room(self, stream: str) -> None:
        """Return when the stream is below its bound, and its backup too."""
        await self._until_room(self._ledger.stream(stream))

    def lane(self, stream: str) -> Lane | None:
        """The way in that does not wait."""
        log = self._ledger.stream(stream)
        if log.lane is None:
            log.lane = OpenLane(log, self._ledger.clock, self._ledger.check, self._accept_now, self._spread_now)
        return log.lane

    def check(self, stream: str, message: Outgoing) -> Refused | None:
        """Why the stream cannot take this record, before anything is done."""
        return refusal(self._ledger.stream(stream), message)

    def _accept_now(self, log: Channel, bodies: list[bytes], partition: str | None, size: int) -> None:
        self._back_up(log, bodies)
        records, held = len(bodies), log.held
        first = log.counters.accepted + 1
        log.counters.accepted += records
        if log.spec.transformed or (log.spec.partitioned and partition is None):
            self._take_in(log, bodies, first)
        else:
            self._place(log, partition or "", bodies, size)
        log.weigh(held, records)
        if log.durable:
            self._ledger.count(log)
            self._ledger.owner.written_behind()

    def _spread_now(self, log: Channel, bodies: Sequence[bytes], partitions: Sequence[str]) -> None:
        self._back_up(log, bodies)
        log.counters.accepted += len(bodies)
        held = log.held
        if log.durable:
            self._place_each(log, bodies, partitions)
            log.weigh(held, len(bodies))
            self._ledger.count(log)
            self._ledger.owner.written_behind()
            return
        buffers = log.buffers
        open_before, closed_before = len(buffers.open), len(buffers.closed)
        buffers.spread(partitions, bodies, self._ledger.clock.now())
        log.weigh(held, len(bodies))
        log.counters.placed = buffers.placed
        if len(buffers.open) != open_before or len(buffers.closed) != closed_before:
            log.signal.fire()

    def _place_each(self, log: Channel, bodies: Sequence[bytes], partitions: Sequence[str]) -> None:
        placed: dict[str, list[bytes]] = {}
        for partition, body in zip(partitions, bodies, strict=True):
            placed.setdefault(partition, []).append(body)
        for partition, together in placed.items():
            self._place(log, partition, together)

    def _back_up(self, log: Channel, bodies: Sequence[bytes]) -> None:
        """The records as they came also go into the backup, in the same group (Firehose: S31)."""
        for backup in log.places[1:]:
            backup.absorb()
            held = backup.held
            first = backup.counters.accepted + 1
            backup.counters.accepted += len(bodies)
            if backup.spec.partitioned:
                self._take_in(backup, list(bodies), first)
            else:
                self._place(backup, "", list(bodies))
            backup.weigh(held, len(bodies))
            self._ledger.count(backup)

    def _accept(self, log: Channel, batch: Sequence[Outgoing]) -> list[Position | Refused]:
        log.absorb()
        held = log.held
        results: list[Position | Refused] = []
        intake: list[bytes] = []
        placed: dict[str, list[bytes]] = {}
        accepted = log.counters.accepted
        two_stages = log.spec.transformed
        partitioned = log.spec.partitioned
        for message in batch:
            refused = refusal(log, message)
            if refused is not None:
                results.append(refused)
                continue
            accepted += 1
            results.append(Position(accepted))
            if two_stages or (partitioned and message.partition is None):
                intake.append(message.body)
            else:
                placed.setdefault(message.partition or "", []).append(message.body)
        if len(log.places) > 1:
            self._back_up(log, [each.body for each, said in zip(batch, results, strict=True) if type(said) is Position])
        first = log.counters.accepted + 1
        log.counters.accepted = accepted
        if intake:
            self._take_in(log, intake, first)
        for partition, bodies in placed.items():
            self._place(log, partition, bodies)
        if intake or placed:
            log.weigh(held, accepted - first + 1)
            self._ledger.count(log)
        return results

    def _take_in(self, log: Channel, bodies: list[bytes], first: int) -> None:
        at = log.buffers.moment(self._ledger.clock.now())
        era = self._ledger.totals().era if log.durable else 0
        tail = log.intake[-1] if log.intake else None
        if tail is not None and log.growing and tail.era == era and tail.at == at and tail.last + 1 == first:
            tail.bodies += bodies
            tail.last += len(bodies)
        else:
            tail = Block(first, at, era, bodies)
            log.intake.append(tail)
            log.growing = log.durable
            if log.durable:
                self._ledger.owner.gathering.streams.append(Appended(log.spec.name, INTAKE, "", tail))
        size = measured(bodies, log.buffers.separator)
        log.intake_size += size
        if log.durable:
            self._ledger.owner.gathering.size += size
        log.signal.fire()

    def _place(self, log: Channel, partition: str, bodies: list[bytes], size: int | None = None) -> None:
        log.absorb()
        if size is None:
            size = measured(bodies, log.buffers.separator)
        buffers = log.buffers
        open_before, closed_before = len(buffers.open), len(buffers.closed)
        if not log.durable:
            begun = buffers.append(partition, bodies, self._ledger.clock.now(), 0, size)
        else:
            begun = buffers.append(partition, bodies, self._ledger.clock.now(), self._ledger.totals().era, size)
            group = self._ledger.owner.gathering
            name = log.spec.name
            group.streams += [Appended(name, chunk.id, chunk.partition, block) for chunk, block in begun]
            group.size += size
        log.counters.placed = buffers.placed
        if len(buffers.open) != open_before or len(buffers.closed) != closed_before:
            log.signal.fire()

    # Deriving

    async def intake(self, stream: str, after: Position, limit: int) -> Sequence[Records]:
        """Whole blocks that wait for `derive`; none while the buffers behind it are at their bound."""
        log = self._ledger.stream(stream)
        log.absorb()
        if log.buffered - log.intake_size >= log.spec.max_buffered:
            return []
        log.growing = False  # what was handed out does not grow any more
        if log.durable and log.spec.transformed and log.intake and log.intake[0].era == RECOVERED:
            return [await self._warily(log, limit)]
        blocks: list[Records] = []
        for block in log.intake:
            if block.first <= after.sequence:
                continue
            if limit <= 0:
                break
            blocks.append(Records(block.first, block.at, block.bodies))
            limit -= len(block.bodies)
        return blocks

    async def _warily(self, log: Channel, limit: int) -> Records:
        """Intake that a dead process left: ever less at a time while processes die of it, in the end one alone.

        That they are tried is on disk before they are. A record that was alone at two deaths is suspect.
        """
        block, counters = log.intake[0], log.counters
        if block.first > counters.suspected_upto:
            counters.suspected_upto, counters.deaths = min(block.last, block.first + limit - 1), 0
            log.wary = False
        if not log.wary:
            log.wary = True
            counters.deaths += 1
            self._ledger.count(log)
            await self._ledger.committed()
        size = max(1, limit // 10 ** (counters.deaths - 1))
        suspect = size == 1 and limit // 10 ** (counters.deaths - 3) <= 1
        if suspect:
            counters.deaths -= 2  # committed with the record's end: the ones behind it get their own two tries
        return Records(block.first, block.at, block.bodies[:size], suspect)

    def waiting(self, stream: str) -> Waiting | None:
        """What the intake holds, left as it is; None: nothing."""
        log = self._ledger.stream(stream)
        if not log.intake:
            return None
        oldest = log.intake[0]
        return Waiting(
            records=log.intake[-1].last - oldest.first + 1,
            size=log.intake_size,
            since=oldest.at,
            hurried=log.demanded is not None or oldest.era == RECOVERED or log.stuck,
        )

    async def derive(self, stream: str, upto: Position, batch: Sequence[Outgoing], dropped: int = 0) -> None:
        """Intake out, what came of it into the partition buffers: one commit."""
        log = self._ledger.stream(stream)
        placed: dict[str, list[bytes]] = {}
        for message in batch:
            partition = message.partition or ""
            if partition not in log.buffers.open:
                log.layout.check(partition)
            placed.setdefault(partition, []).append(message.body)
        # From here on nothing raises: both halves are in the group, or neither is.
        consumed = self._consume(log, upto.sequence)
        for partition, bodies in placed.items():
            self._place(log, partition, bodies)
        log.counters.dropped += dropped
        log.counters.added += len(batch) + dropped - consumed
        self._ledger.count(log)
        self._flush_behind(log)
        self._ledger.tell(log)
        if log.durable:
            await self._ledger.committed()
        log.fire_room()

    def _consume(self, log: Channel, upto: int) -> int:
        consumed = 0
        while log.intake and log.intake[0].first <= upto:
            block = log.intake.popleft()
            taken = min(upto, block.last) - block.first + 1
            consumed += taken
            log.intake_size -= measured(block.bodies[:taken], log.buffers.separator)
            if log.durable:
                self._ledger.changes().append(Consumed(log.spec.name, block.last))
            if taken < len(block.bodies):
                rest = Block(upto + 1, block.at, block.era, block.bodies[taken:])
                log.intake.appendleft(rest)
                log.growing = False
                if log.durable:
                    self._ledger.changes().append(Appended(log.spec.name, INTAKE, "", rest))
        return consumed

    # Waiting

    async def _until_room(self, log: Channel) -> None:
        while (full := log.full) is not None:
            full.make_room()
            signal = Signal()
            full.rooms.append(signal)
            try:
                await self._ledger.clock.wait(signal)
            finally:
                full.rooms.remove(signal)
            self._ledger.check()
            self._gone(log.spec.name)

    def _flush_behind(self, log: Channel) -> None:
        """A flush that was asked for while records lay in the intake reaches them once they left it."""
        if log.demanded is not None and not (log.intake and log.intake[0].first <= log.demanded[0]):
            log.buffers.demand(log.demanded[1])
            log.demanded = None
            log.signal.fire()

    # Opening

    def _restore(self, stream: Channel) -> None:
        """Take what the journal remembers of the stream."""
        name = stream.spec.name
        counters = self._recovered.counters.pop(name, None)
        if counters is not None:
            stream.counters = counters
            stream.buffers.placed = counters.placed
        mine = [chunk for chunk in self._recovered.chunks if chunk.stream == name]
        self._recovered.chunks = [chunk for chunk in self._recovered.chunks if chunk.stream != name]
        for chunk in mine:
            self._restore_chunk(stream, chunk)
        stream.signal.fire()

    def _restore_chunk(self, stream: Channel, chunk: RecoveredChunk) -> None:
        if chunk.id == INTAKE:
            stream.intake.extend(chunk.blocks)
            stream.intake_size += measure(chunk.blocks, stream.buffers.separator)
        elif chunk.segment is None:
            if chunk.blocks:
                stream.buffers.restore(chunk.id, chunk.partition, chunk.blocks)
        else:
            sealed = SealedChunk(chunk.segment, chunk.blocks, handed=False, damaged=chunk.damaged)
            sealed.trouble = chunk.trouble or sealed.trouble
            if chunk.damaged:
                sealed.trouble = Trouble(
                    code="Store.Damaged",
                    reason="records of it are damaged; `pipeflow doctor` names them",
                    parked_at=self._ledger.clock.now(),
                )
                logger.error(
                    "stream %s: records of the sealed object %s are damaged; it is not written again. "
                    "`pipeflow doctor` names them",
                    stream.spec.name,
                    chunk.segment.name,
                )
            (stream.sealed if sealed.trouble.parked_at is None else stream.parked)[chunk.id] = sealed
            stream.sealed_size += chunk.segment.size
