"""The commit point ahead of the tables: groups go into the log at once, and into the tables later and merged.

The half of the log that is written is the younger one, and what the older one told goes into the tables meanwhile, a
few rows at a time, in time to be written over when the younger one is full. A message that is consumed before that
never reaches the tables. Whoever reads the tables has everything put there first (`settle`).

The fact "folded" is the number of the last group that the tables hold whole: it changes in the transaction that
completes a half. Rows that were put there before it are put there again after a crash, and come to the same.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pipeflow.embedded.journal import FrozenGroup
from pipeflow.embedded.sqlite import commitlog, statements
from pipeflow.embedded.sqlite.commitlog import HEADER, LEAST_HALF, SALT_BYTES, CommitLog
from pipeflow.embedded.sqlite.logged import decode, encode_into, logged
from pipeflow.embedded.sqlite.ownership import keep_damaged, unusable
from pipeflow.embedded.sqlite.pending import Pending
from pipeflow.errors import StoreCorrupt
from pipeflow.names import new_secret

LOG_BYTES: Final = 64 << 20
"""Both halves together: at least as long as the messages that a hot queue has in memory."""
LEAST_BYTES: Final = 2 * LEAST_HALF
MOST_BYTES: Final = 1 << 30
"""Memory may have as many bytes of bodies that are still to go into the tables, and a start reads as many."""
MOST_ROWS: Final = 20_000
"""Rows of one half that are still to be inserted, of which memory keeps the bodies, changed or deleted."""
AT_ONCE: Final = 128 << 10
"""Bytes that are written on the loop when nothing has to be synced: that takes as long as a few steps of it."""
PART: Final = 1000
"""Rows that go into the tables at once when somebody wants to read them, of PART_BYTES at most."""
FEW: Final = 100
"""As many when the disk is full: what they change of large bodies fits in the ballast's room."""
PART_BYTES: Final = 2 << 20
_SLICE: Final = 128
"""Rows that go into the tables between two groups, at least; several times as many as the group brought."""
_TIMES: Final = 4


