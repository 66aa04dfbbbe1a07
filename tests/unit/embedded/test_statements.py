"""Every statement of the journal goes by a key: no table is scanned, nothing is sorted.

SQLite says how it would run a statement (EXPLAIN QUERY PLAN): SEARCH goes by a key or an index, SCAN looks at every
row, a temporary B-tree sorts. Statements that read a table whole say so below, and why that is right.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from pipeflow.embedded.sqlite import audit, catalogue, pointers, schema, statements, streams

WHOLE = {
    "ALL_FACTS": "a handful of rows, once at the start",
    "ALL_NOUNS": "one row a noun, sorted, once at the start",
    "ALL_QUEUE_COUNTERS": "one row a queue, once at the start",
    "ALL_TOPIC_COUNTERS": "one row a topic, once at the start",
    "ALL_SOURCES": "one row a source, once at the start",
    "SELECT_BLOCKS": "one row a block of undelivered records, in index order, once at the start",
    "SELECT_SEGMENTS": "one row an undelivered segment, in index order, once at the start",
    "SELECT_COUNTERS": "one row a stream, once at the start",
    "SELECT_TROUBLES": "one row an undelivered segment that failed, in index order, once at the start",
    "CLAIMS": "walks the partial index of bodies kept aside, for doctors",
    "LOAD_HELD": "walks the partial index of held messages only, once at the start",
}


def every() -> Iterator[tuple[str, str]]:
    for module in (statements, streams, catalogue, audit, pointers):
        for name, text in vars(module).items():
            if isinstance(text, str) and name.isupper() and not name.startswith("_"):
                first = text.split()[0] if text.split() else ""
                if first in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                    yield name, text
    for rows in statements.CHUNKS:
        yield f"insert_messages({rows})", statements.insert_messages(rows)
        yield f"update_messages({rows})", statements.update_messages(rows)
        yield f"delete_messages({rows})", statements.delete_messages(rows)


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for table in (*schema.TABLES, *streams.TABLES):
        connection.execute(table)
    yield connection
    connection.close()


def plan(connection: sqlite3.Connection, text: str) -> list[str]:
    values = [None] * text.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]


@pytest.mark.parametrize(("name", "text"), list(every()), ids=[name for name, _ in every()])
def test_a_statement_goes_by_a_key_and_sorts_nothing(connection: sqlite3.Connection, name: str, text: str) -> None:
    steps = plan(connection, text)
    assert name in WHOLE or not [step for step in steps if "TEMP B-TREE" in step]
    # The rows given with a statement are looked at one by one, which is what they are for.
    scans = [step for step in steps if step.startswith("SCAN") and step not in ("SCAN v", "SCAN CONSTANT ROW")]
    assert not [step for step in scans if "CONSTANT ROW" not in step] or name in WHOLE


def test_the_plan_of_a_statement_without_a_key_is_noticed(connection: sqlite3.Connection) -> None:
    assert plan(connection, "SELECT key FROM messages WHERE crc = ? ORDER BY body") == [
        "SCAN messages",
        "USE TEMP B-TREE FOR ORDER BY",
    ]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        (statements.LOAD_DELAYED, "messages_due"),
        (statements.LOAD_GROUP, "messages_group"),
        (statements.NEXT_GROUP, "messages_group"),
        (statements.LOAD_KEYED, "messages_group"),
        (statements.LOAD_HELD, "messages_held"),
        (statements.LOAD_READY, "INTEGER PRIMARY KEY"),
        (statements.DUE, "INTEGER PRIMARY KEY"),
        (statements.COUNT_DUE, "COVERING INDEX messages_due"),
        (statements.COUNT_NAMED, "COVERING INDEX messages_group"),
        (statements.SWEEP_SHARED, "INTEGER PRIMARY KEY"),
        (statements.PRUNE_KNOWN, "known_at"),
        (statements.RECENT_KNOWN, "known_at"),
    ],
)
def test_a_statement_goes_by_the_index_made_for_it(connection: sqlite3.Connection, text: str, index: str) -> None:
    assert any(index in step for step in plan(connection, text))
