"""What a stream could not deliver and an operator looks after: listed, tried anew, or discarded for good.

A parked segment is in nobody's way but counts against its stream's bound. Each change here is one commit, and nothing
leaves without being counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from pipeflow.embedded.channel import Channel, SealedChunk
from pipeflow.embedded.ledger import Ledger
from pipeflow.embedded.records import Committed, Troubled
from pipeflow.errors import NotFound, RefusedError
from pipeflow.messages import Manifest
from pipeflow.protocols import Parked

logger = logging.getLogger("pipeflow")


class Parking:
    """The verbs of `Admin` for parked segments."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def parked(self, stream: str) -> list[Parked]:
        """Every parked segment, in the order of sealing."""
        log = self._ledger.stream(stream)
        return [_seen(chunk) for _, chunk in sorted(log.parked.items())]

    async def retry(self, stream: str, ids: Sequence[int] | None) -> int:
        """Hand these out again, all of them for None, with all of `retry_seconds` before them; how many.

        NotFound: one is not parked. RefusedError: one is damaged. Nothing is done then.
        """
        log = self._ledger.stream(stream)
        every = [chunk for chunk in log.parked.values() if not chunk.damaged]
        chosen = every if ids is None else _chosen(log, ids)
        for chunk in chosen:
            if chunk.damaged:
                raise RefusedError(
                    "Damaged", f"stream {stream}: {chunk.segment.id} cannot be delivered: {chunk.trouble.reason}"
                )
        for chunk in sorted(chosen, key=lambda chunk: chunk.segment.id):
            chunk.trouble = replace(chunk.trouble, parked_at=None, waited=0.0)
            chunk.handed = False
            log.sealed[chunk.segment.id] = log.parked.pop(chunk.segment.id)
            if log.durable:
                self._ledger.changes().append(Troubled(stream, chunk.segment.id, chunk.trouble))
        if chosen:
            self._ledger.trail.begin("retry parked", stream, selection=_selection(ids, chosen), count=len(chosen))
        await self._ledger.committed()
        log.signal.fire()
        return len(chosen)

    async def discard(self, stream: str, ids: Sequence[int]) -> int:
        """Delete the records of these for good; how many records. NotFound: one is not parked, nothing is done."""
        log = self._ledger.stream(stream)
        chosen = _chosen(log, ids)
        records = sum(chunk.segment.records for chunk in chosen)
        log.counters.discarded += records
        self._forget(log, chosen)
        note = f"{records} records"
        self._ledger.trail.begin(
            "discard parked", stream, selection=_selection(ids, chosen), count=len(chosen), note=note
        )
        await self._ledger.committed()
        for chunk in chosen:
            logger.warning(
                "stream %s: %s with %d records was discarded by an operator; it was parked: %s",
                stream, chunk.segment.name, chunk.segment.records, chunk.trouble.reason,
            )  # fmt: skip
        return records

    async def expire(self, stream: str, max_age: float) -> float:
        """Drop what is parked and has no record younger than this; when the next one will be as old (inf: none)."""
        log = self._ledger.stream(stream)
        ends = [(chunk.blocks[-1].at + max_age, chunk) for chunk in log.parked.values() if chunk.blocks]
        now = self._ledger.clock.now()
        old = [chunk for end, chunk in ends if end <= now]
        if old:
            log.counters.expired += sum(chunk.segment.records for chunk in old)
            self._forget(log, old, expired=True)
            if log.durable:
                await self._ledger.committed()
            for chunk in old:
                logger.error(
                    "stream %s: %s with %d records is dropped: it was parked (%s) and is older than max_age=%s",
                    stream, chunk.segment.name, chunk.segment.records, chunk.trouble.reason, max_age,
                )  # fmt: skip
        return min((end for end, _ in ends if end > now), default=float("inf"))

    def _forget(self, log: Channel, chosen: Iterable[SealedChunk], expired: bool = False) -> None:
        for chunk in chosen:
            segment = chunk.segment
            del log.parked[segment.id]
            log.sealed_size -= segment.size
            if log.durable:
                manifest = Manifest([], expired=segment.records if expired else 0)
                self._ledger.changes().append(Committed(segment, manifest, self._ledger.clock.now()))
        self._ledger.count(log)
        log.fire_room()
        self._ledger.tell(log)
        log.signal.fire()


def _chosen(log: Channel, ids: Sequence[int]) -> list[SealedChunk]:
    missing = [id for id in dict.fromkeys(ids) if id not in log.parked]
    if missing:
        parked = ", ".join(map(str, sorted(log.parked))) or "none"
        raise NotFound(
            f"stream {log.spec.name}: {', '.join(map(str, missing))} is not parked; parked are: {parked}. "
            "Nothing was done"
        )
    return [log.parked[id] for id in dict.fromkeys(ids)]


def _selection(ids: Sequence[int] | None, chosen: Sequence[SealedChunk]) -> str:
    return "all" if ids is None else f"segments {', '.join(str(chunk.segment.id) for chunk in chosen)}"


def _seen(chunk: SealedChunk) -> Parked:
    segment, trouble = chunk.segment, chunk.trouble
    return Parked(
        id=segment.id,
        stream=segment.stream,
        partition=segment.partition,
        name=segment.name,
        records=segment.records,
        size=segment.size,
        opened_at=segment.opened_at,
        parked_at=trouble.parked_at or 0.0,
        attempts=trouble.attempts,
        code=trouble.code,
        reason=trouble.reason,
    )
