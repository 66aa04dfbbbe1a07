"""An outbox where something is in the way, of its database, of the disk or of the store: nothing is lost or held up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from outbox_shop import Shop, ids

from pipeflow import Indeterminate, Unavailable
from pipeflow.embedded.opening import Kept
from pipeflow.errors import ObjectRefused, SinkUnavailable
from pipeflow.protocols import Object
from pipeflow.sinks.file import FileSink
from pipeflow.testing import harness


async def test_a_writer_that_holds_the_database_keeps_rows_from_being_deleted_and_none_from_being_sent(
    shop: Shop,
) -> None:
    connection = shop.connect()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    async with harness(shop.app) as h:
        shop.place(1)
        await h.settle()
        holder = shop.connect(isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        await h.advance(10)
        assert len(shop.rows()) == 1
        holder.execute("COMMIT")
        shop.place(2)
        holder.execute("BEGIN IMMEDIATE")
        await h.settle()
        assert ids(h, shop.billing) == [1, 2]
        holder.execute("ROLLBACK")
        holder.close()
        await h.advance(3)
        assert shop.rows() == []


async def test_a_database_that_cannot_be_read_is_looked_at_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.embedded.sqlite.outbox.BUSY", 0.05)
    async with harness(shop.app) as h:
        shop.place(1)
        await h.settle()
        holder = shop.connect(isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        await h.advance(12)
        holder.execute("COMMIT")
        holder.close()
        shop.place(2)
        await h.advance(10)
        assert ids(h, shop.billing) == [1, 2]
        assert shop.rows() == []


async def test_a_full_disk_holds_rows_up_and_sets_none_aside(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with harness(shop.app) as h:
        monkeypatch.setattr("pipeflow.embedded.journal.Forget.full", True)
        shop.place(1, 2)
        await h.advance(60)
        assert (ids(h, shop.billing), shop.rows("failure")) == ([], [None, None])
        monkeypatch.setattr("pipeflow.embedded.journal.Forget.full", False)
        await h.advance(10)
        assert ids(h, shop.billing) == [1, 2]


async def test_a_large_body_that_cannot_be_kept_aside_now_is_sent_later(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = shop.app.queue("blobs", bytes)

    async def fails(self: FileSink, obj: Object) -> None:
        raise SinkUnavailable("the disk is away")

    async with harness(shop.app, store=f"sqlite:///{tmp_path}/shop.db") as h:
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, "write", fails)
            connection = shop.connect()
            shop.outbox.send(connection, blobs, b"x" * (3 << 20))
            connection.commit()
            connection.close()
            await h.advance(20)
        await h.advance(6)
        assert (len(await h.runtime.store.peek("blobs")), shop.rows("failure")) in ((1, [None]), (1, []))


async def test_a_large_body_that_may_not_be_kept_aside_is_set_aside_alone(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = shop.app.queue("blobs", bytes)

    async def refuses(self: FileSink, obj: Object) -> None:
        raise ObjectRefused("403")

    def put(*bodies: bytes) -> None:
        connection = shop.connect()
        for body in bodies:
            shop.outbox.send(connection, blobs, body)
        connection.commit()
        connection.close()

    async def sizes() -> list[int]:
        return [seen.size for seen in await h.runtime.store.peek("blobs")]

    async with harness(shop.app, store=f"sqlite:///{tmp_path}/shop.db") as h:
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, "write", refuses)
            put(b"a", b"bb", bytes(3 << 20), b"ccc", bytes(2 << 20), b"dddd")
            await h.advance(10)
            assert await sizes() == [1, 2, 3, 4]
            assert shop.rows("length(body)") == [3 << 20, 2 << 20]
            assert all("may not be kept aside: 403" in reason for reason in shop.rows("failure"))
        connection = shop.connect()
        assert shop.outbox.retry(connection) == 2
        connection.commit()
        connection.close()
        await h.advance(10)
        assert await sizes() == [1, 2, 3, 4, 3 << 20, 2 << 20]


async def test_a_store_that_failed_ends_the_program_and_not_only_the_relay(shop: Shop, tmp_path: Path) -> None:
    async def run() -> None:
        async with shop.app.running(broker=f"sqlite:///{tmp_path}/other.db") as runtime:
            assert isinstance(runtime.store, Kept)
            shop.place(1)
            await runtime.relays[0].caught_up()
            runtime.store.fail(Indeterminate("the disk broke"))
            shop.place(2)
            await runtime.stopped()

    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="the store failed"):
            await run()
    assert shop.rows("failure") == [None, None]


async def test_a_large_body_goes_through_the_outbox(shop: Shop, tmp_path: Path) -> None:
    blobs = shop.app.queue("blobs", bytes)
    async with harness(shop.app, store=f"sqlite:///{tmp_path}/shop.db") as h:
        connection = shop.connect()
        shop.outbox.send(connection, blobs, b"x" * (3 << 20))
        connection.commit()
        connection.close()
        await h.advance(1)
        (seen,) = await h.runtime.store.peek("blobs")
        assert seen.size == 3 << 20
