"""An edited dead letter on disk: old or new, whole, its own; and an audit that survives with what it tells."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing
from math import inf
from pathlib import Path

import msgspec
import pytest
from killed_store import copy_killed
from older_store import BEFORE_7

from pipeflow.audit import KEPT_SECONDS, Entry
from pipeflow.clock import VirtualClock
from pipeflow.edits import parse_edit
from pipeflow.embedded import inspection
from pipeflow.embedded.journal import Loaded
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.rewriting import rewrite, rewritten
from pipeflow.embedded.sqlite import audit, schema
from pipeflow.embedded.sqlite.journal import SqliteJournal
from pipeflow.errors import RefusedError
from pipeflow.filters import parse_where
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Bury, Outgoing, Want
from pipeflow.protocols import Peeked
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology

ZERO = parse_edit(["body.total=0"])


async def opened(path: Path, options: str = "", clock: VirtualClock | None = None) -> Kept:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock or VirtualClock(1000.0))
    assert isinstance(store, Kept)
    return store


async def with_letters(path: Path, count: int, options: str = "", fifo: bool = False) -> Kept:
    store = await opened(path, options)
    await store.declare(Topology(queues=(QueueSpec("work", fifo=fifo, dead_letters="dead"),)))
    for n in range(count):
        await store.send("work", [Outgoing(b'{"n":%d,"total":5}' % n, group=f"g{n % 3}" if fifo else None)])
    await bury_all(store)
    return store


async def bury_all(store: Kept, queue: str = "work") -> None:
    while deliveries := await store.receive(queue, Want(10)):
        await store.settle(queue, [Bury(delivery.receipt) for delivery in deliveries])


async def letters(store: Kept, queue: str = "work") -> list[Peeked]:
    return await store.peek(queue, 1000, True)


def left_by_a_kill(path: Path) -> Path:
    """A copy of what a kill at this moment would leave."""
    copy = path.with_name(f"x{path.name}")
    return copy_killed(path, copy)


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@pytest.mark.parametrize("options", ["", "?hot_messages=3"], ids=["hot", "cold"])
async def test_an_edit_is_on_disk_when_it_is_answered(tmp_path: Path, options: str, fifo: bool) -> None:
    store = await with_letters(tmp_path / "s.db", 12, options, fifo)
    ids = [letter.id for letter in await letters(store)]
    for id in (ids[0], ids[5], ids[11]):
        await store.edit(Rewrite("work", id, ZERO))
    expected = {letter.id: letter.body for letter in await letters(store)}
    assert sorted(b'"total":0' in body for body in expected.values()) == [False] * 9 + [True] * 3
    again = await opened(left_by_a_kill(tmp_path / "s.db"), options)
    assert {letter.id: letter.body for letter in await letters(again)} == expected
    assert (await again.stats()).quarantined == 0
    assert [entry.ids for entry in await again.audit("work")] == [[ids[11]], [ids[5]], [ids[0]]]
    await again.close()
    await store.discard(Discard("work", every=True))
    assert store.nouns.head("dead").bytes == 0, "what memory holds is counted as it is"
    await store.close()


async def test_an_edit_and_a_redrive_in_one_commit_leave_the_new_body_with_a_sound_checksum(tmp_path: Path) -> None:
    store = await with_letters(tmp_path / "s.db", 1)
    (letter,) = await letters(store)
    edit = asyncio.ensure_future(store.edit(Rewrite("work", letter.id, ZERO)))
    await asyncio.gather(edit, store.redrive(Redrive("work", edit=parse_edit(["body.n=7"]))))
    await store.close()
    store = await opened(tmp_path / "s.db")
    assert [message.body for message in await store.peek("work")] == [b'{"n":7,"total":0}']
    assert (await store.stats()).quarantined == 0
    await store.close()


async def test_a_shared_body_is_let_go_by_the_letter_that_gets_its_own(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await store.declare(
        Topology(
            (TopicSpec("t"),),
            (QueueSpec("work", dead_letters="dead"), QueueSpec("other")),
            (),
            (Subscription("t", "queue", "work"), Subscription("t", "queue", "other")),
        )
    )
    long = b'{"total":5,"x":"%s"}' % (b"x" * 500)
    await store.publish("t", [Outgoing(long), Outgoing(long)])
    await bury_all(store)
    first, second = await letters(store)
    await store.edit(Rewrite("work", first.id, ZERO))
    await store.edit(Rewrite("work", first.id, parse_edit(["body.total=1"])))
    await store.discard(Discard("work", ids=(second.id,)))
    await store.close()
    reader = sqlite3.connect(tmp_path / "s.db")
    assert reader.execute("SELECT refs FROM bodies ORDER BY number").fetchall() == [(1,), (1,)]
    reader.close()
    store = await opened(tmp_path / "s.db")
    assert [each.body for each in await letters(store)] == [long.replace(b"5,", b"1,", 1)]
    assert [each.body for each in await store.receive("other", Want(10))] == [long, long]
    await store.close()


async def test_a_letter_that_is_edited_while_the_tail_is_read_comes_into_memory_edited(tmp_path: Path) -> None:
    """The disk gave its old body to a load that had begun before."""
    store = await with_letters(tmp_path / "s.db", 9, "?hot_messages=4")
    ids = [letter.id for letter in await letters(store)]
    load, edited = store.journal.load, list[str]()

    async def edited_while_it_is_read(queue: int, after: int, limit: int, most_bytes: float = inf) -> Loaded:
        loaded = await load(queue, after, limit, most_bytes)
        tail = store.nouns.head("dead").tail
        if tail.late is not None and loaded.messages and not edited:
            edited.append(loaded.messages[0].id)
            await store.edit(Rewrite("work", edited[0], ZERO))
        return loaded

    store.journal.load = edited_while_it_is_read  # type: ignore[method-assign]
    bodies: dict[str, bytes] = {}
    while deliveries := await store.receive("dead", Want(1)):
        await store.settle("dead", [Bury(delivery.receipt) for delivery in deliveries])
        bodies |= {delivery.id: delivery.body for delivery in deliveries}
    assert len(edited) == 1
    assert list(bodies) == ids
    assert [id for id, body in bodies.items() if b'"total":0' in body] == edited
    await store.close()


async def test_a_body_that_the_disk_has_not_yet_stays_in_memory(tmp_path: Path) -> None:
    """What memory lets go is read back, and until the commit the disk would answer with the old body."""
    store = await with_letters(tmp_path / "s.db", 1)
    head = store.nouns.head("dead")
    head.most_bytes = 0
    (message,) = head.state.all()
    with store.claims.keeping() as keeping:
        rewrite(message, await rewritten(ZERO, message, head.spec, keeping), store.gathering)
    head.changed(message)
    head.drop_body(message)
    assert message.body == b'{"n":0,"total":0}'
    await store.committed()
    head.drop_body(message)
    assert message.body is None
    assert [letter.body for letter in await letters(store)] == [b'{"n":0,"total":0}']
    await store.close()


async def test_looking_at_letters_leaves_no_more_in_memory_than_there_was(tmp_path: Path) -> None:
    store = await with_letters(tmp_path / "s.db", 30)
    head = store.nouns.head("dead")
    head.most_bytes = 0
    for message in head.state.all():
        head.drop_body(message)
    (held,) = await store.receive("dead", Want(1))
    before = head.bytes
    nothing = parse_where("body.n>99", store.clock.now())
    looked = await store.discard(Discard("work", where=nothing, dry_run=True))
    assert (looked.examined, looked.matched, head.bytes) == (30, 0, before)
    last = [letter.id for letter in await letters(store) if letter.state == "ready"][-1]
    changed = await store.edit(Rewrite("work", last, ZERO))
    assert changed.after.body.endswith(b'"total":0}')
    assert (await store.redrive(Redrive("work", limit=3, edit=ZERO))).moved == 3
    assert all(message.body is None for message in head.state.all() if message.id not in (held.id, changed.id))
    await store.close()


@pytest.mark.parametrize("options", ["", "?hot_messages=3"], ids=["hot", "cold"])
async def test_letters_are_looked_at_by_so_many_bytes_at_a_time(
    tmp_path: Path, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db", 40, options)
    monkeypatch.setattr(inspection, "SCANNED_BYTES", 100)
    async with aclosing(inspection.scan(store.nouns.head("dead"), store.journal)) as chunks:
        sizes = [sum(message.size for message in chunk) async for chunk in chunks]
    assert sum(sizes) == sum(len(b'{"n":%d,"total":5}' % n) for n in range(40))
    assert max(sizes) <= 100
    assert len(sizes) < 20, "nor one by one"
    assert (await store.redrive(Redrive("work", edit=ZERO))).moved == 40
    await store.close()


async def test_small_letters_before_large_ones_do_not_make_a_large_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "s.db", "?hot_messages=1")
    await store.declare(Topology(queues=(QueueSpec("work", dead_letters="dead"),)))
    bodies = [b"s"] * 30 + [b"l" * 80] * 9 + [b"x" * 500] + [b"s"] * 5
    for body in bodies:
        await store.send("work", [Outgoing(body)])
    await bury_all(store)
    monkeypatch.setattr(inspection, "SCANNED_BYTES", 100)
    async with aclosing(inspection.scan(store.nouns.head("dead"), store.journal)) as chunks:
        found = [[message.body or b"" for message in chunk] async for chunk in chunks]
    assert [body for chunk in found for body in chunk] == bodies
    sizes = [sum(map(len, chunk)) for chunk in found]
    assert [size for size in sizes if size > 100] == [500], "one that is larger comes alone"
    assert len(found) < 20
    assert (await store.discard(Discard("work", every=True))).discarded == len(bodies)
    await store.close()


async def test_a_move_goes_on_with_its_edit_and_its_entry_after_each_kill(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await with_letters(path, 40)
    await store.close()
    store = await opened(path, clock=clock)
    await store.start_move(Redrive("work", rate=10.0, edit=ZERO))
    lives = 0
    while (await store.moves("work"))[0].under_way:
        await clock.advance(0.35)
        for _ in range(lives % 7):
            await asyncio.sleep(0)  # the kill comes at another point of a step each time
        path = left_by_a_kill(path)
        await store.close()
        store = await opened(path, clock=clock)
        lives += 1
        assert lives < 50
    bodies = sorted(message.body for message in await store.peek("work", 1000))
    assert bodies == sorted(b'{"n":%d,"total":0}' % n for n in range(40))
    end, move = await store.audit("work")
    assert (move.action, move.count, len(set(move.ids)), len(move.digests), move.finished) == ("move", 40, 40, 40, True)
    assert (end.action, end.count, end.note) == ("end", 40, "completed")
    assert lives > 5
    await store.close()


# -- the audit -----------------------------------------------------------------------------------------------------


def put(path: Path, number: int, at: float) -> None:
    blob = msgspec.msgpack.encode(Entry(number, at, "edit", "work", "ada", letters="dead"))
    writer = sqlite3.connect(path)
    audit.write(writer, [(number, at, "dead", blob)], at)
    writer.commit()
    writer.close()


def kept(path: Path) -> list[int]:
    reader = sqlite3.connect(path)
    numbers = [number for (number,) in reader.execute("SELECT number FROM audit ORDER BY number")]
    reader.close()
    return numbers


async def test_the_audit_keeps_its_last_entries_for_ninety_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db", 1)
    await store.close()
    monkeypatch.setattr(audit, "KEPT", 3)
    for number in range(1, 6):
        put(tmp_path / "s.db", number, 2000.0)
    assert kept(tmp_path / "s.db") == [3, 4, 5]
    put(tmp_path / "s.db", 6, 2000.0 + KEPT_SECONDS)
    assert kept(tmp_path / "s.db") == [4, 5, 6], "an entry of just ninety days is kept"
    put(tmp_path / "s.db", 7, 2001.0 + KEPT_SECONDS)
    assert kept(tmp_path / "s.db") == [6, 7]
    store = await opened(tmp_path / "s.db")
    (letter,) = await letters(store)
    await store.edit(Rewrite("work", letter.id, ZERO))
    assert [entry.number for entry in await store.audit()] == [8, 7, 6], "no number is used twice"
    await store.close()


async def test_a_damaged_entry_is_told_as_such_and_hides_no_other(tmp_path: Path) -> None:
    store = await with_letters(tmp_path / "s.db", 1)
    (letter,) = await letters(store)
    for total in range(3):
        await store.edit(Rewrite("work", letter.id, parse_edit([f"body.total={total}"])))
    await store.close()
    writer = sqlite3.connect(tmp_path / "s.db")
    writer.execute("UPDATE audit SET entry = x'00' WHERE number = 2")
    writer.commit()
    writer.close()
    store = await opened(tmp_path / "s.db")
    assert [(entry.number, entry.action) for entry in await store.audit()] == [(3, "edit"), (2, "damaged"), (1, "edit")]
    await store.close()


async def test_a_store_from_before_the_audit_gets_one(tmp_path: Path) -> None:
    store = await with_letters(tmp_path / "s.db", 2)
    await store.close()
    step = next(version for version, steps in schema.MIGRATIONS.items() if steps == audit.TABLES)
    writer = sqlite3.connect(tmp_path / "s.db")
    writer.executescript(f"{BEFORE_7} DROP TABLE audit; PRAGMA user_version = {step}")
    writer.close()
    store = await opened(tmp_path / "s.db")
    assert await store.audit() == []
    for letter in await letters(store):
        await store.edit(Rewrite("work", letter.id, ZERO))
    assert len(await store.audit()) == 2
    await store.close()


async def test_while_the_disk_is_nearly_full_letters_are_moved_and_discarded_but_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db", 4)
    ids = [letter.id for letter in await letters(store)]
    monkeypatch.setattr(SqliteJournal, "full", True)
    for refused in (
        store.edit(Rewrite("work", ids[0], ZERO)),
        store.redrive(Redrive("work", edit=ZERO)),
        store.start_move(Redrive("work", edit=ZERO)),
    ):
        with pytest.raises(RefusedError, match="nearly full"):
            await refused
    await store.edit(Rewrite("work", ids[0], ZERO, dry_run=True))
    assert (await store.redrive(Redrive("work", ids=(ids[0],)))).moved == 1
    assert (await store.discard(Discard("work", ids=(ids[1],)))).discarded == 1
    assert len(await letters(store)) == 2
    await store.close()


async def test_letters_of_a_queue_that_is_gone_go_back_to_those_they_came_from(tmp_path: Path) -> None:
    clock, path = VirtualClock(1000.0), tmp_path / "s.db"
    store = await opened(path, clock=clock)
    await store.declare(
        Topology(queues=(QueueSpec("gone", dead_letters="dead"), QueueSpec("work", dead_letters="dead")))
    )
    await store.send("work", [Outgoing(b'{"total":5}') for _ in range(4)])
    await bury_all(store)
    await store.start_move(Redrive("gone", rate=1.0, edit=ZERO))
    await clock.advance(1.5)
    await store.delete_queue("gone")
    path = left_by_a_kill(path)
    await store.close()
    store = await opened(path, clock=clock)
    await clock.advance(10)
    assert [message.body for message in await store.peek("work")] == [b'{"total":0}'] * 4
    assert [(entry.action, entry.count) for entry in await store.audit("dead")] == [("end", 4), ("move", 4)]
    await store.close()
