"""The catalogue of delivered files: which hold which records, asked of the journal, of memory, and by socket."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.embedded.records import Committed
from pipeflow.embedded.remote import RemoteStore
from pipeflow.embedded.sqlite import catalogue, streams
from pipeflow.embedded.sqlite.volatile import Volatile
from pipeflow.errors import NotFound
from pipeflow.files import FileFacts, FileQuery
from pipeflow.messages import Manifest, ObjectFacts, Segment
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import StreamSpec, Topology

VERSION_1 = Path(__file__).with_name("version_1.sql")


def facts(first: int, last: int, *, partition: str = "", at: float = 100.0, retired: bool = False) -> FileFacts:
    """One file; opened ten seconds before it was delivered."""
    return FileFacts(
        f"{partition}/{first}-{last}", partition, "rows", first, last, last - first + 1, 10, 7, 99, "jsonl", "gzip", 0,
        at - 10, at, retired_at=at + 1 if retired else None,
    )  # fmt: skip


def tables(files: Sequence[FileFacts]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for table in catalogue.TABLES:
        connection.execute(table)
    for file in files:
        catalogue.insert(connection, "lake", file)
        catalogue.insert(connection, "pond", file)
    return connection


def asked(connection: sqlite3.Connection, **conditions: object) -> list[tuple[int, int]]:
    query = FileQuery(**conditions)  # type: ignore[arg-type]  # built from keywords
    return [(file.first, file.last) for file in catalogue.files(connection, "lake", query)]


def test_the_files_that_hold_a_range_are_found_also_where_a_wide_one_begins_far_before_it() -> None:
    files = [facts(1, 1000, partition="a"), *(facts(n, n + 9, partition="b") for n in range(2, 900, 20))]
    assert asked(tables(files), first=500, last=505) == [(1, 1000), (502, 511)]
    assert asked(tables(files), first=500, last=505, partition="b") == [(502, 511)]
    assert asked(tables(files), first=1001) == []
    assert asked(tables(files), last=1) == [(1, 1000)]


def test_pages_follow_each_other_without_a_gap_also_between_files_that_begin_alike() -> None:
    connection = tables([facts(5, 9, partition=f"p{n}") for n in range(7)])
    found, after = [], None
    while page := catalogue.files(connection, "lake", FileQuery(after=after, limit=3)):
        found += [file.name for file in page]
        after = page[-1].cursor
    assert found == [f"p{n}/5-9" for n in range(7)]


def test_times_take_every_file_that_may_hold_records_of_between_them() -> None:
    connection = tables([facts(1, 1, at=100.0), facts(2, 2, at=200.0), facts(3, 3, at=300.0)])
    assert asked(connection, since=200.0) == [(2, 2), (3, 3)]
    assert asked(connection, since=150.0, until=195.0) == [(2, 2)]
    assert asked(connection, until=190.0) == [(1, 1), (2, 2)]
    assert asked(connection, until=189.9) == [(1, 1)]
    assert asked(connection, since=301.0) == []


def test_retired_files_are_told_when_they_are_asked_for() -> None:
    connection = tables([facts(1, 1, retired=True), facts(2, 2)])
    assert asked(connection) == [(2, 2)]
    assert asked(connection, retired=True) == [(1, 1), (2, 2)]


some = st.integers(min_value=1, max_value=30)
some_files = st.lists(
    st.builds(lambda a, b, p: facts(min(a, b), max(a, b), partition=p), some, some, st.sampled_from("abc")), max_size=12
)  # one strategy


spans = st.builds(lambda a, b: (min(a, b), max(a, b)), some, some)


@given(some_files, spans, st.sampled_from([None, "a"]), st.integers(min_value=1, max_value=5))
def test_what_is_found_is_what_a_look_at_every_file_finds(
    files: list[FileFacts], span: tuple[int, int], partition: str | None, limit: int
) -> None:
    first, last = span
    files = list({file.name: file for file in files}.values())
    connection = tables(files)
    meant = [f for f in files if f.last >= first and f.first <= last and partition in (None, f.partition)]
    found: list[FileFacts] = []
    after = None
    while page := catalogue.files(
        connection, "lake", FileQuery(first, last, None, None, partition, False, after, limit)
    ):
        found += page
        after = page[-1].cursor
    assert found == sorted(meant, key=lambda file: file.cursor)


@asynccontextmanager
async def lake(url: str, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Store, list[FileFacts]]]:
    """A store with a stream of one file of three records, and that file."""
    app = App("shop", broker=url)
    made = app.stream("lake", bytes, sink=f"file://{tmp_path}/lake", **options)
    async with app.running(clock=VirtualClock(1_000.0)) as runtime:
        await made.put_many([b"one", b"two", b"three"])
        await made.flush()
        yield runtime.store, await made.files()


@pytest.mark.parametrize("durability", [None, "memory"])
@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
async def test_a_file_is_told_with_its_range_sizes_checksum_and_times(
    scheme: str, durability: str | None, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/shop.db" if scheme == "sqlite" else "memory://"
    async with lake(url, tmp_path, delimiter=b"\n", durability=durability) as (_, files):
        (file,) = files
        content = (tmp_path / "lake" / file.name).read_bytes()
        assert (file.first, file.last, file.records, file.size, file.crc) == (1, 3, 3, len(content), crc32(content))
        assert (file.raw_size, file.format, file.compression, file.kind) == (14, "raw", "gzip", "rows")
        assert (file.opened_at, file.delivered_at, file.retired_at) == (1_000.0, 1_000.0, None)


async def test_rows_and_what_did_not_fit_are_told_apart(tmp_path: Path) -> None:
    app = App("shop", broker="memory://")
    made = app.stream("lake", dict, sink=f"file://{tmp_path}/lake", format="csv", columns=["id"])
    async with app.running():
        await made.put_many([{"id": 1}, {"id": 2}])
        await made.put([])  # type: ignore[arg-type]  # a record that is no object
        await made.flush()
        told = {file.kind: file for file in await made.files()}
    assert (told["rows"].format, told["rows"].records) == ("csv", 2)
    assert (told["errors"].format, told["errors"].records) == ("jsonl", 1)


async def test_another_process_asks_the_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    async with lake(url, tmp_path) as (_, files):
        remote = RemoteStore(tmp_path / "shop.db.sock", url, VirtualClock())
        await remote.open(0)
        assert await remote.files("lake", FileQuery(2, 2)) == files
        with pytest.raises(NotFound, match="pond"):
            await remote.files("pond", FileQuery())
        await remote.close()


async def test_the_catalogue_outlives_its_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    async with lake(url, tmp_path) as (_, files):
        pass
    store = await open_store(url, clock=VirtualClock(2_000.0))
    assert await store.files("lake", FileQuery()) == files
    await store.close()


def committed(n: int) -> Committed:
    segment = Segment(n, "lake", "", n, n, 1, 10, 0.0, 0.0, "size", f"lake-{n}", "jsonl", "none")
    return Committed(segment, Manifest([ObjectFacts(f"lake-{n}", 10, 1, 1)]), 1.0)


def test_memory_remembers_the_newest_files_only() -> None:
    volatile = Volatile(kept=5)
    for n in range(1, 9):
        volatile.write(committed(n))
    assert [file.first for file in volatile.read(catalogue.files, "lake", FileQuery())] == [4, 5, 6, 7, 8]


# A store of version 1


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1.read_text())
    connection.close()
    return path


async def test_a_store_of_version_1_opens_with_its_files(old: Path) -> None:
    store = await open_store(f"sqlite:///{old}", clock=VirtualClock(1_000.0))
    files = await store.files("lake", FileQuery())
    assert [(file.first, file.last, file.records, file.kind, file.format) for file in files] == [
        (1, 2, 2, "rows", ""),
        (3, 3, 1, "rows", ""),
    ]
    assert all(file.opened_at == file.delivered_at > 0 for file in files)
    (waiting,) = [stream.buffered for stream in (await store.stats()).streams if stream.name == "lake"]
    assert waiting == 1
    await store.declare(Topology(streams=(StreamSpec("lake", "file://./lake"),)))
    await store.close()


async def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    for path in (old, tmp_path / "new.db"):
        await (await open_store(f"sqlite:///{path}", clock=VirtualClock(1_000.0))).close()
    assert shape(old) == shape(tmp_path / "new.db")


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table's columns, and every index as it was made."""
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    # The order of columns differs where some were added later.
    found = {name: sorted(row[1:] for row in connection.execute(f"PRAGMA table_info({name})")) for name in names}
    found[""] = sorted(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql LIKE 'CREATE INDEX%'"))
    connection.close()
    return found


def test_every_table_of_streams_is_made_in_a_new_store() -> None:
    assert set(catalogue.TABLES) <= set(streams.TABLES)
