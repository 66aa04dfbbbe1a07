"""The table of an outbox in an SQLite file of its users: written in their transactions, read by the relay.

SQLite has one writer at a time, so ids that are given in a transaction are committed in their order. An id is the time
in microseconds, or one more than any before it: so a row of a file that was deleted or put back to an older state is
never taken for one that was sent. For rows that a trigger of the program writes, one of the table's own sees to that.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import aiosqlite
import msgspec

from pipeflow.embedded.sqlite.connection import Connection
from pipeflow.embedded.sqlite.recovery import transact
from pipeflow.embedded.sqlite.schema import APPLICATION_ID
from pipeflow.errors import ConfigurationError
from pipeflow.messages import Outgoing
from pipeflow.names import new_secret
from pipeflow.outboxes import NotNow, OutboxRow

T = TypeVar("T")

SyncConnection: TypeAlias = sqlite3.Connection
AsyncConnection: TypeAlias = aiosqlite.Connection

ROWS: Final = 500
"""Rows that are read at a time ..."""
BYTES: Final = 16 << 20
"""... and bytes of bodies, the last one's included."""
BUSY: Final = 5.0
"""Seconds that the relay waits for a transaction of the program to end, where it must ..."""
BUSY_TIDYING: Final = 0.05
"""... and where it can as well come again."""

NO_OPTIONS: Final = frozenset({"body", "attributes", "headers", "partition", "checkpoint", "claim"})
"""What of a message has a column of its own, or is not for who sends it to say."""
OPTIONS: Final = {each.name: each for each in msgspec.structs.fields(Outgoing) if each.name not in NO_OPTIONS}
_Options = msgspec.defstruct(
    "_Options",
    [(name, each.type, each.default) for name, each in OPTIONS.items()],
    forbid_unknown_fields=True,
)

APPLICATION: Final = "PRAGMA application_id"
CHANGES: Final = "PRAGMA data_version"
PATIENCE: Final = "PRAGMA busy_timeout = {}"


CREATE: Final = """
    CREATE TABLE IF NOT EXISTS {table} (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        target TEXT NOT NULL,
        body BLOB NOT NULL,
        attributes,
        headers,
        options,
        failure TEXT
    )
"""
IDENTIFY: Final = """
    CREATE TABLE IF NOT EXISTS {table}_identity (
        identity TEXT NOT NULL,
        upto INTEGER NOT NULL
    )
"""
NAME: Final = """
    INSERT INTO {table}_identity (identity, upto)
    SELECT ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM {table}_identity)
"""
IDENTITY: Final = "SELECT identity, upto FROM {table}_identity"
EXISTS: Final = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
NOW: Final = "(CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000)"
"""Microseconds, to the millisecond that SQLite knows; 2440587.5 is the Julian day of 1970."""
LIFT: Final = """
    CREATE TRIGGER IF NOT EXISTS {table}_id AFTER INSERT ON {table} WHEN new.id < {now} BEGIN
        INSERT INTO {table} (id, kind, target, body, attributes, headers, options, failure)
        VALUES (
            max(
                {now},
                (SELECT max(id) + 1 FROM {table}),
                coalesce((SELECT seq + 1 FROM sqlite_sequence WHERE name = '{table}'), 0)
            ),
            new.kind, new.target, new.body, new.attributes, new.headers, new.options, new.failure
        );
        DELETE FROM {table} WHERE id = new.id;
    END
"""
"""A row that SQL wrote without an id has the next one, which in a restored file the relay may have passed already.

It is written anew, as only an INSERT moves the sequence on. `max(id)` counts the rows of the same statement, which the
sequence does not know yet.
"""
INSERT: Final = """
    INSERT INTO {table} (id, kind, target, body, attributes, headers, options)
    VALUES (
        max(?, coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0) + 1), ?, ?, ?, ?, ?, ?
    )
"""
READ: Final = """
    SELECT id, kind, target, body, attributes, headers, options
    FROM {table}
    WHERE id > ? AND failure IS NULL
    ORDER BY id
"""
SET_ASIDE: Final = "UPDATE {table} SET failure = ? WHERE id = ?"
FORGET: Final = """
    DELETE FROM {table}
    WHERE id IN (SELECT id FROM {table} WHERE id <= ? AND failure IS NULL ORDER BY id LIMIT ?)
"""
FAILED: Final = "SELECT id FROM {table} WHERE failure IS NOT NULL ORDER BY id"
AGAIN: Final = """
    INSERT INTO {table} (id, kind, target, body, attributes, headers, options)
    SELECT
        max(?, (SELECT seq FROM sqlite_sequence WHERE name = '{table}') + 1),
        kind, target, body, attributes, headers, options
    FROM {table}
    WHERE id = ?
"""
DROP: Final = "DELETE FROM {table} WHERE id = ?"


