"""The record log's own tables: records as blobs of many, sealed segments, manifests, counters.

A blob holds everything it is about and its checksum lies beside it; one that does not read back is set aside, never
dropped in silence. All of it is written in the transaction of the group it came with.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from sqlite3 import Connection

import msgspec
from msgspec import Struct

from pipeflow.checksum import crc32
from pipeflow.embedded.records import (
    INTAKE,
    RECOVERED,
    Abandoned,
    Appended,
    Committed,
    Compacted,
    Compacting,
    Consumed,
    Deleted,
    Forgotten,
    RecordCounters,
    RecoveredChunk,
    RecoveredStreams,
    Sealed,
    Totals,
    Troubled,
    replays_of,
)
from pipeflow.embedded.sqlite import catalogue
from pipeflow.messages import Segment, Trouble
from pipeflow.state.buffer import Block

logger = logging.getLogger("pipeflow")

TROUBLE_TABLE = """
    CREATE TABLE record_trouble (
        stream TEXT NOT NULL,
        id INTEGER NOT NULL,
        blob BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (stream, id)
    ) WITHOUT ROWID
"""

TABLES = (
    """
    CREATE TABLE record_block (
        stream TEXT NOT NULL,
        chunk INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        blob BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (stream, chunk, first)
    )
    """,
    """
    CREATE TABLE record_segment (
        stream TEXT NOT NULL,
        id INTEGER NOT NULL,
        blob BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (stream, id)
    )
    """,
    """
    CREATE TABLE record_counters (
        stream TEXT PRIMARY KEY,
        last_id INTEGER NOT NULL,
        blob BLOB NOT NULL,
        crc INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE record_quarantine (
        stream TEXT NOT NULL,
        chunk INTEGER NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        blob BLOB,
        crc INTEGER
    )
    """,
    *catalogue.TABLES,
    TROUBLE_TABLE,
)

INSERT_BLOCK = """
    INSERT OR REPLACE INTO record_block (stream, chunk, first, last, blob, crc)
    VALUES (?, ?, ?, ?, ?, ?)
"""
DELETE_INTAKE = """
    DELETE FROM record_block
    WHERE stream = ? AND chunk = 0 AND first <= ?
"""
DELETE_CHUNK = """
    DELETE FROM record_block
    WHERE stream = ? AND chunk = ?
"""
INSERT_SEGMENT = """
    INSERT OR REPLACE INTO record_segment (stream, id, blob, crc)
    VALUES (?, ?, ?, ?)
"""
DELETE_SEGMENT = """
    DELETE FROM record_segment
    WHERE stream = ? AND id = ?
"""
PUT_TROUBLE = """
    INSERT OR REPLACE INTO record_trouble (stream, id, blob, crc)
    VALUES (?, ?, ?, ?)
"""
DELETE_TROUBLE = """
    DELETE FROM record_trouble
    WHERE stream = ? AND id = ?
"""
SELECT_TROUBLES = """
    SELECT stream, id, blob, crc
    FROM record_trouble
    ORDER BY stream, id
"""
PUT_COUNTERS = """
    INSERT OR REPLACE INTO record_counters (stream, last_id, blob, crc)
    VALUES (?, ?, ?, ?)
"""
SELECT_BLOCKS = """
    SELECT rowid, stream, chunk, first, last, blob, crc
    FROM record_block
    ORDER BY stream, chunk, first
"""
SELECT_SEGMENTS = """
    SELECT stream, id, blob, crc
    FROM record_segment
    ORDER BY stream, id
"""
SELECT_COUNTERS = """
    SELECT stream, last_id, blob, crc
    FROM record_counters
"""
QUARANTINE_BLOCK = """
    INSERT INTO record_quarantine (stream, chunk, first, last, blob, crc)
    SELECT stream, chunk, first, last, blob, crc
    FROM record_block
    WHERE rowid = ?
"""
QUARANTINE_SEGMENT = """
    INSERT INTO record_quarantine (stream, chunk, first, last, blob, crc)
    VALUES (?, ?, 0, 0, ?, ?)
"""
QUARANTINE_CHUNK = """
    INSERT INTO record_quarantine (stream, chunk, first, last, blob, crc)
    SELECT stream, chunk, first, last, blob, crc
    FROM record_block
    WHERE stream = ? AND chunk = ?
"""
DELETE_RECORDS_OF_STREAM = """
    DELETE FROM record_block
    WHERE stream = ?
"""
DELETE_SEGMENTS_OF_STREAM = """
    DELETE FROM record_segment
    WHERE stream = ?
"""
DELETE_TROUBLES_OF_STREAM = """
    DELETE FROM record_trouble
    WHERE stream = ?
"""
DELETE_COUNTERS_OF_STREAM = """
    DELETE FROM record_counters
    WHERE stream = ?
"""
DELETE_REPLAYS_OF_STREAM = """
    DELETE FROM sources
    WHERE name > ? AND name < ?
"""
DELETE_BLOCK = """
    DELETE FROM record_block
    WHERE rowid = ?
"""


class _Stored(Struct, array_like=True):
    """A block as it lies on disk: with everything that says where it belongs."""

    stream: str
    chunk: int
    partition: str
    first: int
    last: int
    at: float
    bodies: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_encode_into = msgspec.msgpack.Encoder().encode_into
_decode_block = msgspec.msgpack.Decoder(_Stored).decode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_trouble = msgspec.msgpack.Decoder(Trouble).decode
_decode_counters = msgspec.msgpack.Decoder(RecordCounters).decode


def write(connection: Connection, changes: Sequence[object], scratch: bytearray) -> None:
    """Apply a group's changes in their order, in the caller's transaction.

    Blocks are encoded in `scratch`, which the caller keeps: megabytes of fresh memory for each, page by page, are a
    twentieth of what accepting records takes (benchmarks/durable_intake.py).
    """
    counts: list[Totals] = []
    for change in changes:
        match change:
            case Appended(stream, chunk, partition, block):
                stored = _Stored(stream, chunk, partition, block.first, block.last, block.at, block.bodies)
                _encode_into(stored, scratch)
                connection.execute(INSERT_BLOCK, (stream, chunk, block.first, block.last, scratch, crc32(scratch)))
            case Consumed(stream, upto):
                connection.execute(DELETE_INTAKE, (stream, upto))
            case Sealed(segment):
                blob = _encode(segment)
                connection.execute(INSERT_SEGMENT, (segment.stream, segment.id, blob, crc32(blob)))
            case Troubled(stream, id, trouble):
                blob = _encode(trouble)
                connection.execute(PUT_TROUBLE, (stream, id, blob, crc32(blob)))
            case Committed():
                _write_commit(connection, change)
            case Compacting() | Compacted() | Abandoned() | Forgotten():
                catalogue.write(connection, change)
            case Deleted(stream):
                _delete(connection, stream)
            case Totals():
                counts.append(change)
            case _:
                raise AssertionError(f"unknown change {change!r}")
    # Last: of a stream that is deleted in this group its numbers stay, and it may have been declared anew.
    for totals in counts:
        for stream, counters in totals.streams.items():
            blob = _encode(counters)
            connection.execute(PUT_COUNTERS, (stream, totals.last_id, blob, crc32(blob)))


def _write_commit(connection: Connection, change: Committed) -> None:
    segment = change.segment
    connection.execute(DELETE_CHUNK, (segment.stream, segment.id))
    connection.execute(DELETE_SEGMENT, (segment.stream, segment.id))
    catalogue.write(connection, change)
    connection.execute(DELETE_TROUBLE, (segment.stream, segment.id))


def _delete(connection: Connection, stream: str) -> None:
    for statement in (
        DELETE_RECORDS_OF_STREAM,
        DELETE_SEGMENTS_OF_STREAM,
        DELETE_TROUBLES_OF_STREAM,
        DELETE_COUNTERS_OF_STREAM,
        *catalogue.DELETE_ALL_OF_STREAM,
    ):
        connection.execute(statement, (stream,))
    connection.execute(DELETE_REPLAYS_OF_STREAM, replays_of(stream))


def recover(connection: Connection) -> RecoveredStreams:
    """Everything undelivered. Damaged blobs are moved to the quarantine, counted, and reported once."""
    counters: dict[str, RecordCounters] = {}
    last_id = 0
    for stream, id, blob, crc in connection.execute(SELECT_COUNTERS):
        last_id = max(last_id, id)
        if crc32(blob) == crc:
            counters[stream] = _decode_counters(blob)
        else:
            logger.error("stream %s: its counters are damaged and start anew; sequences go on", stream)
    chunks: dict[tuple[str, int], RecoveredChunk] = {}
    damaged: list[tuple[int, str, int, int]] = []
    for row, stream, chunk, first, last, blob, crc in connection.execute(SELECT_BLOCKS):
        last_id = max(last_id, chunk)
        counted = counters.setdefault(stream, RecordCounters())
        if chunk == INTAKE:
            counted.accepted = max(counted.accepted, last)
        else:
            counted.placed = max(counted.placed, last)
        if crc32(blob) != crc:
            damaged.append((row, stream, first, last))
            continue
        stored = _decode_block(blob)
        known = chunks.setdefault((stream, chunk), RecoveredChunk(stream, chunk, stored.partition, []))
        known.blocks.append(Block(stored.first, stored.at, RECOVERED, stored.bodies, stored.last))
    _take_segments(connection, chunks, counters)
    _take_troubles(connection, chunks)
    for row, stream, first, last in damaged:
        _set_aside(connection, counters[stream], row, stream, first, last)
    ordered = sorted(chunks.values(), key=lambda chunk: chunk.id)
    return RecoveredStreams(max([last_id, *(chunk.id for chunk in ordered)]), counters, ordered)


def _take_segments(
    connection: Connection, chunks: dict[tuple[str, int], RecoveredChunk], counters: dict[str, RecordCounters]
) -> None:
    for stream, id, blob, crc in connection.execute(SELECT_SEGMENTS).fetchall():
        if crc32(blob) == crc:
            segment = _decode_segment(blob)
            chunk = chunks.setdefault((stream, id), RecoveredChunk(stream, id, segment.partition, []))
            chunk.segment = segment
            # Also when the damaged ones were set aside at an earlier start: the object may exist, whole.
            chunk.damaged = _count(chunk) != segment.records
            counted = counters.setdefault(stream, RecordCounters())
            counted.placed = max(counted.placed, segment.last)
        else:
            # Its records may lie in an object already, under a name nobody knows: neither written again nor dropped.
            logger.error("stream %s: sealed segment %d is damaged; its records are set aside", stream, id)
            connection.execute(QUARANTINE_SEGMENT, (stream, id, blob, crc))
            connection.execute(DELETE_SEGMENT, (stream, id))
            lost = chunks.pop((stream, id), None)
            if lost is not None:
                counters[stream].quarantined += _count(lost)
            connection.execute(QUARANTINE_CHUNK, (stream, id))
            connection.execute(DELETE_CHUNK, (stream, id))


def _take_troubles(connection: Connection, chunks: dict[tuple[str, int], RecoveredChunk]) -> None:
    for stream, id, blob, crc in connection.execute(SELECT_TROUBLES).fetchall():
        chunk = chunks.get((stream, id))
        if chunk is None or chunk.segment is None:
            connection.execute(DELETE_TROUBLE, (stream, id))
        elif crc32(blob) == crc:
            chunk.trouble = _decode_trouble(blob)
        else:
            # Whether it was parked, or what of it the sink has, nobody knows: an operator decides.
            logger.error("stream %s: what %s met is damaged; it is parked", stream, chunk.segment.name)
            chunk.trouble = Trouble(
                reason="what earlier attempts met is damaged and unknown; records of it may be delivered already",
                code="Store.Damaged",
                parked_at=chunk.segment.sealed_at,
            )


def _set_aside(connection: Connection, counters: RecordCounters, row: int, stream: str, first: int, last: int) -> None:
    logger.error("stream %s: records %d to %d are damaged and set aside", stream, first, last)
    counters.quarantined += last - first + 1
    connection.execute(QUARANTINE_BLOCK, (row,))
    connection.execute(DELETE_BLOCK, (row,))


def _count(chunk: RecoveredChunk) -> int:
    return sum(len(block.bodies) for block in chunk.blocks)
