"""The catalogue on disk: a row for each delivered object, for each manifest in a sink, and for each merge under way.

Questions are answered from indexes, a page at a time. A file's range may overlap those of other partitions, so a
question by sequence begins as far before it as the widest file reaches, which an index knows.
"""

from __future__ import annotations

import logging
from math import inf
from sqlite3 import Connection

import msgspec

from pipeflow.checksum import crc32
from pipeflow.embedded.records import Abandoned, CatalogueChange, Committed, Compacted, Compacting, Forgotten
from pipeflow.files import Compaction, FileFacts, FileQuery, ManifestFacts
from pipeflow.sinks.manifest import facts_of

logger = logging.getLogger("pipeflow")

TABLES = (
    """
    CREATE TABLE record_manifest (
        stream TEXT NOT NULL,
        name TEXT NOT NULL,
        partition TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        records INTEGER NOT NULL,
        size INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        at REAL NOT NULL,
        kind TEXT NOT NULL DEFAULT 'rows',
        raw_size INTEGER NOT NULL DEFAULT 0,
        format TEXT NOT NULL DEFAULT '',
        compression TEXT NOT NULL DEFAULT '',
        shape INTEGER NOT NULL DEFAULT 0,
        opened_at REAL NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0,
        retired_at REAL,
        PRIMARY KEY (stream, name)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX record_manifest_place ON record_manifest (stream, first, name)",
    "CREATE INDEX record_manifest_partition ON record_manifest (stream, partition, first, name)",
    "CREATE INDEX record_manifest_time ON record_manifest (stream, at, first)",
    "CREATE INDEX record_manifest_span ON record_manifest (stream, last - first)",
    "CREATE INDEX record_manifest_retired ON record_manifest (stream, retired_at) WHERE retired_at IS NOT NULL",
    """
    CREATE TABLE record_listing (
        stream TEXT NOT NULL,
        id INTEGER NOT NULL,
        partition TEXT NOT NULL,
        name TEXT NOT NULL,
        replaced_at REAL,
        PRIMARY KEY (stream, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE record_compaction (
        stream TEXT NOT NULL,
        id INTEGER NOT NULL,
        blob BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (stream, id)
    )
    """,
)

NEW_IN_2 = (
    "ALTER TABLE record_manifest ADD COLUMN kind TEXT NOT NULL DEFAULT 'rows'",
    "ALTER TABLE record_manifest ADD COLUMN raw_size INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN format TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE record_manifest ADD COLUMN compression TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE record_manifest ADD COLUMN shape INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN opened_at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN retired_at REAL",
    # When their oldest record arrived was not kept; it was not later than this.
    "UPDATE record_manifest SET opened_at = at",
    "UPDATE record_manifest SET kind = 'errors' WHERE partition = '!errors'",
    *TABLES[1:],
)
"""What makes these tables of those of version 1."""

INSERT_FILE = """
    INSERT OR REPLACE INTO record_manifest (
        stream, name, partition, kind, first, last, records, size, crc, raw_size, format, compression, shape,
        opened_at, at, generation, retired_at
    )
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_COLUMNS = """
        name, partition, kind, first, last, records, size, crc, raw_size, format, compression, shape,
        opened_at, at, generation, retired_at
"""
_CONDITIONS = """
        AND (first, name) > (?, ?)
        AND first <= ?
        AND last >= ?
        AND at >= ?
        AND opened_at <= ?
        AND (retired_at IS NULL OR ?)
    ORDER BY first, name
    LIMIT ?
"""
SELECT_FILES = f"""
    SELECT {_COLUMNS}
    FROM record_manifest INDEXED BY record_manifest_place
    WHERE stream = ?
    {_CONDITIONS}
"""  # noqa: S608  # made of the constants above
SELECT_FILES_OF_PARTITION = f"""
    SELECT {_COLUMNS}
    FROM record_manifest INDEXED BY record_manifest_partition
    WHERE stream = ?
        AND partition = ?
    {_CONDITIONS}
"""  # noqa: S608  # made of the constants above
WIDEST = """
    SELECT last - first
    FROM record_manifest INDEXED BY record_manifest_span
    WHERE stream = ?
    ORDER BY last - first DESC
    LIMIT 1
"""
FIRST_SINCE = """
    SELECT min(first)
    FROM record_manifest INDEXED BY record_manifest_time
    WHERE stream = ?
        AND at >= ?
"""

NEXT_PARTITION = """
    SELECT partition
    FROM record_manifest INDEXED BY record_manifest_partition
    WHERE stream = ?
        AND partition > ?
    ORDER BY partition
    LIMIT 1
"""
HAS_UNPARTITIONED = """
    SELECT 1
    FROM record_manifest INDEXED BY record_manifest_partition
    WHERE stream = ?
        AND partition = ''
    LIMIT 1
"""
RETIRE_FILE = """
    UPDATE record_manifest
    SET retired_at = ?
    WHERE stream = ?
        AND name = ?
"""
SELECT_RETIRED = """
    SELECT name
    FROM record_manifest INDEXED BY record_manifest_retired
    WHERE stream = ?
        AND retired_at <= ?
    LIMIT 1000
"""
DELETE_FILE = """
    DELETE FROM record_manifest
    WHERE stream = ?
        AND name = ?
"""
INSERT_LISTING = """
    INSERT OR REPLACE INTO record_listing (stream, id, partition, name)
    VALUES (?, ?, ?, ?)
"""
SELECT_LISTINGS = """
    SELECT id, partition, name, replaced_at
    FROM record_listing
    WHERE stream = ?
    ORDER BY id
"""
REPLACE_LISTING = """
    UPDATE record_listing
    SET replaced_at = ?
    WHERE stream = ?
        AND id = ?
"""
DELETE_LISTING = """
    DELETE FROM record_listing
    WHERE stream = ?
        AND id = ?
"""
INSERT_COMPACTION = """
    INSERT OR REPLACE INTO record_compaction (stream, id, blob, crc)
    VALUES (?, ?, ?, ?)
"""
SELECT_COMPACTIONS = """
    SELECT id, blob, crc
    FROM record_compaction
    WHERE stream = ?
    ORDER BY id
"""
DELETE_COMPACTION = """
    DELETE FROM record_compaction
    WHERE stream = ?
        AND id = ?
"""
DELETE_OLDEST = """
    DELETE FROM record_manifest
    WHERE stream = ?
        AND name IN (
            SELECT name
            FROM record_manifest INDEXED BY record_manifest_place
            WHERE stream = ?
            ORDER BY first, name
            LIMIT ?
        )
"""

DELETE_FILES_OF_STREAM = """
    DELETE FROM record_manifest
    WHERE stream = ?
"""
DELETE_LISTINGS_OF_STREAM = """
    DELETE FROM record_listing
    WHERE stream = ?
"""
DELETE_COMPACTIONS_OF_STREAM = """
    DELETE FROM record_compaction
    WHERE stream = ?
"""
DELETE_ALL_OF_STREAM = (DELETE_FILES_OF_STREAM, DELETE_LISTINGS_OF_STREAM, DELETE_COMPACTIONS_OF_STREAM)


def write(connection: Connection, change: CatalogueChange) -> None:
    """Apply one change, in the caller's transaction."""
    execute, executemany = connection.execute, connection.executemany
    match change:
        case Committed(segment, manifest, at):
            for facts in facts_of(segment, manifest.objects, at):
                insert(connection, segment.stream, facts)
            if segment.manifest_name and manifest.objects:
                execute(INSERT_LISTING, (segment.stream, segment.id, segment.partition, segment.manifest_name))
        case Compacting(compaction):
            blob = _encode(compaction)
            execute(INSERT_COMPACTION, (compaction.stream, compaction.id, blob, crc32(blob)))
        case Compacted(done, outputs, at):
            for facts in outputs:
                insert(connection, done.stream, facts)
            inputs = [file for merge in done.merges for file in merge.inputs]
            executemany(RETIRE_FILE, [(at, done.stream, file.name) for file in inputs])
            executemany(REPLACE_LISTING, [(at, done.stream, id) for id in done.replaces])
            execute(INSERT_LISTING, (done.stream, done.id, done.partition, done.manifest))
            execute(DELETE_COMPACTION, (done.stream, done.id))
        case Abandoned(stream, id):
            execute(DELETE_COMPACTION, (stream, id))
        case Forgotten(stream, files, manifests):
            executemany(DELETE_FILE, [(stream, name) for name in files])
            executemany(DELETE_LISTING, [(stream, id) for id in manifests])


def insert(connection: Connection, stream: str, facts: FileFacts) -> None:
    """One more file."""
    connection.execute(INSERT_FILE, (stream, *msgspec.structs.astuple(facts)))


def files(connection: Connection, stream: str, query: FileQuery) -> list[FileFacts]:
    """One page of the answer."""
    begin = _begin(connection, stream, query)
    values = (
        *begin,
        _NEVER if query.last is None else query.last,
        query.first,
        -inf if query.since is None else query.since,
        inf if query.until is None else query.until,
        query.retired,
        query.limit,
    )
    if query.partition is None:
        rows = connection.execute(SELECT_FILES, (stream, *values))
    else:
        rows = connection.execute(SELECT_FILES_OF_PARTITION, (stream, query.partition, *values))
    return [FileFacts(*row) for row in rows]


def forget_oldest(connection: Connection, stream: str, count: int) -> None:
    """As if they had never been delivered."""
    connection.execute(DELETE_OLDEST, (stream, stream, count))


def partitions(connection: Connection, stream: str) -> list[str]:
    """Every partition that has files, by as many steps in the index."""
    found = [""] if connection.execute(HAS_UNPARTITIONED, (stream,)).fetchone() else []
    after = ""
    while (row := connection.execute(NEXT_PARTITION, (stream, after)).fetchone()) is not None:
        (after,) = row
        found.append(after)
    return found


def manifests(connection: Connection, stream: str) -> list[ManifestFacts]:
    """Every manifest in the sink, in the order of their ids."""
    return [ManifestFacts(*row) for row in connection.execute(SELECT_LISTINGS, (stream,))]


def retired(connection: Connection, stream: str, before: float) -> list[str]:
    """Some of the files that were retired by then."""
    return [name for (name,) in connection.execute(SELECT_RETIRED, (stream, before))]


def pending(connection: Connection, stream: str) -> list[Compaction]:
    """Compactions that were begun and not ended. A damaged one is told of and passed over."""
    found: list[Compaction] = []
    for id, blob, crc in connection.execute(SELECT_COMPACTIONS, (stream,)):
        if crc32(blob) == crc:
            found.append(_decode(blob))
        else:
            logger.error("stream %s: compaction %d is damaged and not gone on with", stream, id)
    return found


def _begin(connection: Connection, stream: str, query: FileQuery) -> tuple[int, str]:
    """Before the first file that can be meant."""
    begin = query.after or (-1, "")
    if query.first > 0:
        (widest,) = connection.execute(WIDEST, (stream,)).fetchone() or (0,)
        begin = max(begin, (query.first - widest, ""))
    if query.since is not None:
        (first,) = connection.execute(FIRST_SINCE, (stream, query.since)).fetchone()
        begin = max(begin, (_NEVER if first is None else first, ""))
    return begin


_NEVER = (1 << 63) - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Compaction).decode
