"""The audit on disk: a row for each action, found by its number and by the queue or stream it was done to."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Final
from zlib import crc32

import msgspec

from pipeflow.audit import KEPT, KEPT_SECONDS, Entry

TABLES: Final = (
    """
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        subject TEXT NOT NULL,
        entry BLOB NOT NULL,
        crc INTEGER NOT NULL
    )
    """,
    "CREATE INDEX audit_subject ON audit (subject, number)",
    "CREATE INDEX audit_at ON audit (at)",
)

PUT_ENTRY: Final = "INSERT OR REPLACE INTO audit (number, at, subject, entry, crc) VALUES (?, ?, ?, ?, ?)"
PRUNE_COUNT: Final = "DELETE FROM audit WHERE number <= ?"
PRUNE_AGE: Final = "DELETE FROM audit WHERE at < ?"
LAST_ENTRY: Final = "SELECT max(number) FROM audit"
_ENTRY: Final = "SELECT number, at, entry, crc FROM audit "
FIND_ENTRY: Final = _ENTRY + "WHERE number = ?"
LOAD_ENTRIES: Final = _ENTRY + "WHERE number < ? ORDER BY number DESC LIMIT ?"
LOAD_ENTRIES_OF: Final = _ENTRY + "WHERE subject = ? AND number < ? ORDER BY number DESC LIMIT ?"

_decode = msgspec.msgpack.Decoder(Entry).decode


def write(connection: Connection, rows: Iterable[tuple[int, float, str, bytes]], now: float) -> None:
    """Put entries of the group that is written; what is beyond the bounds goes."""
    newest = 0
    for number, at, subject, entry in rows:
        connection.execute(PUT_ENTRY, (number, at, subject, entry, crc32(entry)))
        newest = max(newest, number)
    connection.execute(PRUNE_COUNT, (newest - KEPT,))
    connection.execute(PRUNE_AGE, (now - KEPT_SECONDS,))


def last(connection: Connection) -> int:
    """The number of the newest entry; 0: there is none."""
    return connection.execute(LAST_ENTRY).fetchone()[0] or 0


def entries(connection: Connection, subject: str | None, below: int, limit: int) -> list[Entry]:
    """Entries below a number, newest first."""
    if subject is None:
        rows = connection.execute(LOAD_ENTRIES, (below, limit))
    else:
        rows = connection.execute(LOAD_ENTRIES_OF, (subject, below, limit))
    return [_read(*row) for row in rows.fetchall()]


def entry_of(connection: Connection, number: int) -> Entry | None:
    """One entry, if it is there and reads back."""
    row = connection.execute(FIND_ENTRY, (number,)).fetchone()
    entry = _read(*row) if row is not None else None
    return None if entry is None or entry.action == "damaged" else entry


def _read(number: int, at: float, entry: bytes, crc: int) -> Entry:
    if crc32(entry) == crc:
        try:
            return _decode(entry)
        except msgspec.MsgspecError:
            pass
    return Entry(number, at, "damaged", "", "", note="this entry does not read back: its checksum does not hold")