_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


def fits(table: str) -> bool:
    """Whether a table can be called this."""
    return bool(_TABLE.match(table)) and not table.lower().startswith("sqlite_")


class Statements:
    """What is said to one outbox, whose name was checked before."""

    def __init__(self, table: str) -> None:
        self.create = CREATE.format(table=table)
        self.lift = LIFT.format(table=table, now=NOW)
        self.table = table
        self.identify = IDENTIFY.format(table=table)
        self.name = NAME.format(table=table)
        self.identity = IDENTITY.format(table=table)
        self.insert = INSERT.format(table=table)
        self.read = READ.format(table=table)
        self.set_aside = SET_ASIDE.format(table=table)
        self.forget = FORGET.format(table=table)
        self.failed = FAILED.format(table=table)
        self.again = AGAIN.format(table=table)
        self.drop = DROP.format(table=table)


# -- written by the program, in a transaction of its own -------------------------------------------------------------


def write(connection: sqlite3.Connection, say: Statements, now: float, kind: str, target: str, sent: Outgoing) -> None:
    """One row, part of the transaction that is open on the connection, or that this opens."""
    _in_transaction(connection)
    values = _values(now, kind, target, sent)
    try:
        connection.execute(say.insert, values)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        cursor = connection.cursor()
        cursor.row_factory = None
        refuse_store(cursor.execute(APPLICATION).fetchone()[0])
        connection.execute(say.create)
        connection.execute(say.lift)
        _identify(connection, say, 0)
        connection.execute(say.insert, values)


async def write_async(
    connection: aiosqlite.Connection, say: Statements, now: float, kind: str, target: str, sent: Outgoing
) -> None:
    """The same through aiosqlite."""
    _in_transaction(connection)
    values = _values(now, kind, target, sent)
    try:
        await connection.execute(say.insert, values)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        cursor = await connection.cursor()
        cursor.row_factory = None
        await cursor.execute(APPLICATION)
        refuse_store((await cursor.fetchone() or (0,))[0])
        await connection.execute(say.create)
        await connection.execute(say.lift)
        await connection.execute(say.identify)
        await connection.execute(say.name, (new_identity(), 0))
        await connection.execute(say.insert, values)


def retry(connection: sqlite3.Connection, say: Statements, now: float, ids: Sequence[int] | None = None) -> int:
    """Put what was set aside at the end of the outbox, these ids or all of it; how many rows."""
    _in_transaction(connection)
    cursor = connection.cursor()
    cursor.row_factory = None
    if ids is None:
        ids = [id for (id,) in cursor.execute(say.failed).fetchall()]
    for id in ids:
        # Under ids of their own: the old ones lie behind what was sent already.
        connection.execute(say.again, (int(now * 1e6), id))
        connection.execute(say.drop, (id,))
    return len(ids)


async def retry_async(connection: aiosqlite.Connection, say: Statements, now: float) -> int:
    """The same through aiosqlite."""
    _in_transaction(connection)
    cursor = await connection.cursor()
    cursor.row_factory = None
    await cursor.execute(say.failed)
    ids = [id for (id,) in await cursor.fetchall()]
    for id in ids:
        await connection.execute(say.again, (int(now * 1e6), id))
        await connection.execute(say.drop, (id,))
    return len(ids)


def _in_transaction(connection: sqlite3.Connection | aiosqlite.Connection) -> None:
    alone = connection.isolation_level is None or getattr(connection, "autocommit", None) is True
    if alone and not connection.in_transaction:
        raise ConfigurationError(
            "outbox: the connection is in autocommit mode and no transaction is open, so nothing would keep the message"
            " and your own rows together; execute BEGIN first, or connect without isolation_level=None"
        )


def _values(now: float, kind: str, target: str, sent: Outgoing) -> tuple[Any, ...]:
    options = {name: value for name, each in OPTIONS.items() if (value := getattr(sent, name)) != each.default}
    kept = [msgspec.msgpack.encode(each) if each else None for each in (sent.attributes, sent.headers, options)]
    return int(now * 1e6), kind, target, sent.body, *kept


def refuse_store(application: int, noun: str = "outbox") -> None:
    """ConfigurationError: this database, by its application id, is a store."""
    if application == APPLICATION_ID:
        raise ConfigurationError(
            f"{noun}: this database is a store of pipeflow; an outbox lies in the database of your own tables, whose "
            "transactions it is part of"
        )


def new_identity() -> str:
    """What tells an outbox from all others: it is made with the table, and moves with the file."""
    return new_secret(8).hex()


def _identify(connection: sqlite3.Connection, say: Statements, upto: int) -> None:
    connection.execute(say.identify)
    connection.execute(say.name, (new_identity(), upto))


