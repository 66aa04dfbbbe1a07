"""Groups into the tables: the statements of one transaction, many rows each."""

from __future__ import annotations

import sqlite3
from typing import Any
from zlib import crc32

from pipeflow.embedded.journal import FrozenGroup
from pipeflow.embedded.sqlite import audit, recovery, statements, streams

PRUNE_INTERVAL = 30.0
_BODY_COLUMN = 8


class Tables:
    """Writes groups, within the caller's transactions."""

    def __init__(self) -> None:
        self.written = 0
        """Bytes, about, since somebody last set it to 0."""
        self._scratch = bytearray()
        self._pruned_at = 0.0

    def write(self, connection: sqlite3.Connection, group: FrozenGroup, now: float) -> None:
        """Everything that the group changes."""
        execute, executemany = connection.execute, connection.executemany
        for noun in group.declared:
            if noun.spec is None:
                execute(statements.DROP_NOUN, (noun.kind, noun.name))
                if noun.kind == "gone":
                    # Its number may be another queue's from now on.
                    execute(statements.DROP_QUEUE_COUNTERS, (noun.number,))
                    execute(statements.DROP_KNOWN, (noun.number,))
            else:
                execute(statements.PUT_NOUN, (noun.kind, noun.name, noun.number, noun.spec, crc32(noun.spec)))
        if group.damaged:
            # Before anything is changed or deleted: as it was found.
            executemany(statements.SET_ASIDE, [(key,) for key in group.damaged])
            delete(connection, group.damaged)
        for number, (body, refs) in group.bodies.items():
            execute(statements.HOLD_BODY, (number, refs, body))
            self.written += len(body)
        for number, (claim, refs) in group.claims.items():
            execute(statements.HOLD_CLAIM, (number, refs, recovery.encode_claim(claim)))
        for row, new in group.rewritten.items():
            # Under the key that the row has until now; its head follows with the updates and moves.
            own, kept = (None, new) if isinstance(new, int) else (new, None)
            execute(statements.REWRITE_BODY, (own, kept, row))
            self.written += len(own or b"")
        self._insert(connection, group.inserts)
        moved = [row for row in group.updates if row[8] is not None]
        _update(connection, [row for row in group.updates if row[8] is None])
        if moved:
            executemany(statements.MOVE_MESSAGE, [(*row[:5], *row[6:], row[5]) for row in moved])
        delete(connection, group.deletes)
        if group.releases:
            executemany(statements.RELEASE_BODY, [(count, number) for number, count in group.releases.items()])
            executemany(statements.DELETE_BODY, [(number,) for number in group.releases])
        if group.queues:
            executemany(statements.PUT_QUEUE_COUNTERS, [(n, blob, crc32(blob)) for n, blob in group.queues])
        if group.topics:
            executemany(statements.PUT_TOPIC_COUNTERS, [(n, blob, crc32(blob)) for n, blob in group.topics])
        if group.known:
            executemany(statements.PUT_KNOWN, [(k.scope, k.key, k.at, k.id, k.sequence) for k in group.known])
        if group.sources:
            positions = [(name, at, crc32(at)) for name, at in group.sources.items() if at is not None]
            executemany(statements.PUT_SOURCE, positions)
            executemany(statements.DROP_SOURCE, [(name,) for name, at in group.sources.items() if at is None])
        if group.streams:
            streams.write(connection, group.streams, self._scratch)
        if group.audit:
            audit.write(connection, group.audit, group.clock)
        if now - self._pruned_at >= PRUNE_INTERVAL:
            self._pruned_at = now
            execute(statements.PRUNE_KNOWN, (now - 330.0,))
        execute(statements.PUT_FACT, ("clock", group.clock))

    def _insert(self, connection: sqlite3.Connection, values: list[Any]) -> None:
        columns = statements.INSERT_COLUMNS
        start, left = 0, len(values) // columns
        for rows in statements.CHUNKS:
            while left >= rows:
                end = start + rows * columns
                connection.execute(statements.insert_messages(rows), values[start:end])
                start, left = end, left - rows
        bodies = values[_BODY_COLUMN::columns]
        self.written += len(bodies) * 512 + sum(len(body) for body in bodies if body is not None)


def _update(connection: sqlite3.Connection, updates: list[tuple[Any, ...]]) -> None:
    start, left = 0, len(updates)
    for rows in statements.CHUNKS:
        while left >= rows:
            values = [value for row in updates[start : start + rows] for value in row[:5]]
            connection.execute(statements.update_messages(rows), values)
            start, left = start + rows, left - rows


def delete(connection: sqlite3.Connection, keys: list[int]) -> None:
    """Delete these messages."""
    start, left = 0, len(keys)
    for rows in statements.CHUNKS:
        while left >= rows:
            connection.execute(statements.delete_messages(rows), keys[start : start + rows])
            start, left = start + rows, left - rows
