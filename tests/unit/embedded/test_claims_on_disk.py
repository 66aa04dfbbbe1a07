"""Large bodies lie in files beside the store for as long as a row refers to them, and no longer, whatever happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from older_store import BEFORE_7

from pipeflow import App, Batch, Context
from pipeflow.clock import VirtualClock
from pipeflow.embedded.claims import Claims
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.errors import (
    ConfigurationError,
    MissingExtra,
    ObjectRefused,
    RefusedError,
    SinkUnavailable,
    Unavailable,
)
from pipeflow.messages import Ack, Claim, Emit, Outgoing, Refused, Sent, Settled, Want
from pipeflow.protocols import Object
from pipeflow.registry import open_store
from pipeflow.sinks.file import FileSink
from pipeflow.specs import ClaimSpec, QueueSpec, Subscription, TopicSpec, Topology
from pipeflow.testing import harness

LARGE = b"x" * 5_000


async def opened(path: Path, *queues: QueueSpec, clock: VirtualClock | None = None, claims: str = "") -> Kept:
    store = await open_store(f"sqlite:///{path}", clock=clock or VirtualClock(1000.0))
    assert isinstance(store, Kept)
    specs = queues or (QueueSpec("q", visibility_timeout=10),)
    await store.declare(Topology(queues=specs, claims=ClaimSpec(claims, inline_bytes=1_000)))
    return store


def beside(path: Path) -> Path:
    """Where a store keeps bodies that nobody told it a place for."""
    return path.with_name(f"{path.name}-claims")


def files(path: Path) -> list[Path]:
    """What lies beside the store."""
    return sorted(found for found in beside(path).rglob("*") if found.is_file())


async def until_gone(path: Path, left: int = 0) -> None:
    """Files are deleted behind the commit that let them go."""
    async with asyncio.timeout(10):
        while sum(found.is_file() for found in path.rglob("*")) != left:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


async def taken(store: Kept, queue: str = "q", **fields: object) -> list[bytes]:
    """Receive and acknowledge."""
    got = await store.receive(queue, Want(**fields))  # type: ignore[arg-type]  # a builder
    await store.settle(queue, [Ack(delivery.receipt) for delivery in got])
    return [delivery.body for delivery in got]


async def test_a_large_body_lies_beside_the_store_until_it_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE), Outgoing(b"small")])
    (file,) = files(path)
    assert file.read_bytes() == LARGE
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert LARGE not in path.read_bytes() + Path(f"{path}-wal").read_bytes()
    assert await taken(store) == [LARGE, b"small"]
    await until_gone(beside(path))
    await store.close()


async def test_a_body_published_to_many_queues_is_one_file_until_the_last_acknowledges(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    names = [f"q{n}" for n in range(20)]
    store = await opened(path, *(QueueSpec(name) for name in names))
    subscriptions = tuple(Subscription("t", "queue", name) for name in names)
    await store.declare(Topology(topics=(TopicSpec("t"),), subscriptions=subscriptions))
    await store.publish("t", [Outgoing(LARGE)])
    for name in names:
        assert len(files(path)) == 1
        assert await taken(store, name) == [LARGE]
    await until_gone(beside(path))
    await store.close()


@pytest.mark.parametrize("way", ["purge", "delete", "expire"])
async def test_a_body_goes_with_its_message_on_every_way(tmp_path: Path, way: str) -> None:
    path, clock = tmp_path / "shop.db", VirtualClock(1000.0)
    store = await opened(path, QueueSpec("q", retention=50), clock=clock)
    await store.send("q", [Outgoing(LARGE), Outgoing(LARGE)])
    assert len(files(path)) == 2
    match way:
        case "purge":
            await store.purge("q")
        case "delete":
            await store.delete_queue("q")
        case _:
            await clock.advance(51)
    await until_gone(beside(path))
    await store.close()


async def test_what_waits_is_not_in_memory_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE) for _ in range(3)])
    assert [message.body for message in store.nouns.head("q").state.all()] == [None, None, None]
    await store.close()
    store = await opened(path)
    assert len(files(path)) == 3
    assert await taken(store) == [LARGE] * 3
    await until_gone(beside(path))
    await store.close()


async def test_what_is_sent_and_acknowledged_within_one_commit_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)

    async def consume() -> None:
        assert await taken(store, wait=5) == [LARGE]

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        await store.send("q", [Outgoing(LARGE)])
    await until_gone(beside(path))
    await store.close()


async def test_what_is_refused_or_sent_before_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path, QueueSpec("q", fifo=True, max_body=9_000))
    (refused,) = await store.send("q", [Outgoing(LARGE)])
    assert isinstance(refused, Refused)
    assert refused.code == "missing_group"
    (large,) = await store.send("q", [Outgoing(LARGE * 2, group="g")])
    assert isinstance(large, Refused)
    assert large.code == "too_large"
    await until_gone(beside(path))
    for again in (False, True):
        (sent,) = await store.send("q", [Outgoing(LARGE, group="g", dedup_id="once")])
        assert isinstance(sent, Sent)
        assert sent.duplicate is again
    await until_gone(beside(path), left=1)
    await store.close()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("owner", "step"), [(Claims, "_write"), (FileSink, "write"), (SqliteJournal, "commit")])
async def test_a_sender_that_is_cancelled_leaves_nothing_that_a_restart_does_not_take_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, done: bool
) -> None:
    """Cancelled as each step of a send begins, or once it is done."""
    path = tmp_path / "shop.db"
    store = await opened(path)
    reached = asyncio.Event()
    real = getattr(owner, step)

    async def told(self: object, *arguments: object) -> object:
        if not done:
            reached.set()
        result = await real(self, *arguments)
        reached.set()
        return result

    with monkeypatch.context() as told_of:
        told_of.setattr(owner, step, told)
        sending = asyncio.create_task(store.send("q", [Outgoing(LARGE)]))
        await reached.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await store.close()
    store = await opened(path)
    waiting = (await store.stats()).queues[0].ready
    await until_gone(beside(path), left=waiting)
    assert await taken(store, limit=20) == [LARGE] * waiting
    await store.close()


async def test_what_a_killed_process_wrote_and_never_committed_is_taken_away_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE)])
    (kept,) = files(path)
    orphan = kept.with_name(f"{store.store_id}-00000001-orphan")
    unfinished = kept.with_name(f".tmp-{store.store_id}-00000001-unfinished")
    ours = kept.with_name(f"{store.store_id}-0000ffff-of-a-boot-to-come")
    others = kept.with_name("aaaaaaaaaaaa-00000001-of-another-store")
    for left in (orphan, unfinished, ours, others):
        left.write_bytes(b"left")
    await store.close()
    store = await opened(path)
    await until_gone(beside(path), left=3)
    assert set(files(path)) == {kept, ours, others}
    assert await taken(store) == [LARGE]
    await store.close()


async def test_a_body_whose_deletion_was_cut_off_is_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE)])

    def fails(self: Claims, names: list[str]) -> None:
        raise SinkUnavailable("out of order")

    with monkeypatch.context() as broken:
        broken.setattr(Claims, "_unlink", fails)
        assert await taken(store) == [LARGE]
        await store.close()
    assert len(files(path)) == 1
    store = await opened(path)
    await until_gone(beside(path))
    await store.close()


@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped"])
@pytest.mark.parametrize("fifo", [False, True])
async def test_a_body_that_is_gone_or_damaged_sets_its_message_aside_and_holds_up_no_other(
    tmp_path: Path, damage: str, fifo: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path, QueueSpec("q", fifo=fifo))
    group = "g" if fifo else None
    (sent,) = await store.send("q", [Outgoing(LARGE, group=group)])
    await store.send("q", [Outgoing(LARGE + b"2", group=group)])
    file = next(found for found in files(path) if found.stat().st_size == len(LARGE))
    match damage:
        case "missing":
            file.unlink()
        case "shorter":
            os.truncate(file, 10)
        case _:
            file.write_bytes(b"y" + LARGE[1:])
    assert await taken(store) == [LARGE + b"2"]
    stats = (await store.stats()).queues[0]
    assert (stats.quarantined, stats.ready, stats.in_flight) == (1, 0, 0)
    assert isinstance(sent, Sent)
    assert f"message {sent.id} is set aside" in caplog.text
    await store.close()
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
    reader.close()


async def test_a_body_that_cannot_be_reached_is_tried_again_without_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "shop.db", VirtualClock(1000.0)
    store = await opened(path, QueueSpec("q", max_receives=2), clock=clock)
    await store.send("q", [Outgoing(LARGE), Outgoing(b"small")])

    async def fails(self: FileSink, name: str) -> bytes:
        raise SinkUnavailable("out of order")

    with monkeypatch.context() as broken:
        broken.setattr(FileSink, "read", fails)
        assert await taken(store) == [b"small"]
        for _ in range(5):
            await clock.advance(5)
            assert await taken(store) == []
    await clock.advance(5)
    (delivery,) = await store.receive("q", Want())
    assert (delivery.body, delivery.attempt) == (LARGE, 1)
    await store.close()


@pytest.mark.parametrize("error", [SinkUnavailable("away"), ObjectRefused("no permission"), MissingExtra("s3", "x")])
async def test_a_place_that_refuses_to_delete_holds_up_neither_the_store_nor_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path, clock, elsewhere = tmp_path / "shop.db", VirtualClock(1000.0), tmp_path / "elsewhere"
    store = await opened(path, clock=clock, claims=f"file://{elsewhere}")
    await store.send("q", [Outgoing(LARGE)])

    async def fails(self: FileSink, name: str) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(FileSink, "delete", fails)
        assert await taken(store) == [LARGE]
        await store.declare(Topology(claims=ClaimSpec("", 1_000)))
        await store.send("q", [Outgoing(LARGE)])
        assert await taken(store) == [LARGE]
        await until_gone(beside(path))
        assert sum(found.is_file() for found in elsewhere.iterdir()) == 1
    await clock.advance(60)
    await until_gone(elsewhere)
    await store.close()


async def test_a_body_that_kills_whoever_reads_it_ends_in_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(place: Path, after: int) -> Path:
        """What a kill would leave of a store, at this moment."""
        left = tmp_path / f"after{after}"
        shutil.copytree(place, left, ignore=shutil.ignore_patterns("*.sock", "*.lock", "*-shm"))
        return left

    queues = QueueSpec("q", max_receives=3, dead_letters="q-dlq"), QueueSpec("q-dlq", max_receives=None)
    place = tmp_path / "after0"
    place.mkdir()
    store = await opened(place / "shop.db", *queues)
    await store.send("q", [Outgoing(LARGE)])
    for crash in range(1, 6):
        copies: list[Path] = []

        async def dies(self: Claims, claim: Claim, place: Path = place, crash: int = crash) -> bytes:
            copies.append(killed(place, crash))  # noqa: B023  # of this round
            raise SinkUnavailable("killed")

        with monkeypatch.context() as fatal:
            fatal.setattr(Claims, "read", dies)
            assert await store.receive("q", Want()) == []
        await store.close()
        if not copies:
            break
        place = copies[0]
        store = await opened(place / "shop.db", *queues)
    assert 3 <= crash <= 5
    reopened = await opened(place / "shop.db", *queues)
    await reopened.receive("q", Want())
    assert [letter.queue for letter in await reopened.peek("q", dead=True)] == ["q-dlq"]
    await reopened.close()


async def test_a_body_that_cannot_be_written_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)

    async def fails(self: FileSink, obj: Object) -> None:
        raise SinkUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(FileSink, "write", fails)
        with pytest.raises(Unavailable, match=r"a body of 5000 bytes cannot be kept aside .*nothing was sent"):
            await store.send("q", [Outgoing(b"small"), Outgoing(LARGE)])
    assert await taken(store) == []
    await store.send("q", [Outgoing(LARGE)])
    assert await taken(store) == [LARGE]
    await store.close()


async def test_a_body_for_which_the_disk_has_no_room_is_refused_and_small_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    assert store.journal.has_room(1)
    monkeypatch.setattr(SqliteJournal, "has_room", lambda self, size: False)
    with pytest.raises(RefusedError, match="the disk has no room for a body of 5000 bytes") as refused:
        await store.send("q", [Outgoing(b"small"), Outgoing(LARGE)])
    assert refused.value.code == "disk_full"
    await store.send("q", [Outgoing(b"small")])
    assert (await taken(store), files(path)) == ([b"small"], [])
    await store.close()


@pytest.mark.parametrize("error", [SinkUnavailable("down"), ObjectRefused("403"), ConfigurationError("an extra"), None])
async def test_an_ack_whose_emit_cannot_be_kept_aside_is_refused_and_the_others_of_its_call_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path, QueueSpec("q", visibility_timeout=10), QueueSpec("r"))
    await store.send("q", [Outgoing(b"small emit"), Outgoing(b"large emit"), Outgoing(b"none")])
    small, large, none = await store.receive("q", Want(limit=3))

    async def fails(self: FileSink, obj: Object) -> None:
        assert error is not None
        raise error

    emit = Emit("queue", "r", Outgoing(LARGE))
    batch = [
        Ack(small.receipt, [Emit("queue", "r", Outgoing(b"small"))]),
        Ack(large.receipt, [Emit("queue", "r", Outgoing(b"before it")), emit]),
        Ack(none.receipt),
    ]
    with monkeypatch.context() as broken:
        if error is not None:
            broken.setattr(FileSink, "write", fails)
        else:
            broken.setattr(SqliteJournal, "has_room", lambda self, size: False)
        first, refused, last = await store.settle("q", batch)
    assert (first, last) == (Settled(), Settled())
    assert isinstance(refused, Refused)
    assert await taken(store, "r") == [b"small"]
    assert await store.settle("q", [Ack(large.receipt, [emit])]) == [Settled()]
    assert await taken(store, "r") == [LARGE]
    await until_gone(beside(path))
    await store.close()


async def test_a_place_that_is_out_of_reach_is_asked_once_for_all_acks_of_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "shop.db")
    await store.send("q", [Outgoing(b"go") for _ in range(4)])
    *large, none = await store.receive("q", Want(limit=4))
    asked: list[str] = []

    async def fails(self: FileSink, obj: Object) -> None:
        asked.append(obj.name)
        raise SinkUnavailable("no answer in 60 s")

    batch = [*(Ack(each.receipt, [Emit("queue", "q", Outgoing(LARGE))]) for each in large), Ack(none.receipt)]
    with monkeypatch.context() as broken:
        broken.setattr(FileSink, "write", fails)
        answers = await store.settle("q", batch)
    assert [type(answer) for answer in answers] == [Refused, Refused, Refused, Settled]
    assert len(asked) == 1
    await store.close()


async def test_a_handler_whose_large_emit_cannot_be_kept_aside_is_tried_again_and_the_app_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    scans, pages, other = app.queue("scans", str, max_receives=9), app.queue("pages", bytes), app.queue("other", str)
    seen: list[str] = []

    @scans.handler
    async def scan(name: str, ctx: Context) -> None:
        seen.append(name)
        ctx.send(pages, bytes(2 << 20))

    async def fails(self: FileSink, obj: Object) -> None:
        raise SinkUnavailable("the disk is full")

    async with harness(app, store=f"sqlite:///{tmp_path}/shop.db") as h:
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, "write", fails)
            await scans.send("one")
            await h.advance(1)
            await other.send("the app runs")
            assert await h.runtime.store.peek("pages") == []
            tried = len(seen)
        await h.advance(600)
        assert (len(seen), [page.size for page in await h.runtime.store.peek("pages")]) == (tried + 1, [2 << 20])


@pytest.mark.parametrize("kind", ["standard", "fifo", "batches"])
@pytest.mark.parametrize("outage", ["away", "full"])
async def test_a_message_whose_emits_cannot_be_kept_waits_out_the_outage_without_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, outage: str
) -> None:
    app = App("shop")
    scans = app.queue("scans", str, max_receives=2, fifo=kind == "fifo", content_dedup=kind == "fifo")
    pages = app.queue("pages", bytes)
    seen: list[tuple[float, str]] = []

    async def scan(name: str, ctx: Context) -> None:
        seen.append((h.runtime.clock.now(), name))
        ctx.send(pages, bytes(2 << 20))

    async def scan_many(batch: Batch[str], ctx: Context) -> None:
        seen.extend((h.runtime.clock.now(), message.body) for message in batch)
        ctx.send(pages, bytes(2 << 20))

    if kind == "batches":
        scans.batch_handler(size=2, linger=0.0)(scan_many)
    else:
        scans.handler(scan)

    async def fails(self: FileSink, obj: Object) -> None:
        raise SinkUnavailable("no answer")

    async with harness(app, store=f"sqlite:///{tmp_path}/shop.db") as h:
        with monkeypatch.context() as broken:
            if outage == "away":
                broken.setattr(FileSink, "write", fails)
            else:
                broken.setattr(SqliteJournal, "has_room", lambda self, size: False)
            await scans.send_many(["one", "two"], group="g" if kind == "fifo" else None)
            await h.advance(3600)
        assert h.dead(scans) == []
        assert 2 <= len(seen) < 300, "later and later"
        assert len(set(seen)) == len(seen), "a batch is not split for it"
        assert {name for _, name in seen} == ({"one"} if kind == "fifo" else {"one", "two"})
        await h.advance(120)
        assert h.queued(scans) == h.in_flight(scans) == h.dead(scans) == []
        sizes = [page.size for page in await h.runtime.store.peek("pages")]
        assert sizes in ([[2 << 20] * 2] if kind != "batches" else [[2 << 20], [2 << 20] * 2])
        if kind != "fifo":
            assert h.runtime.given_back == 0, "which is for what was cut off"


async def test_bodies_lie_in_a_sink_where_one_is_named_and_older_ones_stay_where_they_are(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "shop.db", tmp_path / "elsewhere"
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE)])
    await store.close()
    store = await opened(path, claims=f"file://{elsewhere}")
    await store.send("q", [Outgoing(LARGE + b"2")])
    assert (len(files(path)), sum(each.is_file() for each in elsewhere.rglob("*"))) == (1, 1)
    await store.close()
    # The store remembers: who opens it without the app, as the command line does, finds both.
    reopened = await open_store(f"sqlite:///{path}", clock=VirtualClock(1000.0))
    assert isinstance(reopened, Kept)
    assert (await reopened.describe()).claims == ClaimSpec(f"file://{elsewhere}", 1_000)
    assert await taken(reopened) == [LARGE, LARGE + b"2"]
    await until_gone(beside(path))
    await until_gone(elsewhere)
    await reopened.close()


def test_a_place_that_holds_a_secret_or_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="leave secrets to the environment"):
        ClaimSpec("s3://bucket/claims?secret_access_key=abc")
    with pytest.raises(ConfigurationError, match="is no URL"):
        ClaimSpec("bucket")
    with pytest.raises(ConfigurationError, match="use 1 byte to 16 MiB"):
        ClaimSpec(inline_bytes=0)


async def test_a_place_that_gives_nothing_back_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shop.db")
    with pytest.raises(ConfigurationError, match="bodies must be read back and deleted there"):
        await store.declare(Topology(claims=ClaimSpec("https://example.com/claims")))
    await store.send("q", [Outgoing(LARGE)])
    assert await taken(store) == [LARGE]
    await store.close()


async def test_a_store_of_the_format_before_claims_takes_them_after_its_migration(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    store = await opened(path)
    await store.send("q", [Outgoing(b"old")])
    await store.close()
    writer = sqlite3.connect(path)
    writer.executescript(BEFORE_7)
    writer.executescript(
        "DROP TABLE audit; DROP INDEX messages_expires; ALTER TABLE messages DROP COLUMN expires;"
        "DROP TRIGGER bodies_doomed; DROP INDEX bodies_claim; DROP TABLE doomed;"
        "ALTER TABLE bodies DROP COLUMN claim; DELETE FROM nouns WHERE kind = 'claims'; PRAGMA user_version = 2"
    )
    writer.close()
    store = await opened(path)
    await store.send("q", [Outgoing(LARGE)])
    assert await taken(store) == [b"old", LARGE]
    await until_gone(beside(path))
    await store.close()
