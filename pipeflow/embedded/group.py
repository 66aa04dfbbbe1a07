"""The open group: every change since the last commit began, and the callers who wait for it.

Groups form while the previous one commits; there is no timer. A message that is sent and acknowledged inside one group
never reaches the disk. What must outlive the pair does: deduplication ids, sequence numbers, counters, source positions
and records are kept beside the rows.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from pipeflow.audit import Entry
from pipeflow.clock import Signal
from pipeflow.embedded.auditing import subject_of
from pipeflow.embedded.journal import (
    DELAYED_BIT,
    PLACE_BITS,
    PLACE_MASK,
    Declared,
    FrozenGroup,
    Known,
    Row,
    TopicCounters,
)
from pipeflow.messages import Claim
from pipeflow.state.stored import DELAYED, IN_FLIGHT, Stored

if TYPE_CHECKING:
    from pipeflow.embedded.head import Head

_encode = msgspec.msgpack.Encoder().encode


class Gathering:
    """What is being gathered for the next commit. Taking it (`freeze`) leaves an empty one behind."""

    __slots__ = (
        "heads",
        "topics",
        "deletes",
        "claims",
        "freed",
        "releases",
        "known",
        "sources",
        "streams",
        "declared",
        "damaged",
        "rewritten",
        "audit",
        "sync",
        "size",
        "waiters",
        "owners",
        "number",
        "written",
    )

    def __init__(self) -> None:
        self.number = 1
        """Of this group, from 1."""
        self.written = 0
        """The last one that is on disk."""
        self.owners: dict[int, Head] = {}
        """Every queue by number: a row is counted by the queue whose number is in its key."""
        self.freed = Signal()
        """Fired when a reference to a body that is kept aside goes."""
        self._start_anew()

    def _start_anew(self) -> None:
        self.claims: dict[int, Claim] = {}
        """Bodies that were written aside: they go unless a row holds them when this group is committed."""
        self.heads: list[Head] = []
        """Queues that something happened to; each knows which of its messages."""
        self.topics: dict[int, TopicCounters] = {}
        self.deletes: list[int] = []
        self.releases: dict[int, int] = {}
        self.known: list[Known] = []
        self.sources: dict[str, bytes | None] = {}
        """Positions by name; None: there is none any more."""
        self.streams: list[Any] = []
        """Changes of the record log, in order; `embedded.log` makes them, its journal half understands them."""
        self.declared: list[Declared] = []
        self.damaged: list[int] = []
        """Rows whose checksum did not hold, to be set aside."""
        self.rewritten: dict[int, bytes | Claim] = {}
        """By row: the body that an operator gave it, or where that is kept aside."""
        self.audit: dict[int, Entry] = {}
        """By number, each as it is now."""
        self.sync = False
        self.size = 0
        """Bytes of bodies gathered: callers wait when it is past the group's bound."""
        self.waiters: list[asyncio.Future[None]] = []

    @property
    def empty(self) -> bool:
        """Nobody waits and nothing changed."""
        return not (
            self.waiters
            or self.heads
            or self.topics
            or self.deletes
            or self.streams
            or self.sources
            or self.known
            or self.declared
            or self.claims
            or self.damaged
            or self.audit
        )

    def uncount(self, row: int) -> None:
        """A row leaves the disk or its key; a purge has uncounted all up to its place at once."""
        owner = self.owners.get(row >> PLACE_BITS)
        if owner is None:
            return  # a deleted queue, of which nothing is left
        counters = owner.counters
        if row & PLACE_MASK > counters.purged_upto:
            if row & DELAYED_BIT:
                counters.delayed_rows -= 1
            else:
                counters.rows -= 1
            if not owner.touched:
                owner.touch()

    def freeze(self, clock: float) -> tuple[FrozenGroup, list[asyncio.Future[None]]]:
        """Encode everything as it is now and start anew."""
        frozen = FrozenGroup(
            inserts=[],
            updates=[],
            deletes=self.deletes,
            bodies={},
            claims={},
            releases=self.releases,
            queues=[],
            topics=[(number, _encode(counters)) for number, counters in self.topics.items()],
            known=self.known,
            sources=self.sources,
            streams=self.streams,
            declared=self.declared,
            damaged=self.damaged,
            rewritten={},
            audit=[(n, entry.at, subject_of(entry), _encode(entry)) for n, entry in self.audit.items()],
            clock=clock,
            sync=self.sync,
        )
        for head in self.heads:
            if head.dirty:
                self._freeze_rows(head, frozen, clock)
                head.dirty = {}
        for head in self.heads:
            frozen.queues.append((head.number, _encode(head.counters)))
            head.touched = False
        for row, body in self.rewritten.items():
            if isinstance(body, Claim):
                frozen.claims[body.number] = body, frozen.claims.get(body.number, (body, 0))[1] + 1
            frozen.rewritten[row] = body.number if isinstance(body, Claim) else body
        for number, claim in self.claims.items():
            if number not in frozen.claims:
                frozen.claims[number] = claim, 0
                frozen.releases.setdefault(number, 0)
        waiters = self.waiters
        # The same object goes on: heads hold it.
        self.number += 1
        self._start_anew()
        return frozen, waiters

    def _freeze_rows(self, head: Head, frozen: FrozenGroup, now: float) -> None:
        base = head.number << PLACE_BITS
        fifo = head.spec.fifo
        told_apart = fifo or head.state.fair is not None
        counters = head.counters
        inserts = frozen.inserts
        # All that earlier groups wrote is older than what is new in this one.
        line = 0.0
        for message in head.dirty.values():
            delayed = message.state == DELAYED
            key = base | message.place
            if delayed and not fifo:
                key |= DELAYED_BIT
            due = message.until if delayed else None
            expires = message.expires_at if message.expires_at != inf else None
            held = message.until if message.durable and message.state == IN_FLIGHT else None
            if message.row:
                row = encode_row(message, crc_of(message))
                group = head.tenant_of(message)
                # One under another key is out of line; a FIFO queue's new delay may have moved its retention, and a
                # retry of a standard queue is to be found as one.
                moved = key != message.row or (delayed and fifo is not (message.receives > 0))
                kept = message.kept_from if moved else None
                frozen.updates.append((key, due, held, row, row_crc(key, row), message.row, group, expires, kept))
                self.uncount(message.row)
            else:
                body = message.body
                claim = message.claim
                if claim is not None:
                    body_crc = claim.crc
                else:
                    assert body is not None
                    body_crc = crc32(body)
                message.body_crc = body_crc
                row = encode_row(message, body_crc)
                group = head.tenant_of(message) if told_apart or delayed else None
                kept = message.kept_from
                if not key & DELAYED_BIT and line <= kept <= now:
                    line, kept = kept, None
                if claim is not None:
                    frozen.claims[claim.number] = claim, frozen.claims.get(claim.number, (claim, 0))[1] + 1
                    inserts += (key, due, group, held, expires, kept, row, row_crc(key, row), None, claim.number)
                elif message.shared:
                    assert body is not None
                    held_by = frozen.bodies.get(message.shared)
                    frozen.bodies[message.shared] = (body, held_by[1] + 1 if held_by is not None else 1)
                    inserts += (key, due, group, held, expires, kept, row, row_crc(key, row), None, message.shared)
                else:
                    inserts += (key, due, group, held, expires, kept, row, row_crc(key, row), body, None)
            if key & DELAYED_BIT:
                counters.delayed_rows += 1
            else:
                counters.rows += 1
            message.row = key


def encode_row(message: Stored, body_crc: int) -> bytes:
    """Everything of a message that is not its body, as bytes for the disk."""
    return _encode(
        Row(
            message.id,
            message.sent_at,
            message.kept_from,
            message.size,
            message.state,
            message.until,
            message.attributes,
            message.headers,
            message.group,
            message.dedup_id,
            message.receives,
            message.releases,
            message.first_received_at,
            message.received_at,
            message.boot,
            message.held_by,
            message.durable,
            message.stops,
            message.failures,
            message.source,
            message.envelope,
            body_crc,
            message.expires_at if message.expires_at != inf else None,
            message.key,
            message.tried,
        )
    )


def crc_of(message: Stored) -> int:
    """The checksum of a body, taken once."""
    if message.body_crc is None:
        assert message.body is not None
        message.body_crc = crc32(message.body)
    return message.body_crc


def row_crc(key: int, row: bytes) -> int:
    """The checksum of a row: over its key and everything it holds; the body's own checksum is part of the row."""
    return crc32(row, key & 0xFFFFFFFF)
