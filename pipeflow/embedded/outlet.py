"""From full buffers to objects: sealing, reading, committing; and who waits until it is done.

What decides a segment's objects is on disk before one of them is written; the records are forgotten in the commit that
remembers the objects. So a crash anywhere leads to the same objects again (P17).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from math import inf

from msgspec.structs import replace

from pipeflow.clock import Signal
from pipeflow.embedded.channel import NO_TROUBLE, Channel, Flush, SealedChunk
from pipeflow.embedded.ledger import Ledger
from pipeflow.embedded.records import Committed, Sealed, Troubled
from pipeflow.errors import ConfigurationError, NotFound
from pipeflow.messages import Manifest, Records, Segment, Trouble
from pipeflow.sinks.manifest import manifest_name
from pipeflow.sinks.objects import ERRORS, is_errors
from pipeflow.sinks.prefixes import UNCONVERTED
from pipeflow.specs import COLUMNAR
from pipeflow.state.buffer import Chunk


class Outlet:
    """The half of `RecordLog` that delivers."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def ripens(self, stream: str) -> tuple[Signal, float]:
        """(fires when there may be something to do; when the next buffer is old enough)."""
        log = self._ledger.stream(stream)
        log.absorb()
        waiting = log.buffers.closed or any(not sealed.handed for sealed in log.sealed.values())
        return log.signal, -inf if waiting else log.buffers.due

    async def seal(self, stream: str) -> Segment | None:
        """The next segment to deliver; what decides its objects is on disk before this returns."""
        log = self._ledger.stream(stream)
        for sealed in log.sealed.values():
            if not sealed.handed:
                sealed.handed = True
                await self._name_manifest(log, sealed)
                return sealed.segment
        log.absorb()
        log.buffers.ripen(self._ledger.clock.now())
        chunk = log.buffers.next()
        if chunk is None:
            return None
        sealed = SealedChunk(self._segment(log, chunk), chunk.blocks)
        log.sealed[chunk.id] = sealed
        log.sealed_size += chunk.size
        await self._freeze(log, sealed)
        return sealed.segment

    async def _freeze(self, log: Channel, sealed: SealedChunk) -> None:
        if not log.durable:
            return
        self._ledger.changes().append(Sealed(sealed.segment))
        # Names must not be forgotten once objects carry them, at any durability.
        self._ledger.owner.gathering.sync = True
        try:
            await self._ledger.committed()
        except BaseException:
            sealed.handed = False
            raise

    async def _name_manifest(self, log: Channel, sealed: SealedChunk) -> None:
        """What was sealed before the stream had manifests gets one too, or readers of them would never see it."""
        if log.spec.manifest and not sealed.segment.manifest_name:
            sealed.segment = replace(sealed.segment, manifest_name=self._manifest_name(log, sealed.segment))
            await self._freeze(log, sealed)

    async def read(self, segment: Segment) -> AsyncIterator[Records]:
        """The segment's records in order of acceptance."""
        sealed = self._ledger.stream(segment.stream).sealed.get(segment.id)
        if sealed is None:
            raise NotFound(f"{segment.stream}: segment {segment.name} is delivered, or was never sealed here")
        for block in sealed.blocks:
            yield Records(block.first, block.at, block.bodies)

    async def commit(self, segment: Segment, manifest: Manifest) -> None:
        """Records out, manifest in: one commit. A second time changes nothing."""
        log = self._ledger.stream(segment.stream)
        sealed = log.sealed.pop(segment.id, None)
        if sealed is not None:
            log.sealed_size -= segment.size
            counters = log.counters
            counters.expired += manifest.expired
            if is_errors(segment.partition):
                counters.failed += segment.records - manifest.expired
            else:
                counters.delivered += segment.records - manifest.failed - manifest.expired
                counters.failed += manifest.failed
                if segment.records > manifest.failed + manifest.expired:
                    counters.delivered_bytes += segment.size
            if segment.records > manifest.expired:
                counters.deliveries += 1
                counters.delivered_at = self._ledger.clock.now()
            counters.objects += len(manifest.objects)
            counters.object_bytes += sum(facts.size for facts in manifest.objects)
            committed = Committed(segment, manifest, self._ledger.clock.now())
            if log.durable:
                self._ledger.changes().append(committed)
            else:
                self._ledger.volatile.write(committed)
            self._ledger.count(log)
        if log.durable:
            await self._ledger.committed()
        log.fire_room()
        self._ledger.tell(log)
        log.signal.fire()

    def hand_back(self, segment: Segment) -> None:
        """Undelivered: handed out again."""
        log = self._ledger.stream(segment.stream)
        sealed = log.sealed.get(segment.id)
        if sealed is not None:
            sealed.handed = False
            log.signal.fire()

    def trouble(self, segment: Segment) -> Trouble:
        """What earlier attempts to deliver it met, in this process or before."""
        sealed = self._ledger.stream(segment.stream).sealed.get(segment.id)
        return NO_TROUBLE if sealed is None else sealed.trouble

    async def note(self, segment: Segment, trouble: Trouble) -> None:
        """Remember what became of an attempt; a segment with `parked_at` leaves the way of the others."""
        log = self._ledger.stream(segment.stream)
        sealed = log.sealed.get(segment.id)
        if sealed is None:
            return
        log.counters.delivery_failures += max(0, trouble.attempts - sealed.trouble.attempts)
        self._ledger.count(log)
        sealed.trouble = trouble
        if trouble.parked_at is not None:
            log.parked[segment.id] = log.sealed.pop(segment.id)
        if log.durable:
            self._ledger.changes().append(Troubled(segment.stream, segment.id, trouble))
            await self._ledger.committed()
        self._ledger.tell(log)
        log.signal.fire()

    def demand(self, stream: str, reason: str = "demand") -> None:
        """Every open buffer is ripe now, and what the intake holds will be as soon as it is derived."""
        log = self._ledger.stream(stream)
        log.absorb()
        log.buffers.demand(reason)
        if log.intake:
            log.demanded = (log.counters.accepted, reason)
        log.signal.fire()

    def delivering(self, stream: str, running: bool) -> None:
        """A delivery of the stream began in this process, or ended."""
        log = self._ledger.stream(stream)
        log.deliveries += 1 if running else -1
        for waiter in log.waiters:
            waiter.signal.fire()

    async def flush(self, stream: str) -> None:
        """Deliver what is buffered now. ConfigurationError when nothing here delivers the stream, also in between."""
        self._check_delivered(self._ledger.stream(stream))
        self.demand(stream)
        await self.delivered(stream, check=self._check_delivered)

    def _check_delivered(self, log: Channel) -> None:
        if not log.deliveries and not log.empty:
            raise ConfigurationError(
                f"stream {log.spec.name}: nothing delivers it in process {os.getpid()}, which owns the store; run the "
                "app that declares it, without --only or with it among them, and flush again. It delivers by itself too"
            )

    async def delivered(self, stream: str, check: Callable[[Channel], None] | None = None) -> None:
        """Return when everything accepted before the call lies in objects; ObjectRefused when some of it is parked."""
        log = self._ledger.stream(stream)
        log.absorb()
        waiter = Flush(log.counters.accepted, None if log.intake else log.buffers.placed)
        while not log.reached(waiter):
            if check is not None:
                check(log)
            log.waiters.append(waiter)
            try:
                await self._ledger.clock.wait(waiter.signal)
            finally:
                log.waiters.remove(waiter)
            self._ledger.check()
            self._ledger.stream(stream)

    def _segment(self, log: Channel, chunk: Chunk) -> Segment:
        spec = log.spec
        names = partial(
            log.layout.name,
            first=chunk.first,
            last=chunk.last,
            opened_at=chunk.opened_at,
            store_id=self._ledger.owner.store_id,
            boot=None if log.durable else self._ledger.owner.boot,
        )
        errors = is_errors(chunk.partition)
        inside = errors and spec.format in COLUMNAR  # where no object is compressed as a whole
        return Segment(
            id=chunk.id,
            stream=spec.name,
            partition=chunk.partition,
            first=chunk.first,
            last=chunk.last,
            records=chunk.records,
            size=chunk.size,
            opened_at=chunk.opened_at,
            sealed_at=self._ledger.clock.now(),
            reason=chunk.reason,
            name=names(chunk.partition),
            format="jsonl" if errors else spec.format,
            compression="none" if inside else spec.compression,
            delimiter=b"\n" if errors else spec.separator,
            columns=() if errors else spec.columns,
            errors_name=names(ERRORS, error_type=UNCONVERTED) if spec.columns and not errors else "",
            compression_level=None if inside else spec.compression_level,
            manifest_name=self._manifest_name(log, chunk) if spec.manifest else "",
        )

    def _manifest_name(self, log: Channel, chunk: Chunk | Segment) -> str:
        owner = self._ledger.owner
        return manifest_name(
            log.spec.name,
            first=chunk.first,
            last=chunk.last,
            id=chunk.id,
            store_id=owner.store_id,
            boot=None if log.durable else owner.boot,
        )