class Ahead:
    """The log of one open store, and what it tells that the tables do not hold."""

    def __init__(self, path: Path, log_bytes: int) -> None:
        self._log = CommitLog(path.with_name(path.name + "-log"), log_bytes // 2)
        self._store = path
        self.size = log_bytes
        """Bytes of both halves; 0: every group goes into the tables at once."""
        self.resting = False
        """Groups go into the tables at once until further notice."""
        self.number = 0
        """Of the last group, wherever it was written."""
        self._older = Pending()
        self._younger = Pending()
        self._buffer = bytearray()
        self._brought = 0
        """Rows that the last group brought."""

    # -- life ----------------------------------------------------------------------------------------------------

    def take_over(self, connection: sqlite3.Connection, *, synced: bool, accept_loss: bool) -> None:
        """Read what the log of the last owner tells that the tables do not hold; the caller puts it there.

        `synced`: the last owner had each group on disk before the next.
        """
        facts: dict[str, Any] = dict(connection.execute(statements.LOG_FACTS).fetchall())
        self.number = int(facts.get("folded", 0))
        if "log_salt" not in facts or facts.get("clean"):
            return
        path = self._log.path
        half, salt, left = facts["log_half"], facts["log_salt"], Pending()
        try:
            with path.open("rb", buffering=0) as file:
                for payload in commitlog.payloads(file.fileno(), half, salt, self.number):
                    self.number += 1
                    left.take(decode(payload), self.number, None, again=True)
                behind = commitlog.whole(file.fileno(), half, salt, self.number + 1) if synced else 0
                # It goes into the tables in parts: none of them may be there without the group that it is from.
                os.fsync(file.fileno())
        except FileNotFoundError:
            if accept_loss:
                return
            raise StoreCorrupt(
                f"{self._store} was not closed, and its commit log {path.name} is gone; put it back beside the store,"
                " or open with ?accept_loss=1 to go on without what only the log held"
            ) from None
        except OSError as error:
            raise unusable(path, error) from error
        if behind:
            keep_damaged(path)
            if not accept_loss:
                raise StoreCorrupt(
                    f"{path}: commit {self.number + 1} is damaged and {behind} later commits lie behind"
                    " it; a copy was put beside it as *.damaged. Restore a backup, or open with ?accept_loss=1 to go"
                    " on without them"
                )
        self._older = left

    def begin(self) -> list[tuple[str, Any]]:
        """Open the log for a new life; the facts that are to be written before the first group."""
        salt = new_secret(SALT_BYTES)
        try:
            self._log.open(salt)
        except OSError as error:
            raise unusable(self._log.path, error) from error
        return [("log_salt", salt), ("log_half", self._log.half), ("folded", self.number)]

    def close(self, *, remove: bool) -> None:
        """Let go of the log; `remove` it when the tables hold everything and say so."""
        self._log.close(remove=remove)

    # -- groups --------------------------------------------------------------------------------------------------

    def append(self, group: FrozenGroup, *, sync: bool, turn: Callable[[], None] | None = None) -> int:
        """Log a group; its bytes. 0: the log does not take it, and it has to go into the tables. NoRoom as well.

        `turn` is to complete the older half in the tables, durably: the younger one is full. Without it nothing is done
        that takes longer than a write of AT_ONCE bytes.
        """
        frame = logged(group) if self.size and not self.resting else None
        if frame is None:
            return 0
        buffer = self._buffer
        encode_into(frame, buffer, HEADER)
        if len(buffer) > self._log.half or (turn is None and len(buffer) > AT_ONCE):
            return 0
        if not self._log.has_room(len(buffer)) or self._younger.touched >= MOST_ROWS:
            if turn is None:
                return 0
            turn()
            self._log.turn()
            self._older, self._younger = self._younger, Pending()
        number = self.number + 1
        self._log.frame(number, buffer)
        self._log.append(buffer)
        if sync:
            self._log.sync()
        self.number = number
        self._younger.take(frame, number, self._older)
        self._brought = len(frame.inserts) // statements.INSERT_COLUMNS
        return len(buffer)

    def sync(self) -> None:
        """Return when every group in the log is on the disk."""
        self._log.sync()

    # -- into the tables -----------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """The tables hold everything."""
        return not (self._older.last or self._younger.last)

    @property
    def room(self) -> int:
        """Bytes that what the tables do not hold may take there."""
        return self._older.room + self._younger.room

    @property
    def due(self) -> bool:
        """Whether it is time to put some of the older half into the tables."""
        if not self._older.size:
            return False
        return self._log.used > self._log.half * 3 // 4 or self._younger.touched > MOST_ROWS * 3 // 4

    def some(self) -> tuple[Pending, FrozenGroup]:
        """What of the older half goes into the tables next, beside the groups."""
        return self._older, self._older.some(max(_SLICE, self._brought * _TIMES), PART_BYTES)

    def parts(self, *, few: bool = False) -> int:
        """How many of `part` there are, about; 0 when everything is no more than one."""
        pending, rows = (self._older, self._younger), FEW if few else PART
        return max(sum(each.size for each in pending) // rows, sum(each.bytes for each in pending) // PART_BYTES)

    def part(self, *, few: bool) -> tuple[Pending, FrozenGroup] | None:
        """What goes into the tables next when all is to; None when no more than that is left of a half.

        The older half goes first, whole: the younger one deletes what it moved.
        """
        rows = FEW if few else PART
        pending = self._older if self._older.last else self._younger
        large = pending.size > rows or pending.bytes > PART_BYTES
        return (pending, pending.some(rows, PART_BYTES)) if large else None

    def older(self) -> FrozenGroup | None:
        """The rest of the older half, which completes it; None when the tables hold it."""
        return self._older.rest() if self._older.last else None

    def completed(self) -> None:
        """The tables hold the older half."""
        self._older = Pending()

    def all(self) -> list[FrozenGroup]:
        """Everything that the tables do not hold, in order."""
        return [pending.rest() for pending in (self._older, self._younger) if pending.last]

    @property
    def folded(self) -> int:
        """Number of the last group of the older half: the fact for when it is complete."""
        return self._older.last

    def settled(self, number: int) -> None:
        """The tables hold every group up to this one."""
        self.number = number
        self._older, self._younger = Pending(), Pending()