# -- read by the relay ------------------------------------------------------------------------------------------------


class SqliteOutbox:
    """An outbox as the relay sees it, over a connection with a thread of its own."""

    def __init__(self, path: Path, table: str) -> None:
        self._path = path
        self._say = Statements(table)
        self._connection: Connection | None = None
        self._seen = -1

    async def open(self) -> None:
        path = self._path

        def connector() -> sqlite3.Connection:
            return sqlite3.connect(str(path), timeout=BUSY, isolation_level=None, check_same_thread=False)

        try:
            connection = self._connection = Connection(connector, iter_chunk_size=64)
            await connection
            application = await connection.run(lambda connection: connection.execute(APPLICATION).fetchone()[0])
            refuse_store(application, f"outbox {path}")
        except sqlite3.DatabaseError as error:
            await self.close()
            if isinstance(error, sqlite3.OperationalError) and "unable to open" not in str(error):
                raise NotNow(f"outbox {path}: {error}") from error
            raise ConfigurationError(
                f"outbox {path}: {error}; name the SQLite file that your own tables lie in"
            ) from error
        except ConfigurationError:
            await self.close()
            raise

    async def identity(self, upto: int) -> tuple[str, int] | None:
        return await self._run(lambda connection: self._identity(connection, upto))

    def _identity(self, connection: sqlite3.Connection, upto: int) -> tuple[str, int] | None:
        say = self._say
        if not connection.execute(EXISTS, (say.table,)).fetchone()[0]:
            # Whoever writes the first message makes it: the relay takes no lock before there is something to do.
            return None
        found = None
        if connection.execute(EXISTS, (f"{say.table}_identity",)).fetchone()[0]:
            found = connection.execute(say.identity).fetchone()
        if found is None:
            # The program made the table itself, or an older pipeflow did, or the first to write rolled back.
            transact(connection, lambda: _identify(connection, say, upto))
            found = connection.execute(say.identity).fetchone()
        return str(found[0]), int(found[1])

    async def read(self, after: int, again: bool) -> Sequence[OutboxRow] | None:
        return await self._run(lambda connection: self._rows(connection, after, again))

    def _rows(self, connection: sqlite3.Connection, after: int, again: bool) -> list[OutboxRow] | None:
        (version,) = connection.execute(CHANGES).fetchone()
        if version == self._seen and not again:
            return None
        rows: list[OutboxRow] = []
        size = 0
        try:
            cursor = connection.execute(self._say.read, (after,))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            # Whoever writes the first message makes it: the relay takes no lock before there is something to do.
            self._seen = version
            return rows
        for values in cursor:
            rows.append(_row(*values))
            size += len(rows[-1].message.body)
            if len(rows) >= ROWS or size >= BYTES:
                break
        # An open cursor would keep the program's writers waiting.
        cursor.close()
        self._seen = version
        return rows

    async def set_aside(self, id: int, reason: str) -> None:
        await self._run(lambda connection: connection.execute(self._say.set_aside, (reason, id)))

    async def forget(self, upto: int) -> None:
        def delete(connection: sqlite3.Connection) -> int:
            connection.execute(PATIENCE.format(int(BUSY_TIDYING * 1000)))
            try:
                return connection.execute(self._say.forget, (upto, ROWS)).rowcount
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return 0
            finally:
                connection.execute(PATIENCE.format(int(BUSY * 1000)))

        # In pieces: between two of them the program's writers have their turn.
        while await self._run(delete) >= ROWS:
            pass

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            await self.open()
        assert self._connection is not None
        try:
            return await self._connection.run(work)
        except sqlite3.DatabaseError as error:
            raise NotNow(f"outbox {self._path}: {error}") from error


def _row(id: int, kind: Any, target: Any, body: Any, attributes: Any, headers: Any, options: Any) -> OutboxRow:
    try:
        if kind not in ("topic", "queue"):
            raise ValueError(f"its kind is {kind!r}; use topic or queue")
        # A trigger of the program may write rows too: text is what SQL has at hand.
        content = body.encode() if isinstance(body, str) else bytes(body)
        chosen = msgspec.convert(_mapping(options) or {}, _Options)
        message = Outgoing(content, _mapping(attributes), _mapping(headers), **msgspec.structs.asdict(chosen))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return OutboxRow(id, "queue", str(target), Outgoing(b""), f"unreadable: {error}")
    return OutboxRow(id, kind, str(target), message)


def _mapping(kept: Any) -> dict[str, Any] | None:
    """What was written as msgpack by `write`, or as JSON by hand."""
    if kept is None:
        return None
    if isinstance(kept, str):
        return msgspec.json.decode(kept, type=dict[str, Any])
    return msgspec.msgpack.decode(kept, type=dict[str, Any])
