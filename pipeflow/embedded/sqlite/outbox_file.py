"""An outbox as an operator sees it: what waits in the table, what was set aside and why, and what to do about that.

It is looked at from any process, beside the program that writes and the app that relays; a look writes nothing, and the
file is never made here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from pipeflow.embedded.sqlite.outbox import BUSY, Statements, fits, refuse_store, retry
from pipeflow.errors import ConfigurationError, NotFound, PipeflowError
from pipeflow.outboxes import Aside, Awaiting

APPLICATION: Final = "PRAGMA application_id"
LOOK_ONLY: Final = "PRAGMA query_only = 1"
BEGIN: Final = "BEGIN IMMEDIATE"
AWAITING: Final = """
    SELECT
        kind, target, sum(failure IS NULL), min(CASE WHEN failure IS NULL THEN id END), sum(failure IS NOT NULL)
    FROM {table}
    GROUP BY kind, target
    ORDER BY min(id)
"""
ASIDE: Final = """
    SELECT id, kind, target, length(CAST(body AS BLOB)), failure
    FROM {table}
    WHERE failure IS NOT NULL
    ORDER BY id
"""


class OutboxFile:
    """The outbox of one file. Its calls raise NotFound where file, table or row are not there."""

    def __init__(self, path: Path, table: str) -> None:
        if not fits(table):
            raise ConfigurationError(f"outbox {path}: table {table!r}; use letters, digits and underscores")
        self._path = path
        self._table = table
        self._say = Statements(table)

    def awaiting(self) -> list[Awaiting]:
        """What lies in it by target, the one with the oldest row first."""
        with self._open(look=True) as connection:
            found = connection.execute(AWAITING.format(table=self._table)).fetchall()
        return [
            Awaiting(str(kind), str(target), pending, oldest / 1e6 if oldest is not None else None, aside)
            for kind, target, pending, oldest, aside in found
        ]

    def aside(self) -> list[Aside]:
        """Every row that was set aside, in the order of their ids."""
        with self._open(look=True) as connection:
            found = connection.execute(ASIDE.format(table=self._table)).fetchall()
        return [
            Aside(id, str(kind), str(target), size, id / 1e6, str(failure)) for id, kind, target, size, failure in found
        ]

    def retry(self, ids: Collection[int] | None, now: float) -> int:
        """Put rows that were set aside at the end of the outbox, all of them for None; how many. One transaction."""
        with self._open(look=False) as connection:
            chosen = self._chosen(connection, ids)
            return retry(connection, self._say, now, chosen)

    def discard(self, ids: Collection[int] | None) -> int:
        """Delete rows that were set aside, all of them for None; how many. One transaction."""
        with self._open(look=False) as connection:
            chosen = self._chosen(connection, ids)
            connection.executemany(self._say.drop, [(id,) for id in chosen])
            return len(chosen)

    def _chosen(self, connection: sqlite3.Connection, ids: Collection[int] | None) -> list[int]:
        aside = [id for (id,) in connection.execute(self._say.failed)]
        if ids is None:
            return aside
        unknown = sorted(set(ids).difference(aside))
        if unknown:
            raise NotFound(
                f"outbox {self._path}: row {unknown[0]} is not set aside; pipeflow outbox ls {self._path} lists those"
            )
        return sorted(set(ids))

    @contextmanager
    def _open(self, *, look: bool) -> Iterator[sqlite3.Connection]:
        path = self._path
        if not path.is_file():
            what = "this is no file" if path.exists() else "there is no such file"
            raise NotFound(f"outbox {path}: {what}; name the SQLite file of your own tables")
        try:
            with closing(self._connected()) as connection:
                refuse_store(connection.execute(APPLICATION).fetchone()[0], f"outbox {path}")
                connection.execute(LOOK_ONLY if look else BEGIN)
                yield connection
                if not look:
                    connection.commit()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                raise NotFound(
                    f"outbox {path}: it has no table {self._table}: no message was written there yet, or the table is "
                    "called something else: --table NAME"
                ) from error
            if "no such column" in str(error):
                raise NotFound(
                    f"outbox {path}: its table {self._table} is no outbox; name another: --table NAME"
                ) from error
            raise PipeflowError(f"outbox {path}: {error}; end what holds the database, and ask again") from error
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(
                f"outbox {path}: {error}; name the SQLite file that your own tables lie in"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        # Without a mode SQLite would make the file anew if it went away meanwhile.
        place = f"{self._path.resolve().as_uri()}?mode=rw"
        return sqlite3.connect(place, uri=True, timeout=BUSY, isolation_level=None)
