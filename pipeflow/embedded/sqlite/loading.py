"""Messages that are read back from the tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from math import inf
from typing import Any

from pipeflow.embedded.journal import DELAYED_BIT, Loaded
from pipeflow.embedded.sqlite import recovery, statements


def loaded(connection: sqlite3.Connection, statement: str, values: tuple[Any, ...], most_bytes: float = inf) -> Loaded:
    """The messages of these rows; their bodies have no more than `most_bytes` together, unless the first one has."""
    if most_bytes < inf:
        return _loaded_upto(connection, statement, values, most_bytes)
    rows = connection.execute(statement, values).fetchall()
    messages, damaged = recovery.read_messages(connection, rows)
    last = rows[-1][0] & (DELAYED_BIT - 1) if rows else 0
    return Loaded(messages, last, damaged, waiting=_due(connection, damaged) if damaged else {})


def _due(connection: sqlite3.Connection, rows: list[int]) -> dict[int, float]:
    found = ((row, connection.execute(statements.DUE, (row,)).fetchone()) for row in rows)
    return {row: due[0] for row, due in found if due is not None and due[0] is not None}


def _loaded_upto(connection: sqlite3.Connection, statement: str, values: tuple[Any, ...], most_bytes: float) -> Loaded:
    """Row by row, as a shared body is not seen in its row: what would be too much is read last, and left out."""
    found = Loaded([], damaged=[])
    with closing(connection.execute(statement, values)) as rows:
        for row in rows:
            messages, damaged = recovery.read_messages(connection, [row])
            most_bytes -= sum(len(message.body or b"") for message in messages)
            if most_bytes < 0 and found.messages:
                break
            found.messages += messages
            found.damaged += damaged
            found.last = row[0] & (DELAYED_BIT - 1)
    return found
