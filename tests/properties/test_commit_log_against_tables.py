"""The commit log comes to what the tables would be without it: the same groups, in two stores, cut off anywhere.

The log's halves are so small that each holds a few groups, so that every step of putting them into the tables is met
by kills: before it, after some rows of it, after all of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.journal import DELAYED_BIT, PLACE_BITS, Counters, Declared, FrozenGroup, Known, TopicCounters
from pipeflow.embedded.sqlite import ahead as ahead_module
from pipeflow.embedded.sqlite import recovery
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.embedded.sqlite.statements import INSERT_COLUMNS
from pipeflow.errors import Indeterminate
from pipeflow.specs import TopicSpec

encode = msgspec.msgpack.encode

SMALL = 2 * 4096
TABLES = {
    "messages": "key, due, grp, held, expires, kept, head, crc, body, shared",
    "bodies": "number, refs, body",
    "queue_counters": "number, counters",
    "topic_counters": "number, counters",
    "known": "scope, digest, at, id, sequence",
    "sources": "name, position",
    "nouns": "kind, name, number, spec",
}
State = dict[str, list[Any]]


class Groups:
    """Groups that could be: a message is inserted once, changes, moves between the regions, and goes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.at = 0
        self.bodies = 0
        self.alive: dict[int, int | None] = {}
        """By key: its shared body."""

    def next(self) -> FrozenGroup:
        random = self.random
        self.at += 1
        group = FrozenGroup(
            inserts=[], updates=[], deletes=[], bodies={}, claims={}, releases={}, topics=[], known=[], sources={},
            queues=[(1, encode(Counters(sent=self.at)))], streams=[], declared=[], damaged=[], rewritten={}, audit=[],
            clock=float(self.at), sync=False,
        )  # fmt: skip
        untouched = list(self.alive)
        random.shuffle(untouched)
        for n in range(random.choice((0, 1, 3, 12))):
            self.insert(group, self.at * 100 + n)
        for _ in range(random.choice((0, 1, 5))):
            if untouched:
                self.change(group, untouched.pop())
        oldest_first = random.random() < 0.7
        for _ in range(random.choice((0, 1, 4, 12))):
            if untouched:
                key = min(untouched) if oldest_first else untouched[-1]
                untouched.remove(key)
                shared = self.alive.pop(key)
                group.deletes.append(key)
                if shared is not None:
                    group.releases[shared] = group.releases.get(shared, 0) + 1
        if random.random() < 0.2:
            group.topics.append((2, encode(TopicCounters(published=self.at))))
            group.known.append(Known(1, b"id %d" % random.randrange(9), 1000.0 + self.at, "m", self.at))
            group.sources[f"source {random.randrange(3)}"] = b"%d" % self.at if self.at % 4 else None
        if random.random() < 0.05:
            name = f"t{random.randrange(3)}"
            group.declared.append(Declared("topic", name, self.at, encode(TopicSpec(name))))
        return group

    def insert(self, group: FrozenGroup, place: int) -> None:
        shared = None
        if self.random.random() < 0.2:
            self.bodies += self.random.random() < 0.5 or not self.bodies
            shared = self.bodies
            group.bodies[shared] = b"shared", group.bodies.get(shared, (b"", 0))[1] + 1
        key = 1 << PLACE_BITS | place
        body = bytes(self.random.randrange(300)) if shared is None else None
        kept = self.random.choice((None, float(self.at)))
        group.inserts += (key, None, "g", None, 9.0, kept, b"head %d" % self.at, self.at, body, shared)
        self.alive[key] = shared

    def change(self, group: FrozenGroup, old: int) -> None:
        key = old ^ DELAYED_BIT if self.random.random() < 0.5 else old
        due = self.at + 5.0 if key & DELAYED_BIT else None
        others = ("h", float(self.at), 1.0) if key != old or self.random.random() < 0.2 else ("?", 0.0, None)
        group.updates.append((key, due, None, b"changed %d" % self.at, self.at, old, *others))
        self.alive[key] = self.alive.pop(old)


_opened: list[SqliteJournal] = []


@pytest.fixture(autouse=True)
async def nothing_left_open() -> AsyncIterator[None]:
    yield
    while _opened:
        await _opened.pop().close(clean=False)


async def opened(path: Path, log_bytes: int, durability: str = "full") -> SqliteJournal:
    journal = SqliteJournal(path, VirtualClock(1000.0), durability=durability, log_bytes=log_bytes, min_free=0)
    _opened.append(journal)
    await journal.recover()
    return journal


async def state_of(journal: SqliteJournal) -> State:
    def read(connection: sqlite3.Connection) -> State:
        return {
            table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608  # above
            for table, columns in TABLES.items()
        }

    return await journal.read(read)


