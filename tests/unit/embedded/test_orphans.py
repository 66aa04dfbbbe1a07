"""Bodies that a crash left aside are found behind the first answers, page by page; none that is needed is taken."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.embedded import orphans
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite import recovery
from pipeflow.errors import SinkUnavailable
from pipeflow.messages import Ack, Outgoing, Want
from pipeflow.registry import open_store
from pipeflow.sinks.file import FileSink
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import ClaimSpec, QueueSpec, Topology

BODIES = [b"%d" % n + b"x" * 2_000 for n in range(30)]


async def opened(path: Path, options: str = "", clock: VirtualClock | None = None) -> Kept:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock or VirtualClock(1000.0))
    assert isinstance(store, Kept)
    await store.declare(Topology(queues=(QueueSpec("q"),), claims=ClaimSpec("", inline_bytes=1_000)))
    return store


def files(path: Path) -> list[Path]:
    """What lies beside the store."""
    return sorted(found for found in path.with_name(f"{path.name}-claims").rglob("*") if found.is_file())


async def until(path: Path, left: Sequence[Path]) -> None:
    """Orphans are deleted while the store works."""
    async with asyncio.timeout(10):
        while files(path) != sorted(left):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


async def with_bodies(path: Path) -> tuple[str, list[Path]]:
    """A store that keeps these aside; its id, and where they lie."""
    store = await opened(path)
    for each in BODIES:
        await store.send("q", [Outgoing(each)])
    await store.close()
    return store.store_id, files(path)


async def taken(store: Kept) -> list[bytes]:
    bodies: list[bytes] = []
    while got := await store.receive("q", Want(10)):
        bodies += [delivery.body for delivery in got]
        await store.settle("q", [Ack(delivery.receipt) for delivery in got])
    return bodies


def leave(path: Path, *names: str) -> list[Path]:
    """Files that a crashed process wrote."""
    place = path.with_name(f"{path.name}-claims")
    for name in names:
        (place / name).write_bytes(b"left")
    return [place / name for name in names]


def unnumbered(path: Path) -> None:
    """Give bodies the names that older versions gave them."""
    writer = sqlite3.connect(path)
    for number, kept in writer.execute("SELECT number, claim FROM bodies").fetchall():
        claim = recovery.decode_claim(kept)
        assert claim is not None
        name = claim.name.replace(f"-n{number:x}-", "-")
        file = path.with_name(f"{path.name}-claims") / claim.name
        file.rename(file.with_name(name))
        new = type(claim)(claim.number, claim.place, name, claim.size, claim.crc, claim.digest)
        writer.execute("UPDATE bodies SET claim = ? WHERE number = ?", (recovery.encode_claim(new), number))
    writer.commit()
    writer.close()


@pytest.mark.parametrize("names", ["numbered", "unnumbered"])
async def test_orphans_go_in_pages_and_nothing_else_does(
    tmp_path: Path, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store_id, kept = await with_bodies(path)
    if names == "unnumbered":
        unnumbered(path)
        kept = files(path)
    boot = f"{store_id}-00000001"
    # Of a number that nobody has, of one that another body has, and of an older version.
    leave(path, f"{boot}-n{10**6:x}-lost", f"{boot}-n1-lost", f"{boot}-lost", f"{boot}-nonsense", f".tmp-{boot}-n2-x")
    stay = leave(path, f"{store_id}-0000ffff-n1-of-a-boot-to-come", "aaaaaaaaaaaa-00000001-n1-of-another-store", "x")
    monkeypatch.setattr(orphans, "PAGE", 4)
    monkeypatch.setattr(orphans, "UNNUMBERED", 7)
    sizes: list[int] = []
    page_of = FileSink.pages

    async def pages(self: FileSink, prefix: str = "", size: int = 1000) -> AsyncGenerator[list[str], None]:
        async for page in page_of(self, prefix, size):
            sizes.append(len(page))
            yield page

    monkeypatch.setattr(FileSink, "pages", pages)
    store = await opened(path)
    await until(path, [*kept, *stay])
    assert max(sizes) == 4
    assert await taken(store) == BODIES
    await until(path, stay)
    await store.close()


async def test_a_store_opens_and_works_before_its_bodies_were_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store_id, kept = await with_bodies(path)
    (orphan,) = leave(path, f"{store_id}-00000001-n{10**6:x}-lost")
    gate, page_of = asyncio.Event(), FileSink.pages

    async def pages(self: FileSink, prefix: str = "", size: int = 1000) -> AsyncGenerator[list[str], None]:
        await gate.wait()
        async for page in page_of(self, prefix, size):
            yield page

    monkeypatch.setattr(FileSink, "pages", pages)
    store = await opened(path)
    (delivery,) = await store.receive("q", Want(1))
    await store.settle("q", [Ack(delivery.receipt)])
    await store.send("q", [Outgoing(BODIES[0])])
    (new,) = set(files(path)) - set(kept) - {orphan}
    await until(path, [*kept[1:], orphan, new])
    gate.set()
    await until(path, [*kept[1:], new])
    assert await taken(store) == [*BODIES[1:], BODIES[0]]
    await store.close()


@pytest.mark.parametrize("names", ["numbered", "unnumbered"])
async def test_a_damaged_pointer_is_taken_for_needed(
    tmp_path: Path, names: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.db"
    store_id, kept = await with_bodies(path)
    if names == "unnumbered":
        unnumbered(path)
        kept = files(path)
    writer = sqlite3.connect(path)
    writer.execute("UPDATE bodies SET claim = x'0011223344' WHERE number = 5")
    writer.commit()
    writer.close()
    numbered, older = leave(path, f"{store_id}-00000001-n{10**6:x}-lost", f"{store_id}-00000001-lost")
    store = await opened(path)
    await until(path, [*kept, older])
    assert not numbered.exists()
    async with asyncio.timeout(10):
        while "damaged" not in caplog.text:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.005)
    await store.close()
    assert set(kept) <= set(files(path))


async def test_an_orphan_is_deleted_only_when_that_it_is_one_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store_id, kept = await with_bodies(path)
    leave(path, f"{store_id}-00000001-n{10**6:x}-lost")
    delete, synced = FileSink.delete, list[bool]()

    async def deleting(self: FileSink, name: str) -> None:
        synced.append(any(frozen for frozen in commits))
        await delete(self, name)

    commits: list[bool] = []
    commit = Kept.committed

    async def committed(self: Kept) -> None:
        commits.append(self.gathering.sync)
        await commit(self)

    monkeypatch.setattr(FileSink, "delete", deleting)
    monkeypatch.setattr(Kept, "committed", committed)
    store = await opened(path, "?durability=normal")
    await until(path, kept)
    assert synced == [True]
    await store.close()


async def test_a_place_that_does_not_answer_is_looked_through_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "s.db", VirtualClock(1000.0)
    store_id, kept = await with_bodies(path)
    (orphan,) = leave(path, f"{store_id}-00000001-n{10**6:x}-lost")

    async def away(self: FileSink, mine: object, rewritten: bool) -> int:
        raise SinkUnavailable("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(FileSink, "sweep", away)
        store = await opened(path, clock=clock)
        await clock.advance(59)
    assert orphan.exists()
    await clock.advance(2)
    await until(path, kept)
    await store.close()


async def test_a_sink_that_lists_all_at_once_is_swept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = MemorySink()
    monkeypatch.setattr("pipeflow.embedded.claims.open_sink", lambda url, base: place)
    clock = VirtualClock(1000.0)
    topology = Topology(queues=(QueueSpec("q"),), claims=ClaimSpec("mem://x", inline_bytes=1_000))
    for _ in range(2):
        store = await open_store(f"sqlite:///{tmp_path}/s.db", clock=clock)
        assert isinstance(store, Kept)
        await store.declare(topology)
        await store.send("q", [Outgoing(BODIES[0])])
        left = len(place.objects)
        place.objects[f"{store.store_id}-00000001-n{10**6:x}-lost"] = b"left"
        await store.close()
    store = await open_store(f"sqlite:///{tmp_path}/s.db", clock=clock)
    assert isinstance(store, Kept)
    await clock.settle()
    async with asyncio.timeout(10):
        while len(place.objects) != left:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)
    assert await taken(store) == [BODIES[0]] * 2
    await store.close()
