"""Damage of the logs of a store that was not closed: refused by name where acknowledged commits would be lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.errors import StoreCorrupt
from pipeflow.messages import Delivery, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

TOPOLOGY = Topology(queues=(QueueSpec("work"),))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1000.0)


async def opened(path: Path, clock: VirtualClock, options: str = "") -> Store:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock)
    await store.declare(TOPOLOGY)
    return store


def killed(path: Path, name: str) -> Path:
    return copy_killed(path, path.with_name(name))


async def take(store: Store, queue: str, limit: int = 10) -> Sequence[Delivery]:
    return await store.receive(queue, Want(limit))


async def test_a_flipped_bit_in_the_middle_of_the_log_is_refused_not_swallowed(
    tmp_path: Path, clock: VirtualClock
) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    for n in range(20):
        await store.send("work", [Outgoing(b"message %d" % n)])
    copy = killed(path, "b.db")
    await store.close()
    log = Path(f"{copy}-log")
    content = bytearray(log.read_bytes())
    content[content.index(b"message 10")] ^= 1
    log.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="9 later commits lie behind it"):
        await opened(copy, clock)
    assert Path(f"{log}.damaged").read_bytes() == content
    lossy = await opened(copy, clock, "?accept_loss=1")
    assert [delivery.body for delivery in await take(lossy, "work", 100)] == [b"message %d" % n for n in range(10)]
    # What was given up still lies in the log, under numbers that are given again.
    await lossy.send("work", [Outgoing(b"anew")])
    later = await opened(killed(copy, "c.db"), clock)
    await lossy.close()
    assert [delivery.body for delivery in await take(later, "work", 100)][-1] == b"anew"
    assert (await later.stats()).queues[0].ready == 0
    await later.close()


async def test_a_torn_tail_of_the_log_is_no_damage(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    for n in range(5):
        await store.send("work", [Outgoing(b"message %d" % n)])
    copy = killed(path, "b.db")
    await store.close()
    log = Path(f"{copy}-log")
    content = log.read_bytes()
    log.write_bytes(content[: content.index(b"message 4") + 3])
    again = await opened(copy, clock)
    assert len(await take(again, "work")) == 4
    await again.close()


async def test_a_flipped_bit_in_the_middle_of_the_tables_log_is_refused(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock, "?log_bytes=0")
    for n in range(20):
        await store.send("work", [Outgoing(b"message %d" % n)])
    copy = killed(path, "b.db")
    await store.close()
    log = Path(f"{copy}-wal")
    content = bytearray(log.read_bytes())
    frame = 24 + int.from_bytes(content[8:12])
    content[32 + 24 + frame * (len(content) // frame // 2)] ^= 1
    log.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="later commits lie behind it"):
        await opened(copy, clock)
    lossy = await opened(copy, clock, "?accept_loss=1")
    assert 0 < len(await take(lossy, "work", 100)) < 20
    await lossy.close()


async def test_a_torn_tail_of_the_tables_log_is_no_damage(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock, "?log_bytes=0")
    for n in range(5):
        await store.send("work", [Outgoing(b"message %d" % n)])
    copy = killed(path, "b.db")
    await store.close()
    log = Path(f"{copy}-wal")
    log.write_bytes(log.read_bytes()[:-1000])
    again = await opened(copy, clock)
    assert len(await take(again, "work")) == 4
    await again.close()


async def test_a_log_whose_base_is_missing_in_the_tables_is_refused(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"one")])
    copy = killed(path, "b.db")
    await store.close()
    log = Path(f"{copy}-wal")
    log.write_bytes(log.read_bytes()[:-1000])
    with pytest.raises(StoreCorrupt, match="commit 1 is damaged and 1 later commits lie behind it"):
        await opened(copy, clock)


async def test_a_store_that_was_not_closed_does_not_open_without_its_log(tmp_path: Path, clock: VirtualClock) -> None:
    path = tmp_path / "a.db"
    store = await opened(path, clock)
    await store.send("work", [Outgoing(b"one")])
    copy = killed(path, "b.db")
    await store.close()
    assert not Path(f"{path}-log").exists(), "a closed store is one file"
    Path(f"{copy}-log").unlink()
    with pytest.raises(StoreCorrupt, match=r"commit log b\.db-log is gone"):
        await opened(copy, clock)
    lossy = await opened(copy, clock, "?accept_loss=1")
    assert await take(lossy, "work") == []
    await lossy.close()
