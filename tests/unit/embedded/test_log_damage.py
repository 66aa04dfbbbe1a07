"""Damage of the logs of a store that was not closed: refused by name where acknowledged commits would be lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.embedded.sqlite.commitlog import HEADER, SALT_BYTES, CommitLog, payloads, whole
from pipeflow.errors import ConfigurationError, StoreCorrupt
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


async def test_frames_behind_damage_are_found_wherever_they_begin(tmp_path: Path) -> None:
    """The file is looked through a window at a time: a mark that lies across two of them is none that is missed."""
    log = CommitLog(tmp_path / "log", 4 << 20)
    log.open(b"salt salt"[:SALT_BYTES])
    for number in range(1, 9):
        frame = bytearray(HEADER) + bytes(300_000 + number)
        log.frame(number, frame)
        log.append(frame)
    log.close(remove=False)
    content = bytearray(log.path.read_bytes())
    content[10] ^= 1
    for pad in (0, 1, *range((1 << 20) - 20, (1 << 20) + 3)):
        # The second frame begins `pad` bytes later, and nothing lies between.
        second = HEADER + 300_001
        log.path.write_bytes(content[:second] + bytes(pad) + content[second:])
        with log.path.open("rb") as file:
            assert [*payloads(file.fileno(), 4 << 20, log.salt, 0)] == []
            assert whole(file.fileno(), 4 << 20, log.salt, 1) == 7
            assert whole(file.fileno(), 4 << 20, log.salt, 5) == 4


async def test_one_frame_of_the_log_is_in_memory_at_a_time(tmp_path: Path) -> None:
    half = 8 << 20
    log = CommitLog(tmp_path / "log", half)
    log.open(bytes(SALT_BYTES))
    number = 0
    for _ in range(2):
        for _ in range(7):
            number += 1
            frame = bytearray(HEADER) + bytes(1 << 20)
            log.frame(number, frame)
            log.append(frame)
        log.turn()
    log.close(remove=False)
    tracemalloc.start()
    with log.path.open("rb") as file:
        assert sum(len(each) for each in payloads(file.fileno(), half, log.salt, 0)) == 14 << 20
        assert whole(file.fileno(), half, log.salt, 1) == 14
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


@pytest.mark.parametrize("log_bytes", ["1", "8191", str((1 << 30) + 1), "9" * 30])
async def test_a_size_that_no_log_can_have_is_refused_with_the_limits(tmp_path: Path, log_bytes: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"log_bytes is {log_bytes}; use 8192 .* to 1073741824 .* or 0 for"):
        await open_store(f"sqlite:///{tmp_path}/a.db?log_bytes={log_bytes}")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("log_bytes", ["-1", "64MiB", "\N{SUPERSCRIPT TWO}", ""])
async def test_a_size_that_is_no_number_is_refused(tmp_path: Path, log_bytes: str) -> None:
    with pytest.raises(ConfigurationError, match=r"log_bytes is .* use a whole number"):
        await open_store(f"sqlite:///{tmp_path}/a.db?log_bytes={log_bytes}")
