"""The catalogue on disk: a row for each delivered object, for each manifest in a sink, and for each merge under way.

Questions are answered from indexes, a page at a time. A file's range may overlap those of other partitions, so a
question by sequence begins as far before it as the widest file reaches, which an index knows.
"""

from __future__ import annotations

from math import inf
from sqlite3 import Connection

import msgspec

from pipeflow.embedded.records import Committed
from pipeflow.files import FileFacts, FileQuery
from pipeflow.sinks.manifest import facts_of

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
        listing INTEGER NOT NULL DEFAULT 0,
        retired_at REAL,
        PRIMARY KEY (stream, name)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX record_manifest_place ON record_manifest (stream, first, name)",
    "CREATE INDEX record_manifest_partition ON record_manifest (stream, partition, first, name)",
    "CREATE INDEX record_manifest_time ON record_manifest (stream, at, first)",
    "CREATE INDEX record_manifest_span ON record_manifest (stream, last - first)",
)

NEW_IN_2 = (
    "ALTER TABLE record_manifest ADD COLUMN kind TEXT NOT NULL DEFAULT 'rows'",
    "ALTER TABLE record_manifest ADD COLUMN raw_size INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN format TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE record_manifest ADD COLUMN compression TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE record_manifest ADD COLUMN shape INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN opened_at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE record_manifest ADD COLUMN listing INTEGER NOT NULL DEFAULT 0",
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
        opened_at, at, generation, listing, retired_at
    )
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_COLUMNS = """
        name, partition, kind, first, last, records, size, crc, raw_size, format, compression, shape,
        opened_at, at, generation, listing, retired_at
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


def write_commit(connection: Connection, change: Committed) -> None:
    """A segment's objects are delivered."""
    for facts in facts_of(change.segment, change.manifest.objects, change.at):
        insert(connection, change.segment.stream, facts)


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
