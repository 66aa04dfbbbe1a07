"""Every statement of the journal, named after the verb it serves.

SQL never reads a clock and never commits: the writer does. Statements over many rows are one statement, because each
step of SQLite releases the interpreter's lock and must win it back from a busy loop.
"""

from __future__ import annotations

from functools import cache
from typing import Final

BEGIN: Final = "BEGIN IMMEDIATE"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"

CHUNKS: Final = (128, 64, 32, 16, 8, 4, 2, 1)
"""Row counts of multi-row statements: few different texts, so that each stays prepared."""

INSERT_COLUMNS: Final = 10
UPDATE_COLUMNS: Final = 5


# Rows of the commit log may be there already, after a crash: the same ones.
_INSERT: Final = "INSERT OR REPLACE INTO messages (key, due, grp, held, expires, kept, head, crc, body, shared) VALUES "
_UPDATE: Final = (
    "UPDATE messages SET due = v.column2, held = v.column3, head = v.column4, crc = v.column5 FROM (VALUES ",
    ") AS v WHERE messages.key = v.column1",
)
_DELETE: Final = "DELETE FROM messages WHERE key IN "


@cache
def insert_messages(rows: int) -> str:
    """INSERT of that many messages."""
    return _INSERT + _rows(INSERT_COLUMNS, rows)


@cache
def update_messages(rows: int) -> str:
    """UPDATE of that many messages that stay under their key."""
    return _UPDATE[0] + _rows(UPDATE_COLUMNS, rows) + _UPDATE[1]


@cache
def delete_messages(rows: int) -> str:
    """DELETE of that many messages."""
    return _DELETE + _rows(rows, 1)


def _rows(columns: int, rows: int) -> str:
    row = "(" + ", ".join(["?"] * columns) + ")"
    return ", ".join([row] * rows)


MOVE_MESSAGE: Final = """
    UPDATE messages
    SET key = ?, due = ?, held = ?, head = ?, crc = ?, grp = ?, expires = ?, kept = ?
    WHERE key = ?
"""

REWRITE_BODY: Final = "UPDATE messages SET body = ?, shared = ? WHERE key = ?"
HOLD_BODY: Final = """
    INSERT INTO bodies (number, refs, body)
    VALUES (?, ?, ?)
    ON CONFLICT (number) DO UPDATE SET refs = refs + excluded.refs
"""
HOLD_CLAIM: Final = """
    INSERT INTO bodies (number, refs, body, claim)
    VALUES (?, ?, x'', ?)
    ON CONFLICT (number) DO UPDATE SET refs = refs + excluded.refs
"""
RELEASE_BODY: Final = "UPDATE bodies SET refs = refs - ? WHERE number = ?"
DELETE_BODY: Final = "DELETE FROM bodies WHERE number = ? AND refs <= 0"

PUT_QUEUE_COUNTERS: Final = "INSERT OR REPLACE INTO queue_counters (number, counters, crc) VALUES (?, ?, ?)"
PUT_TOPIC_COUNTERS: Final = "INSERT OR REPLACE INTO topic_counters (number, counters, crc) VALUES (?, ?, ?)"
PUT_KNOWN: Final = "INSERT OR REPLACE INTO known (scope, digest, at, id, sequence) VALUES (?, ?, ?, ?, ?)"
PRUNE_KNOWN: Final = "DELETE FROM known WHERE at < ?"
FIND_KNOWN: Final = "SELECT scope, digest, at, id, sequence FROM known WHERE scope = ? AND digest = ? AND at > ?"
PUT_SOURCE: Final = "INSERT OR REPLACE INTO sources (name, position, crc) VALUES (?, ?, ?)"
DROP_SOURCE: Final = "DELETE FROM sources WHERE name = ?"
SET_ASIDE: Final = """
    INSERT OR REPLACE INTO quarantine (key, head, crc, body, shared)
    SELECT key, head, crc, body, shared FROM messages
    WHERE key = ?
"""
PUT_FACT: Final = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)"
DROP_NOUN: Final = "DELETE FROM nouns WHERE kind = ? AND name = ?"
DROP_QUEUE_COUNTERS: Final = "DELETE FROM queue_counters WHERE number = ?"
DROP_KNOWN: Final = "DELETE FROM known WHERE scope = ?"
PUT_NOUN: Final = "INSERT OR REPLACE INTO nouns (kind, name, number, spec, crc) VALUES (?, ?, ?, ?, ?)"

_MESSAGE: Final = "SELECT key, head, crc, body, shared FROM messages "

