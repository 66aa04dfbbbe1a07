"""Deleting a stream: refused while it is in use or holds something; whole, and its name free, when it is done."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeflow import App
from pipeflow.embedded.remote import connect
from pipeflow.engine.replay import Replay, Target, replayed
from pipeflow.errors import NotFound, RefusedError
from pipeflow.files import FileQuery
from pipeflow.messages import Outgoing
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/s.db"


def app_of(tmp_path: Path, **options: Any) -> App:
    app = App("shop", broker=url(tmp_path))
    app.stream("lake", bytes, sink="memory://lake", delimiter=b"\n", **options)
    app.queue("work", bytes)
    return app


async def delivered(tmp_path: Path, sink: MemorySink) -> None:
    """Two records in a file, and a replay of it."""
    app = app_of(tmp_path)
    async with app.running(sinks={"lake": sink}) as runtime:
        await app.streams[0].put_many([b"a", b"b"])
        await app.streams[0].flush()
        await app.streams[0].replay(to=app.queues[0])
        with pytest.raises(RefusedError, match=r"process \d+ runs an app that delivers it; stop the app"):
            await runtime.store.delete_stream("lake")


async def test_S9_a_deleted_stream_leaves_its_files_and_nothing_else_and_its_name_is_free(tmp_path: Path) -> None:
    sink = MemorySink()
    await delivered(tmp_path, sink)
    store = await open_store(url(tmp_path))
    assert await store.delete_stream("lake") == 0
    with pytest.raises(NotFound):
        await store.append("lake", [Outgoing(b"c")])
    with pytest.raises(NotFound, match="there is no stream lake"):
        await store.delete_stream("lake")
    assert (await store.describe()).streams == ()
    await store.close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        held = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}  # noqa: S608  # its own
    # How far its numbers went stays: a new stream of its name must not write over what the old one left.
    assert {name for name, rows in held.items() if name.startswith("record_") and rows} == {"record_counters"}
    assert held["sources"] == []
    assert "lake" not in repr(held["nouns"])
    assert list(sink.objects)

    await delivered(tmp_path, sink)
    assert len(sink.objects) == 2
    store = await open_store(url(tmp_path))
    (stats,) = (await store.stats()).streams
    assert (stats.accepted, stats.delivered, stats.objects) == (2, 2, 1)
    (file,) = await store.files("lake", FileQuery())
    assert (file.first, file.last) == (3, 4)
    await store.close()


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S9_what_waits_is_lost_only_when_that_is_asked_for(tmp_path: Path, durability: Any) -> None:
    store = await open_store(url(tmp_path))
    spec = StreamSpec("lake", "memory://lake", durability=durability, partitioned=True)
    await store.declare(Topology(streams=(spec,)))
    await store.append("lake", [Outgoing(b"a"), Outgoing(b"b", partition="p")])
    lane = store.lane("lake")
    assert lane is not None
    with pytest.raises(RefusedError, match="2 records wait in it; run its app once"):
        await store.delete_stream("lake")
    assert await store.delete_stream("lake", drop=True) == 2
    with pytest.raises(NotFound):
        lane.add([b"c"])
    await store.declare(Topology(streams=(spec,)))
    await store.append("lake", [Outgoing(b"new")])
    await store.close()
    store = await open_store(url(tmp_path))
    (stats,) = (await store.stats()).streams
    assert (stats.accepted, stats.buffered) == ((1, 1) if durability is None else (0, 0))
    await store.close()


async def test_S9_a_stream_that_is_deleted_and_declared_anew_in_one_commit_is_a_new_one(tmp_path: Path) -> None:
    store = await open_store(url(tmp_path))
    topology = Topology(streams=(StreamSpec("lake", "memory://lake"),))
    await store.declare(topology)
    await store.append("lake", [Outgoing(b"a")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.delete_stream, "lake", True)
        tasks.start_soon(store.declare, topology)
        tasks.start_soon(store.append, "lake", [Outgoing(b"new"), Outgoing(b"newer")])
    await store.close()
    store = await open_store(url(tmp_path))
    (stats,) = (await store.stats()).streams
    assert (stats.accepted, stats.buffered) == (2, 2)
    await store.close()


async def test_S9_whoever_waits_for_room_in_a_deleted_stream_is_told(tmp_path: Path) -> None:
    store = await open_store(url(tmp_path))
    await store.declare(Topology(streams=(StreamSpec("lake", "memory://lake", buffer_bytes=10, max_buffered=10),)))
    await store.append("lake", [Outgoing(b"0123456789")])
    told: list[str] = []

    async def waiting(call: Any) -> None:
        try:
            await call
        except NotFound as error:
            told.append(str(error))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting, store.append("lake", [Outgoing(b"more")]))
            tasks.start_soon(waiting, store.delivered("lake"))
            await anyio.lowlevel.checkpoint()
            await store.delete_stream("lake", drop=True)
    assert [each.partition(";")[0] for each in told] == ["no stream 'lake'"] * 2
    await store.close()


async def test_S9_what_feeds_a_stream_keeps_it(tmp_path: Path) -> None:
    store = await open_store(url(tmp_path))
    topology = Topology(
        topics=(TopicSpec("orders"),),
        queues=(QueueSpec("work"),),
        streams=(StreamSpec("lake", "memory://lake", backup="kept"), StreamSpec("kept", "memory://kept")),
        subscriptions=(Subscription("orders", "stream", "lake"),),
    )
    await store.declare(topology)
    with pytest.raises(RefusedError, match="stream lake: topic orders still feeds it"):
        await store.delete_stream("lake")
    with pytest.raises(RefusedError, match="stream kept: stream lake still feeds it"):
        await store.delete_stream("kept")
    await store.declare(Topology(topics=topology.topics, streams=(StreamSpec("lake", "memory://lake"),)))
    await store.delete_stream("kept")
    await store.delete_stream("lake")
    await store.close()


async def test_S9_a_stream_is_deleted_through_the_owners_socket_too(tmp_path: Path) -> None:
    owner = await open_store(url(tmp_path))
    await owner.declare(Topology(streams=(StreamSpec("lake", "memory://lake"),), queues=(QueueSpec("work"),)))
    client: Store = await connect(tmp_path / "s.db.sock", url(tmp_path), owner.clock)
    await client.append("lake", [Outgoing(b"a")])
    with pytest.raises(RefusedError, match="1 records wait"):
        await client.delete_stream("lake")
    assert await client.delete_stream("lake", drop=True) == 1
    with pytest.raises(NotFound, match="no stream 'lake'"):
        await replayed(Replay("lake", Target("queue", "work")), client, owner.clock)
    await client.close()
    await owner.close()