def killed(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    return copy_killed(path, copy)


async def revived(path: Path, copy: str) -> State:
    """What a kill right now leaves, opened twice: the second time it is killed again, right after it opened."""
    first = killed(path, f"{copy}.db")
    journal = await opened(first, SMALL)
    second = killed(first, f"{copy}-again.db")
    state = await state_of(journal)
    await journal.close(clean=False)
    journal = await opened(second, SMALL)
    assert await state_of(journal) == state
    await journal.close(clean=True)
    for left in path.parent.glob(f"{copy}*"):
        left.unlink()
    return state


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize("seed", range(3))
async def test_kills_between_groups_leave_what_the_tables_would_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, durability: str
) -> None:
    monkeypatch.setattr(ahead_module, "_SLICE", 1)
    monkeypatch.setattr(ahead_module, "PART", 2)
    random = Random(seed)
    groups = Groups(random)
    plain = await opened(tmp_path / "plain.db", 0, durability)
    logged = await opened(tmp_path / "logged.db", SMALL, durability)
    for _ in range(150):
        group = groups.next()
        await plain.commit(group)
        await logged.commit(group)
        what = random.random()
        if what < 0.1:
            assert await state_of(logged) == await state_of(plain)
        elif what < 0.3:
            await logged.write_behind()
            if what < 0.2:
                await logged._run(logged._settle_part)
            assert await revived(tmp_path / "logged.db", "killed") == await state_of(plain)
        elif what < 0.35:
            await logged.close(clean=random.random() < 0.5)
            logged = await opened(tmp_path / "logged.db", SMALL, durability)
    await plain.close(clean=True)
    await logged.close(clean=True)


@pytest.mark.parametrize("seed", range(12))
async def test_a_write_that_is_cut_off_anywhere_leaves_a_whole_number_of_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(ahead_module, "_SLICE", 1)
    random = Random(seed)
    groups = Groups(random)
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", SMALL)
    writes_left = random.randrange(5, 80)
    write = os.pwrite

    def torn(fd: int, data: memoryview, at: int) -> int:
        nonlocal writes_left
        writes_left -= 1
        if writes_left:
            return write(fd, data[: random.randrange(1, len(data) + 1)], at)
        write(fd, data[: random.randrange(len(data))], at)
        raise OSError(errno.EIO, "the disk is gone")

    before = await state_of(plain)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", torn)
        while True:
            group = groups.next()
            before = await state_of(plain)
            await plain.commit(group)
            try:
                await logged.commit(group)
            except Indeterminate:
                break
    after = await state_of(plain)
    state = await revived(tmp_path / "logged.db", "killed")
    assert state in (before, after)
    await plain.close(clean=True)
    await logged.close(clean=False)