LOAD_READY: Final = (
    _MESSAGE
    + """
    WHERE key > ? AND key < ?
    ORDER BY key
    LIMIT ?
"""
)
LOAD_DELAYED: Final = (
    _MESSAGE
    + """
    WHERE due IS NOT NULL AND key >> 43 = ? AND (due, key) >= (?, ?)
    ORDER BY due, key
    LIMIT ?
"""
)
LOAD_GROUP: Final = (
    _MESSAGE
    + """
    WHERE grp IS NOT NULL AND key >> 43 = ? AND grp = ? AND key > ?
    ORDER BY key
    LIMIT ?
"""
)
LOAD_KEYED: Final = (
    _MESSAGE
    + """
    WHERE grp IS NOT NULL AND key >> 43 = ? AND grp = ?
    ORDER BY key DESC
    LIMIT 1
"""
)
PASS_OVER: Final = """
    SELECT key, grp FROM messages
    WHERE key > ? AND key < ?
    ORDER BY key
    LIMIT ?
"""
NEXT_GROUP: Final = """
    SELECT grp FROM messages
    WHERE grp IS NOT NULL AND key >> 43 = ? AND grp > ?
    ORDER BY grp
    LIMIT 1
"""
LOAD_EXPIRING: Final = """
    SELECT key, head, crc, shared, kept, expires FROM messages
    WHERE expires IS NOT NULL AND key >> 43 = ? AND (expires, key) > (?, ?)
    ORDER BY expires, key
    LIMIT ?
"""
LOAD_KEPT: Final = """
    SELECT key, head, crc, shared, kept, kept FROM messages
    WHERE kept IS NOT NULL AND key >> 43 = ? AND (kept, key) > (?, ?)
    ORDER BY kept, key
    LIMIT ?
"""
LOAD_DUE: Final = """
    SELECT key, head, crc, shared, kept, due FROM messages
    WHERE due IS NOT NULL AND key >> 43 = ? AND (due, key) > (?, ?)
    ORDER BY due, key
    LIMIT ?
"""
LOAD_PLACED: Final = """
    SELECT key, head, crc, shared, kept, 0.0 FROM messages
    WHERE key > ? AND key < ?
    ORDER BY key
    LIMIT ?
"""
LOAD_ENDING: Final = {"expires": LOAD_EXPIRING, "kept": LOAD_KEPT, "place": LOAD_PLACED, "due": LOAD_DUE}
DUE: Final = "SELECT due FROM messages WHERE key = ?"
COUNT_DUE: Final = "SELECT count(*) FROM messages WHERE key >> 43 = ? AND due > ? AND key > ?"
COUNT_NAMED: Final = "SELECT count(*) FROM messages WHERE key >> 43 = ? AND grp = ? AND key > ?"
LOAD_HELD: Final = _MESSAGE + "WHERE held IS NOT NULL ORDER BY key"
BODY: Final = "SELECT head, crc, body, shared FROM messages WHERE key = ?"
SHARED_BODY: Final = "SELECT body, claim FROM bodies WHERE number = ?"
CLAIMS: Final = "SELECT claim FROM bodies WHERE claim IS NOT NULL"
DOOMED: Final = """
    SELECT number, claim FROM doomed
    WHERE number > ? AND number <= ?
    ORDER BY number
    LIMIT ?
"""
LAST_DOOMED: Final = "SELECT max(number) FROM doomed"
UNDOOM: Final = "DELETE FROM doomed WHERE number = ?"

SWEEP_SHARED: Final = """
    SELECT key, shared FROM messages
    WHERE key >= ? AND key <= ?
    ORDER BY key
    LIMIT ?
"""

CLOCK: Final = "SELECT value FROM facts WHERE name = 'clock'"
SCAN: Final = "SELECT key, head, crc FROM messages WHERE key > ? ORDER BY key LIMIT ?"
MARK: Final = "UPDATE messages SET kept = ? WHERE key = ?"

ALL_FACTS: Final = "SELECT name, value FROM facts"
LOG_FACTS: Final = "SELECT name, value FROM facts WHERE name IN ('clean', 'folded', 'log_half', 'log_salt')"
ALL_NOUNS: Final = "SELECT kind, name, number, spec, crc FROM nouns ORDER BY number, name"
ALL_QUEUE_COUNTERS: Final = "SELECT number, counters, crc FROM queue_counters"
ALL_TOPIC_COUNTERS: Final = "SELECT number, counters, crc FROM topic_counters"
ALL_SOURCES: Final = "SELECT name, position, crc FROM sources"
RECENT_KNOWN: Final = "SELECT scope, digest, at, id, sequence FROM known WHERE at > ? ORDER BY at DESC LIMIT ?"
LAST_BODY: Final = "SELECT max(number) FROM bodies"
