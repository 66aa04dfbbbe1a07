"""The journal on one SQLite file: a group is one hop to the connection's thread, one write to a log, one fsync.

Messages are committed in an append-only log, and the tables are its checkpoint (`sqlite.ahead`); whatever else changes
is committed in the tables, in one transaction with all that the log told before. `durability=full` syncs with every
commit. `normal` lets commits return before, and syncs at least every 100 ms, so that a power cut loses a suffix of at
most that and never a hole. A commit that fails poisons the journal: nothing is acknowledged after it, and no fsync is
tried again and called a success.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import TypeVar

from pipeflow.clock import Clock
from pipeflow.embedded.journal import (
    DELAYED_BIT,
    NO_STARTS,
    PLACE_BITS,
    PLACE_MASK,
    FrozenGroup,
    Heads,
    Known,
    Loaded,
    Met,
    Recovered,
    Way,
)
from pipeflow.embedded.keys import BEHIND_KEYS
from pipeflow.embedded.sqlite import recovery, statements, wal
from pipeflow.embedded.sqlite.ahead import LOG_BYTES, Ahead
from pipeflow.embedded.sqlite.commitlog import NoRoom
from pipeflow.embedded.sqlite.connection import Connection, connect
from pipeflow.embedded.sqlite.loading import loaded
from pipeflow.embedded.sqlite.ownership import Lock, check_place, keep_damaged, make_file
from pipeflow.embedded.sqlite.pending import Pending
from pipeflow.embedded.sqlite.room import BALLAST, LOG_PIECE, MIN_FREE, Room, is_full
from pipeflow.embedded.sqlite.writing import Tables, delete
from pipeflow.errors import Indeterminate, PipeflowError, StoreCorrupt, Unavailable
from pipeflow.messages import Claim

T = TypeVar("T")

SYNC_INTERVAL = 0.08
"""Seconds until unsynced commits are synced: with the sync itself, less than the promised 100 ms."""
_FRAMES_OFFSET = 16
"""Where the WAL index holds the number of valid frames (SQLite file format, WAL-index header)."""


class SqliteJournal:
    """Remembers groups in `path`. Owns the file's lock, its connection and the connection's thread."""

    instant = False

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        durability: str = "full",
        min_free: int = MIN_FREE,
        accept_loss: bool = False,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self.path = path
        self.durability = durability
        self._clock = clock
        self._room = Room(path, min_free)
        self._accept_loss = accept_loss
        self.aside: Path | None = path.with_name(path.name + "-claims")
        self._lock = Lock(path)
        self._connection: Connection | None = None
        self._failed: PipeflowError | None = None
        self._ahead = Ahead(path, log_bytes)
        self._tables = Tables()
        self._folding: asyncio.Future[None] | None = None
        self._unsynced = False
        """A group that the log did not take is in the tables only, and not on the disk yet."""
        self._wal = -1
        self._wal_index = -1
        self.idle_at = inf
        """When commits of `normal` that lie in the log unsynced must be synced."""

    @property
    def full(self) -> bool:
        """The disk is nearly full: sends are refused, deletes still fit."""
        return self._room.full

    # -- life ----------------------------------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        check_place(self.path)
        last = self._lock.acquire(self.durability)
        try:
            created = make_file(self.path)
            if last != "normal":
                # Commits that were not synced may lie in the log in any order after a power cut; no damage shows there.
                self._look_at_wal()
            self._connection = connect(self.path)
            await self._connection
            recovered = await self._run(lambda connection: self._open(connection, created, synced=last != "normal"))
        except BaseException:
            await self._disconnect()
            self._lock.release()
            raise
        return recovered

    def _look_at_wal(self) -> None:
        """Refuse to lose acknowledged commits in silence: SQLite would end a damaged log without a word."""
        found = wal.commits_behind_damage(self._beside("-wal"))
        if found is None:
            return
        frame, commits = found
        for suffix in ("", "-wal", "-log"):
            keep_damaged(self._beside(suffix))
        if not self._accept_loss:
            raise StoreCorrupt(
                f"{self.path}-wal: frame {frame} is damaged and {commits} later commits lie behind it; copies were put"
                f" beside it as *.damaged. Restore a backup, or open with ?accept_loss=1 to go on without them"
            )

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _open(self, connection: sqlite3.Connection, created: bool, *, synced: bool) -> Recovered:
        try:
            self._with_ballast(lambda: recovery.prepare(connection, self.path, created))
            self._room.measure(connection)
            self._ahead.take_over(connection, synced=synced, accept_loss=self._accept_loss)
            self._wal = os.open(self._beside("-wal"), os.O_RDONLY | os.O_CLOEXEC)
            self._wal_index = os.open(self._beside("-shm"), os.O_RDONLY | os.O_CLOEXEC)
            self._settle(connection)
            recovered = self._with_ballast(
                lambda: recovery.recover(connection, self.path, self._clock.now(), self._ahead.begin())
            )
        except sqlite3.DatabaseError as error:
            raise self._translated(error) from error
        if self.durability == "normal":
            connection.execute("PRAGMA synchronous = NORMAL")
        self._look_at_space(connection)
        return recovered

    async def close(self, clean: bool) -> None:
        if self._connection is None:
            return
        try:
            if clean and self._failed is None:
                await self.write_behind()
                try:
                    await self._run(self._close_clean)
                except sqlite3.OperationalError as error:
                    if not is_full(error):
                        raise self._translated(error) from error
                    # All of it is in the logs: the next start does what there was no room for.
        finally:
            await self._disconnect()
            self._lock.release()

    def _close_clean(self, connection: sqlite3.Connection) -> None:
        self._settle(connection)
        self._room.lay_ballast(0)
        connection.execute("PRAGMA synchronous = FULL")
        facts = [("clean", 1), ("clock", self._clock.now())]
        self._transact(connection, lambda: connection.executemany(statements.PUT_FACT, facts))
        self._ahead.close(remove=True)
        self._with_ballast(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        self._ahead.close(remove=False)
        # Closing any descriptor of the WAL index drops SQLite's own locks on it: only after SQLite is done.
        for fd in (self._wal, self._wal_index):
            if fd >= 0:
                os.close(fd)
        self._wal = self._wal_index = -1

    async def _run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise Unavailable(f"{self.path}: the store is closed")
        return await self._connection.run(function)

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What the function returns, when the tables hold everything."""

        def read(connection: sqlite3.Connection) -> T:
            self._settle(connection)
            return function(connection)

        try:
            for _ in range(self._ahead.parts()):  # commits go between them, so no more than there are now
                await self._run(self._settle_part)
            return await self._run(read)
        except sqlite3.DatabaseError as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.DatabaseError) -> PipeflowError:
        if is_full(error):
            return Unavailable(f"{self.path}: {self._remedy()}. What was acknowledged is kept")
        return recovery.translated(self.path, error)

    def _remedy(self) -> str:
        mib = -(-(self._ahead.room + 2 * BALLAST) >> 20)
        return f"the disk of {self.path.parent} is full; free {mib} MiB on it, then start again"

    # -- writing -------------------------------------------------------------------------------------------------

    async def commit(self, group: FrozenGroup) -> None:
        if self._failed is not None:
            raise self._failed
        now = self._clock.now()
        try:
            if not self._log_at_once(group, now):
                await self.write_behind()
                await self._run(lambda connection: self._commit(connection, group, now))
            if self._ahead.due and not self.full and self._connection is not None:
                self._folding = self._connection.start(self._fold)
        except (sqlite3.Error, OSError) as error:
            why = self._remedy() if is_full(error) else f"{error}; repair the disk, then start again"
            self._failed = Unavailable(
                f"{self.path}: a commit failed, so the store is closed: {why}. What was acknowledged is kept"
            )
            raise Indeterminate(
                f"{self.path}: the commit failed, and may or may not have been stored: {why}, and send again with the"
                " same dedup id"
            ) from error

    def _log_at_once(self, group: FrozenGroup, now: float) -> bool:
        """Log a group here and now, when nothing has to be synced and the thread does nothing; whether it was.

        The way to the thread and back is what a caller alone would wait for most of the time.
        """
        if self.durability == "full" or group.sync or now >= self.idle_at:
            return False
        if self._folding is not None or self._connection is None or self._connection.busy:
            return False
        if self.full or self._tables.written >= self._room.look_at:
            return False  # it is time to look at the disk's room
        try:
            size = self._ahead.append(group, sync=False)
        except NoRoom:
            return False
        self._tables.written += size
        if size and self.idle_at == inf:
            self.idle_at = now + SYNC_INTERVAL
        return size > 0

    async def write_behind(self) -> None:
        """Return when what goes into the tables beside the commits is there, or raise why it is not."""
        folding, self._folding = self._folding, None
        if folding is not None:
            await folding

    def _commit(self, connection: sqlite3.Connection, group: FrozenGroup, now: float) -> None:
        sync = self.durability == "full" or group.sync or now >= self.idle_at
        if sync and self._unsynced:
            # The groups behind it are in the log, where they are worth nothing without it.
            self._sync_tables()
        size = self._log(connection, group, sync)
        if size:
            self._tables.written += size
        else:
            while self._settle_part(connection):
                pass
            self._put_synced(connection, [*self._ahead.all(), group], self._ahead.number + 1, sync)
            self._ahead.settled(self._ahead.number + 1)
            self._unsynced = not sync
            self._checkpoint_when_long(connection)
        if sync:
            self.idle_at = inf
        elif self.idle_at == inf:
            self.idle_at = now + SYNC_INTERVAL
        if self._tables.written >= self._room.look_at or self.full:
            self._look_at_space(connection)

    def _log(self, connection: sqlite3.Connection, group: FrozenGroup, sync: bool) -> int:
        """In the ballast's room if need be: what is drained then goes without having been in the tables. 0: there."""
        while True:
            try:
                return self._ahead.append(group, sync=sync, turn=lambda: self._complete(connection))
            except NoRoom:
                if not self._room.release_ballast(LOG_PIECE):
                    return 0

    def _put(self, connection: sqlite3.Connection, groups: Sequence[FrozenGroup], number: int) -> None:
        now = self._clock.now()
        for group in groups:
            self._tables.write(connection, group, now)
        connection.execute(statements.PUT_FACT, ("folded", number))

    def _put_synced(
        self, connection: sqlite3.Connection, groups: Sequence[FrozenGroup], number: int, sync: bool
    ) -> None:
        """Put groups into the tables, after which they hold every group up to this number."""
        change = sync and self.durability == "normal"
        if change:
            connection.execute("PRAGMA synchronous = FULL")
        self._transact(connection, lambda: self._put(connection, groups, number))
        if change:
            connection.execute("PRAGMA synchronous = NORMAL")

    def _settle(self, connection: sqlite3.Connection) -> None:
        """Have the tables hold everything."""
        ahead = self._ahead
        if ahead.empty:
            return
        while self._settle_part(connection):
            pass
        self._put_synced(connection, ahead.all(), ahead.number, sync=False)
        ahead.settled(ahead.number)
        self._checkpoint_when_long(connection)

    def _settle_part(self, connection: sqlite3.Connection) -> bool:
        """Have the tables hold a part of what they do not; False when all that is left is one part."""
        ahead = self._ahead
        if not ahead.parts(few=self.full):
            return False
        if self.durability != "full":
            # What goes there alone comes from groups that are on the disk, and what is left out was deleted by such.
            ahead.sync()
        part = ahead.part(few=self.full)
        if part is not None:
            self._put_some(connection, *part)
            return True
        rest = ahead.older()
        if rest is None:
            return False
        self._put_synced(connection, [rest], ahead.folded, sync=False)
        ahead.completed()
        self._checkpoint_when_long(connection)
        return True

    def _fold(self, connection: sqlite3.Connection) -> None:
        """Put some of the older half into the tables; it counts as there when all of it is."""
        pending, some = self._ahead.some()
        if pending.size:  # else somebody had everything put there meanwhile
            self._put_some(connection, pending, some)

    def _put_some(self, connection: sqlite3.Connection, pending: Pending, some: FrozenGroup) -> None:
        self._transact(connection, lambda: self._tables.write(connection, some, self._clock.now()))
        pending.forget(some)
        self._checkpoint_when_long(connection)

    def _complete(self, connection: sqlite3.Connection) -> None:
        """Have the tables hold all of the older half, durably: the log goes on where it lies."""
        # The younger half is the older one from now on: no row of it goes into the tables before it is on the disk.
        self._ahead.sync()
        if self._room.free < self._ahead.room + BALLAST:
            self._room.full = True
        while self.full and self._ahead.folded and (part := self._ahead.part(few=True)) is not None:
            self._put_some(connection, *part)
        rest = self._ahead.older()
        if rest is None:
            self._sync_tables()
            return
        self._put_synced(connection, [rest], self._ahead.folded, sync=True)
        self._checkpoint_when_long(connection)

    def _transact(self, connection: sqlite3.Connection, work: Callable[[], T]) -> T:
        """One transaction. On a full disk it is tried again in the ballast's room: rolled back, it left nothing."""
        return self._with_ballast(lambda: recovery.transact(connection, work))

    def _with_ballast(self, work: Callable[[], T]) -> T:
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if not is_full(error) or not self._room.release_ballast():
                    raise

    def _checkpoint_when_long(self, connection: sqlite3.Connection) -> None:
        if int.from_bytes(os.pread(self._wal_index, 4, _FRAMES_OFFSET), sys.byteorder) < self._room.checkpoint_frames:
            return
        try:
            self._with_ballast(lambda: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
        except sqlite3.OperationalError as error:
            # No room in the file for what the log holds: all of it is safe in the log, which goes on growing until
            # there is room, or none for the log either.
            if not is_full(error):
                raise
            self._room.full = True

    def _look_at_space(self, connection: sqlite3.Connection) -> None:
        """See what room there is, and do without the commit log where there may be none to put it into the tables."""
        self._tables.written = 0
        room, ahead = self._room, self._ahead
        short = room.look(connection, ahead.room) < 2 * ahead.size
        if short and not ahead.empty:
            if room.free >= 2 * (ahead.room + BALLAST):
                self._settle(connection)
            else:
                room.full = True  # others were faster: it takes deletes until it is empty or there is room
        ahead.resting = short and ahead.empty
        room.lay_ballast(ahead.room)

    async def idle(self) -> None:
        if self.idle_at != inf and self._failed is None:
            await self._run(self._sync)

    def _sync(self, connection: sqlite3.Connection) -> None:
        # Commits of `normal` lie in the files already; what is missing is only their fsync, the tables' first: what the
        # log told before may be theirs alone.
        self._sync_tables()
        self._ahead.sync()
        self.idle_at = inf

    def _sync_tables(self) -> None:
        os.fdatasync(self._wal)
        self._unsynced = False

    # -- reading -------------------------------------------------------------------------------------------------

    async def load(self, queue: int, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        base = queue << PLACE_BITS
        values = (base | after, base | DELAYED_BIT, limit)
        return await self._read(lambda connection: loaded(connection, statements.LOAD_READY, values, most_bytes))

    async def load_delayed(self, queue: int, due: float, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        base = (queue << PLACE_BITS) | DELAYED_BIT

        def read(connection: sqlite3.Connection) -> Loaded:
            found = loaded(connection, statements.LOAD_DELAYED, (queue, due, base | after, limit), most_bytes)
            if found.last:
                # The last row may be damaged: what it says of itself is not asked.
                (found.due,) = connection.execute(statements.DUE, (base | found.last,)).fetchone()
            return found

        return await self._read(read)

    async def load_of_groups(self, queue: int, groups: Sequence[tuple[str, int]], limit: int) -> list[Loaded]:
        base = queue << PLACE_BITS

        def read(connection: sqlite3.Connection) -> list[Loaded]:
            wanted = [(queue, group, base | after, limit) for group, after in groups]
            return [loaded(connection, statements.LOAD_GROUP, values) for values in wanted]

        return await self._read(read)

    async def pass_over(self, queue: int, after: int, here: Collection[str], groups: int, limit: int) -> Met:
        base = queue << PLACE_BITS

        def read(connection: sqlite3.Connection) -> Met:
            met = Met({})
            with closing(connection.execute(statements.PASS_OVER, (base | after, base | DELAYED_BIT, limit))) as rows:
                for key, group in rows:
                    met.rows += 1
                    met.last = key & PLACE_MASK
                    if group in met.first:
                        continue
                    met.first[group] = met.last
                    met.others += group not in here
                    if met.others == groups:
                        break
            return met

        return await self._read(read)

    async def load_groups(
        self,
        queue: int,
        after: str,
        skip: Sequence[str],
        upto: int,
        groups: int,
        limit: int,
        starts: Mapping[str, int] = NO_STARTS,
    ) -> Loaded:
        passed_over = frozenset(skip)

        def read(connection: sqlite3.Connection) -> Loaded:
            found = Loaded([], damaged=[])
            # Names of keys come before those of all groups.
            group, count = after or BEHIND_KEYS, 0
            while count < groups:
                row = connection.execute(statements.NEXT_GROUP, (queue, group)).fetchone()
                if row is None:
                    break
                group = row[0]
                if group in passed_over:
                    continue
                begin = queue << PLACE_BITS | starts.get(group, upto)
                more = loaded(connection, statements.LOAD_GROUP, (queue, group, begin, limit))
                count += bool(more.messages)
                found.messages += more.messages
                found.damaged += more.damaged
            return found

        return await self._read(read)

    async def load_ending(self, queue: int, way: Way, after: tuple[float, int], limit: int) -> Heads:
        base = queue << PLACE_BITS
        values = (base | after[1], base | DELAYED_BIT, limit) if way == "place" else (queue, *after, limit)
        statement = statements.LOAD_ENDING[way]
        return await self._read(lambda connection: recovery.read_heads(connection.execute(statement, values), way))

    async def load_keyed(self, queue: int, names: Sequence[str]) -> Loaded:
        def read(connection: sqlite3.Connection) -> Loaded:
            found = Loaded([], damaged=[])
            for name in names:
                newest = loaded(connection, statements.LOAD_KEYED, (queue, name))
                found.messages += newest.messages
                found.damaged += newest.damaged
            return found

        return await self._read(read)

    async def bodies(self, messages: Sequence[tuple[int, int]]) -> list[bytes | None]:
        def read(connection: sqlite3.Connection) -> list[bytes | None]:
            bodies: list[bytes | None] = []
            for row, _ in messages:
                found = connection.execute(statements.BODY, (row,)).fetchall()
                read, _damaged = recovery.read_messages(connection, [(row, *columns) for columns in found])
                bodies.append(read[0].body if read else None)
            return bodies

        return await self._read(read)

    async def known(self, wanted: Sequence[tuple[int, bytes]], since: float) -> list[Known]:
        def read(connection: sqlite3.Connection) -> list[Known]:
            found = (connection.execute(statements.FIND_KNOWN, (*each, since)).fetchone() for each in wanted)
            return [Known(*row) for row in found if row is not None]

        return await self._read(read)

    async def read(self, question: Callable[..., T], *arguments: object) -> T:
        return await self._read(lambda connection: question(connection, *arguments))

    async def sweep(self, queue: int, upto: int, limit: int) -> int:
        base = queue << PLACE_BITS

        def sweep(connection: sqlite3.Connection) -> int:
            swept = 0
            for region in (base, base | DELAYED_BIT):
                rows = connection.execute(statements.SWEEP_SHARED, (region, region | upto, limit)).fetchall()
                delete(connection, [key for key, _ in rows])
                shared = [(1, number) for _, number in rows if number is not None]
                connection.executemany(statements.RELEASE_BODY, shared)
                connection.executemany(statements.DELETE_BODY, [(number,) for _, number in shared])
                swept += len(rows)
            return swept

        def transact(connection: sqlite3.Connection) -> int:
            swept = self._transact(connection, lambda: sweep(connection))
            self._checkpoint_when_long(connection)
            return swept

        return await self._read(transact)

    def has_room(self, size: int) -> bool:
        return self._room.has_room(size)

    async def doomed(self, after: int, upto: int, limit: int) -> list[tuple[int, Claim | None]]:
        def read(connection: sqlite3.Connection) -> list[tuple[int, Claim | None]]:
            rows = connection.execute(statements.DOOMED, (after, upto, limit)).fetchall()
            return [(number, recovery.decode_claim(claim)) for number, claim in rows]

        return await self._read(read)

    async def last_doomed(self) -> int:
        return await self._read(lambda connection: connection.execute(statements.LAST_DOOMED).fetchone()[0] or 0)

    async def undoom(self, numbers: Sequence[int]) -> None:
        values = [(number,) for number in numbers]

        def write(connection: sqlite3.Connection) -> None:
            self._transact(connection, lambda: connection.executemany(statements.UNDOOM, values))

        await self._read(write)

    async def check(self) -> list[str]:
        """What SQLite's own quick check finds wrong; empty when nothing."""
        rows = await self._read(lambda connection: connection.execute("PRAGMA quick_check(20)").fetchall())
        return [row[0] for row in rows if row[0] != "ok"]