async def test_a_full_disk_commits_in_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(Random(1))
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", SMALL)

    def full(fd: int, data: memoryview, at: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    for turn in range(30):
        group = groups.next()
        await plain.commit(group)
        with monkeypatch.context() as patched:
            if turn % 3 == 1:
                patched.setattr(os, "pwrite", full)
            await logged.commit(group)
        assert await revived(tmp_path / "logged.db", "killed") == await state_of(plain)
    await plain.close(clean=True)
    await logged.close(clean=True)


class Disk:
    """What of the two logs of a store is on the disk for certain; the rest of them may be there or not."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.synced = {"-wal": b"", "-log": b""}
        sync, transact = os.fdatasync, recovery.transact

        def synced(fd: int) -> None:
            sync(fd)
            file = os.readlink(f"/proc/self/fd/{fd}")
            if file.startswith(str(path)):
                self.synced[file.removeprefix(str(path))] = Path(file).read_bytes()

        def transacted(connection: sqlite3.Connection, work: Any) -> Any:
            result = transact(connection, work)
            (_, _, file) = connection.execute("PRAGMA database_list").fetchone()
            if file == str(path) and connection.execute("PRAGMA synchronous").fetchone() == (2,):
                self.synced["-wal"] = Path(f"{path}-wal").read_bytes()
            return result

        monkeypatch.setattr(os, "fdatasync", synced)
        monkeypatch.setattr(recovery, "transact", transacted)

    def cut(self, name: str, random: Random) -> Path:
        """The files after a power cut at this moment: of each log all, nothing or any blocks of what was not synced."""
        copy = self.path.with_name(name)
        for suffix in ("", ".lock"):
            shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        for suffix, synced in self.synced.items():
            written = Path(f"{self.path}{suffix}").read_bytes()
            chance = random.choice((0.0, 0.5, 1.0))
            left = bytearray(synced.ljust(len(written), b"\0"))
            for start in range(0, len(written), 512):
                if random.random() < chance:
                    left[start : start + 512] = written[start : start + 512]
            Path(f"{copy}{suffix}").write_bytes(left)
        return copy


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize("seed", range(3))
async def test_power_cuts_leave_every_group_that_was_synced_and_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, durability: str
) -> None:
    monkeypatch.setattr(ahead_module, "_SLICE", 1)
    monkeypatch.setattr(ahead_module, "PART", 2)
    random = Random(seed)
    groups = Groups(random)
    plain = await opened(tmp_path / "plain.db", 0, "normal")
    with monkeypatch.context() as patched:
        disk = Disk(tmp_path / "logged.db", patched)
        logged = await opened(tmp_path / "logged.db", SMALL, durability)
        states = [await state_of(plain)]
        safe = 0
        for number in range(1, 70):
            group = groups.next()
            await plain.commit(group)
            group.sync = random.random() < 0.1
            await logged.commit(group)
            states.append(await state_of(plain))
            what = random.random()
            if what < 0.1:
                await logged.idle()
            elif what < 0.15:
                await state_of(logged)
            elif what < 0.25:
                await logged._run(logged._settle_part)
            if logged.idle_at == inf:
                safe = number
            if what > 0.7:
                copy = disk.cut("cut.db", random)
                again = await opened(copy, SMALL, durability)
                state = await state_of(again)
                assert state in states[safe:], f"group {safe} was synced, {number} was the last"
                await again.close(clean=True)
                for left in tmp_path.glob("cut.db*"):
                    left.unlink()
        await plain.close(clean=True)
        await logged.close(clean=True)


async def test_no_row_goes_into_the_tables_before_its_group_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(Random(5))
    with monkeypatch.context() as patched:
        disk = Disk(tmp_path / "logged.db", patched)
        logged = await opened(tmp_path / "logged.db", SMALL, "normal")
        while logged._folding is None:
            await logged.commit(groups.next())
        await logged.write_behind()
        log = logged._ahead._log
        older = slice(log.half - log._base, 2 * log.half - log._base)
        assert disk.synced["-log"][older].ljust(log.half, b"\0") == log.path.read_bytes()[older].ljust(log.half, b"\0")
        await logged.close(clean=True)


async def test_rows_of_a_slice_that_fails_are_still_to_be_put_into_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(Random(3))
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", SMALL)

    write = logged._tables.write

    def failing(connection: sqlite3.Connection, group: FrozenGroup, now: float) -> None:
        if not group.queues:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        write(connection, group, now)

    monkeypatch.setattr(logged._tables, "write", failing)
    while logged._folding is None:
        group = groups.next()
        await plain.commit(group)
        await logged.commit(group)
    with pytest.raises(sqlite3.OperationalError):
        await asyncio.shield(logged._folding)
    state = await state_of(plain)
    assert await state_of(logged) == state, "of a reader that comes before the next commit fails"
    assert await revived(tmp_path / "logged.db", "killed") == state
    await plain.close(clean=True)
    await logged.close(clean=False)


async def test_commits_go_between_the_parts_that_a_reader_has_put_into_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "PART", 4)
    groups = Groups(Random(2))
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", 1 << 20)
    while logged._ahead.parts() < 5:
        group = groups.next()
        group.declared.clear()
        await plain.commit(group)
        await logged.commit(group)
    reading = asyncio.create_task(state_of(logged))
    await asyncio.sleep(0)
    group = groups.next()
    await plain.commit(group)
    await logged.commit(group)
    assert not reading.done()
    assert logged._ahead.parts()
    assert await reading == await state_of(plain)
    await plain.close(clean=True)
    await logged.close(clean=True)


async def test_changes_and_known_ids_go_into_the_tables_in_parts_as_rows_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(Random(6))
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", 1 << 20)
    for _ in range(40):
        group = groups.next()
        await plain.commit(group)
        await logged.commit(group)
    assert await state_of(logged) == await state_of(plain)
    for number, key in enumerate(list(groups.alive)[:30]):
        group = groups.next()
        for each in (group.inserts, group.updates, group.deletes, group.bodies, group.releases, group.declared):
            each.clear()
        group.updates.append((key, None, None, b"changed", 7, key, "?", 0.0, None))
        group.known.append(Known(1, b"another %d" % number, 1000.0, "m", number))
        await plain.commit(group)
        await logged.commit(group)
    monkeypatch.setattr(ahead_module, "PART", 4)
    parts: list[int] = []
    write = logged._tables.write

    def counted(connection: sqlite3.Connection, group: FrozenGroup, now: float) -> None:
        parts.append(len(group.updates) + len(group.known) + len(group.inserts) // INSERT_COLUMNS + len(group.deletes))
        write(connection, group, now)

    monkeypatch.setattr(logged._tables, "write", counted)
    assert await state_of(logged) == await state_of(plain)
    assert sum(parts) >= 60
    assert max(parts) <= 4
    await plain.close(clean=True)
    await logged.close(clean=True)


async def test_a_part_has_no_more_bytes_than_fit_in_a_small_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "PART_BYTES", 500)
    groups = Groups(Random(2))
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", 1 << 20)
    written: list[int] = []
    write = logged._tables.write

    def counted(connection: sqlite3.Connection, group: FrozenGroup, now: float) -> None:
        written.append(sum(len(body or b"") for body in group.inserts[8::INSERT_COLUMNS]))
        write(connection, group, now)

    for _ in range(60):
        group = groups.next()
        group.declared.clear()
        await plain.commit(group)
        await logged.commit(group)
    assert logged._ahead._younger.bytes == sum(len(row[8] or b"") for row in logged._ahead._younger.rows.values())
    assert logged._ahead._younger.bytes > 2000
    monkeypatch.setattr(logged._tables, "write", counted)
    assert await state_of(logged) == await state_of(plain)
    assert max(written) <= 800
    await plain.close(clean=True)
    await logged.close(clean=True)


async def test_a_shared_body_that_comes_and_goes_is_not_kept_for_the_tables(tmp_path: Path) -> None:
    groups = Groups(Random(1))
    logged = await opened(tmp_path / "logged.db", SMALL)
    groups.bodies = 1
    came, went = groups.next(), groups.next()
    for group in (came, went):
        group.inserts.clear()
        group.bodies.clear()
        group.releases.clear()
    came.bodies[7] = b"shared", 2
    went.releases[7] = 1
    await logged.commit(came)
    await logged.commit(went)
    assert logged._ahead._younger.bodies
    await logged.commit(went)
    assert not logged._ahead._younger.bodies
    assert not logged._ahead._younger.releases
    assert (await state_of(logged))["bodies"] == []
    await logged.close(clean=True)


async def test_a_half_ends_when_it_deletes_or_changes_so_many_rows_that_putting_them_there_would_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(Random(4))
    logged = await opened(tmp_path / "logged.db", 1 << 20)
    for _ in range(60):
        await logged.commit(groups.next())
    keys = [row[0] for row in (await state_of(logged))["messages"]]
    monkeypatch.setattr(ahead_module, "MOST_ROWS", 10)
    nothing = msgspec.structs.replace(
        groups.next(), inserts=[], updates=[], deletes=[], bodies={}, releases={}, declared=[]
    )
    for column in ("updates", "deletes"):
        base = logged._ahead._log._base
        for key in keys[:11]:
            change = (key, None, None, b"changed", 1, key, "?", 0.0, None) if column == "updates" else key
            await logged.commit(msgspec.structs.replace(nothing, **{column: [change]}))
        assert logged._ahead._log._base != base
    await logged.close(clean=True)


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", [5, 9, 27])
async def test_kills_while_a_start_puts_the_log_into_the_tables_leave_what_they_would_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Also where a part of it was there already when the first kill came."""
    monkeypatch.setattr(ahead_module, "_SLICE", 1)
    monkeypatch.setattr(ahead_module, "PART", 2)
    random = Random(seed)
    groups = Groups(random)
    plain = await opened(tmp_path / "plain.db", 0)
    logged = await opened(tmp_path / "logged.db", SMALL)
    put, parts_left, left = SqliteJournal._put_some, 0, tmp_path / "left.db"

    def dying(journal: SqliteJournal, *part: Any) -> None:
        nonlocal parts_left
        parts_left -= 1
        if not parts_left:
            copy_killed(journal.path, left)
            raise _Killed
        put(journal, *part)

    kills = 0
    for _ in range(8):
        for _ in range(random.randrange(1, 12)):
            group = groups.next()
            group.declared.clear()
            await plain.commit(group)
            await logged.commit(group)
            if random.random() < 0.3:
                await logged.write_behind()
                await logged._run(logged._settle_part)
        await logged.write_behind()
        copy = killed(tmp_path / "logged.db", "0.db")
        with monkeypatch.context() as patched:
            patched.setattr(SqliteJournal, "_put_some", dying)
            for parts in random.sample(range(1, 9), 3):
                parts_left = parts
                try:
                    await (await opened(copy, SMALL)).close(clean=False)
                except _Killed:
                    kills += 1
                    copy = copy_killed(left, tmp_path / f"{kills}.db")
        again = await opened(copy, SMALL)
        assert await state_of(again) == await state_of(plain)
        await again.close(clean=True)
    assert kills > 8
    await plain.close(clean=True)
    await logged.close(clean=True)
