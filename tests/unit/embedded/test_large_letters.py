"""Dead letters with bodies that are kept aside: edited like others, in one commit, and never without a body."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.edits import fingerprint, parse_edit
from pipeflow.embedded import rewriting
from pipeflow.embedded.opening import Kept
from pipeflow.errors import NotFound, RefusedError, SinkUnavailable, Unavailable
from pipeflow.filters import parse_where
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Ack, Bury, Outgoing, Want
from pipeflow.protocols import Object
from pipeflow.registry import open_store
from pipeflow.sinks.file import FileSink
from pipeflow.specs import ClaimSpec, QueueSpec, Subscription, TopicSpec, Topology

ZERO = parse_edit(["body.total=0"])
SMALL = parse_edit(['body.text="short"'])
GROWN = parse_edit([f"body.text={'y' * 3_000}"])


def body(n: int, size: int = 5_000, total: int = 5) -> bytes:
    return b'{"n":%d,"total":%d,"text":"%s"}' % (n, total, b"x" * size)


async def opened(path: Path, options: str = "", clock: VirtualClock | None = None) -> Kept:
    store = await open_store(f"sqlite:///{path}{options}", clock=clock or VirtualClock(1000.0))
    assert isinstance(store, Kept)
    return store


async def with_letters(path: Path, *bodies: bytes, options: str = "", clock: VirtualClock | None = None) -> Kept:
    """A store whose queue has these dead letters; what has more than 1,000 bytes lies aside."""
    store = await opened(path, options, clock)
    queues = QueueSpec("work", dead_letters="dead"), QueueSpec("copy")
    subscriptions = tuple(Subscription("t", "queue", queue.name) for queue in queues)
    await store.declare(Topology((TopicSpec("t"),), queues, (), subscriptions, claims=ClaimSpec("", 1_000)))
    for each in bodies:
        await store.publish("t", [Outgoing(each, {"kind": "a"})])
    await bury_all(store)
    return store


async def bury_all(store: Kept) -> None:
    while deliveries := await store.receive("work", Want(10)):
        await store.settle("work", [Bury(delivery.receipt) for delivery in deliveries])


async def taken(store: Kept, queue: str) -> list[bytes]:
    """Receive and acknowledge everything."""
    bodies: list[bytes] = []
    while got := await store.receive(queue, Want(10)):
        bodies += [delivery.body for delivery in got]
        await store.settle(queue, [Ack(delivery.receipt) for delivery in got])
    return bodies


async def ids(store: Kept) -> list[str]:
    return [letter.id for letter in await store.peek("work", 1000, True)]


def files(path: Path) -> list[bytes]:
    """What lies beside the store."""
    place = path.with_name(f"{path.name}-claims")
    return sorted(found.read_bytes() for found in place.rglob("*") if found.is_file())


async def until_left(path: Path, *left: bytes) -> None:
    """Files are deleted behind the commit that let them go."""
    async with asyncio.timeout(10):
        while files(path) != sorted(left):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


def left_by_a_kill(path: Path, name: str) -> Path:
    """A copy of what a kill at this moment would leave."""
    copy = path.with_name(name)
    copy_killed(path, copy)
    shutil.copytree(f"{path}-claims", f"{copy}-claims", dirs_exist_ok=True)
    return copy


HOT_AND_COLD = pytest.mark.parametrize("options", ["", "?hot_messages=1"], ids=["hot", "cold"])


@HOT_AND_COLD
async def test_a_body_that_is_kept_aside_is_edited_and_other_queues_keep_theirs(tmp_path: Path, options: str) -> None:
    path, large = tmp_path / "s.db", [body(n) for n in range(4)]
    store = await with_letters(path, *large, options=options)
    assert len(files(path)) == 4
    _, second, third, last = await ids(store)
    zero = large[1].replace(b'"total":5', b'"total":0')
    change = await store.edit(Rewrite("work", second, ZERO, fingerprint(large[1])))
    assert (change.before.digest, change.after.digest) == (fingerprint(large[1]), fingerprint(zero))
    assert (change.before.size, change.after.size, change.after.attributes) == (len(zero), len(zero), {"kind": "a"})
    await until_left(path, *large, zero)
    await store.edit(Rewrite("work", last, SMALL))
    await store.edit(Rewrite("work", third, parse_edit(["attributes.kind=b"])))
    again = await opened(left_by_a_kill(path, "x.db"), options)
    for each in (again, store):
        assert (await each.redrive(Redrive("work"))).moved == 4
        expected = [large[0], zero, large[2], b'{"n":3,"total":5,"text":"short"}']
        assert sorted(await taken(each, "work")) == sorted(expected)
        assert await taken(each, "copy") == large, "who shares a body keeps it"
        assert (await each.stats()).quarantined == 0
    await until_left(path)
    await until_left(tmp_path / "x.db")
    assert store.nouns.head("dead").bytes == 0, "what memory holds is counted as it is"
    await again.close()
    await store.close()


@HOT_AND_COLD
async def test_a_body_that_grows_beyond_what_lies_in_the_store_is_kept_aside(tmp_path: Path, options: str) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, *(body(n, 10) for n in range(4)), options=options)
    first, _, _, last = await ids(store)
    for id in (first, last):
        await store.edit(Rewrite("work", id, GROWN))
    assert [len(each) > 3_000 for each in files(path)] == [True, True]
    await store.discard(Discard("work", ids=(first,)))
    await until_left(path, *files(path)[1:])
    await store.close()
    store = await opened(path, options)
    await store.redrive(Redrive("work"))
    assert [len(each) > 3_000 for each in await taken(store, "work")] == [False, False, True]
    await until_left(path)
    await store.close()


async def test_edits_of_one_letter_in_one_commit_leave_the_last_body_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, body(0), body(1))
    await taken(store, "copy")
    first, second = await ids(store)
    edits = [ZERO, SMALL, GROWN, parse_edit(["body.total=7"])]
    await asyncio.gather(*(store.edit(Rewrite("work", first, edit)) for edit in edits))
    gone = asyncio.ensure_future(store.edit(Rewrite("work", second, ZERO)))
    await asyncio.gather(gone, store.discard(Discard("work", ids=(second,))))
    last = b'{"n":0,"total":7,"text":"%s"}' % (b"y" * 3_000)
    await until_left(path, last)
    again = await opened(left_by_a_kill(path, "x.db"))
    await again.redrive(Redrive("work"))
    assert await taken(again, "work") == [last]
    await again.close()
    await store.close()


async def test_a_redrive_and_a_move_edit_large_letters_on_their_way(tmp_path: Path) -> None:
    path, clock = tmp_path / "s.db", VirtualClock(1000.0)
    store = await with_letters(path, *(body(n) for n in range(12)), b"no json" + b"x" * 2_000, clock=clock)
    await taken(store, "copy")
    where = parse_where("body.n<6", clock.now())
    tried = await store.redrive(Redrive("work", where=where, edit=ZERO, dry_run=True))
    assert (tried.matched, tried.moved, len(files(path))) == (6, 0, 13)
    assert tried.changes[0].after.digest == fingerprint(body(0, total=0))
    assert (await store.redrive(Redrive("work", where=where, edit=ZERO))).moved == 6
    await store.start_move(Redrive("work", rate=10.0, edit=SMALL))
    await clock.advance(30)
    (move,) = await store.moves("work")
    assert (move.state, move.moved, move.unfit) == ("completed", 6, 1)
    bodies = await taken(store, "work")
    assert sorted(bodies) == sorted(
        [body(n, total=0) for n in range(6)] + [b'{"n":%d,"total":5,"text":"short"}' % n for n in range(6, 12)]
    )
    await until_left(path, b"no json" + b"x" * 2_000)
    await store.close()


async def test_new_bodies_of_a_redrive_come_into_commits_by_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    monkeypatch.setattr(rewriting, "PORTION_BYTES", 100)
    store = await with_letters(path, *(body(n) for n in range(12)))
    numbers: list[int] = []
    take_along = store.moving._take_along

    def counted(*arguments: object) -> object:
        numbers.append(store.gathering.number)
        return take_along(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(store.moving, "_take_along", counted)
    assert (await store.redrive(Redrive("work", edit=SMALL))).moved == 12
    assert len(set(numbers)) == len(numbers) == 3
    await store.close()


async def test_a_letter_that_somebody_takes_while_its_body_is_read_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, body(0), body(1), body(2))
    first, _, third = await ids(store)
    read, meanwhile = FileSink.read, list[str]()

    async def slow(self: FileSink, name: str) -> bytes:
        found = await read(self, name)
        match meanwhile and meanwhile.pop():
            case "receive":
                monkeypatch.setattr(FileSink, "read", read)
                await store.receive("dead", Want(1))
            case "purge":
                monkeypatch.setattr(FileSink, "read", read)
                await store.purge("dead")
        return found

    for what, id, told in (("receive", first, "a receiver of dead has"), ("purge", third, "no dead letter")):
        meanwhile.append(what)
        monkeypatch.setattr(FileSink, "read", slow)
        with pytest.raises((RefusedError, NotFound), match=told):
            await store.edit(Rewrite("work", id, ZERO))
    assert await taken(store, "copy") == [body(n) for n in range(3)]
    await until_left(path)
    assert [entry.action for entry in await store.audit()] == ["purge"]
    await store.close()


async def test_letters_that_somebody_takes_while_they_are_read_are_not_moved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await with_letters(tmp_path / "s.db", *(body(n) for n in range(9)), options="?hot_messages=2")
    read, handled = FileSink.read, list[bytes]()

    async def slow(self: FileSink, name: str) -> bytes:
        monkeypatch.setattr(FileSink, "read", read)
        for delivery in await store.receive("dead", Want(1)):
            handled.append(delivery.body)
            await store.settle("dead", [Ack(delivery.receipt)])
        monkeypatch.setattr(FileSink, "read", slow)
        return await read(self, name)

    monkeypatch.setattr(FileSink, "read", slow)
    moved = (await store.redrive(Redrive("work", edit=ZERO))).moved
    monkeypatch.setattr(FileSink, "read", read)
    assert handled
    assert moved + len(handled) + len(await ids(store)) == 9
    back = await taken(store, "work")
    assert len(back) == moved
    assert not {msg.replace(b'"total":0', b'"total":5') for msg in back} & set(handled)
    await store.close()


async def test_letters_that_somebody_takes_while_the_portion_before_theirs_is_read_are_not_moved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the first portion, a large letter and a small one; the others have small ones only."""
    monkeypatch.setattr(rewriting, "PORTION_BYTES", 1)
    store = await with_letters(tmp_path / "s.db", body(0), *(body(n, 10) for n in range(1, 5)))
    read, handled = FileSink.read, list[bytes]()

    async def slow(self: FileSink, name: str) -> bytes:
        monkeypatch.setattr(FileSink, "read", read)
        handled.extend(delivery.body for delivery in await store.receive("dead", Want(10)))
        return await read(self, name)

    monkeypatch.setattr(FileSink, "read", slow)
    assert (await store.redrive(Redrive("work", edit=ZERO))).moved == 0
    assert len(handled) == 5
    assert await taken(store, "work") == []
    await store.close()


async def test_a_body_that_cannot_be_reached_or_kept_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, body(0), body(1))
    first, _ = await ids(store)

    async def away(self: FileSink, name: object) -> bytes:
        raise SinkUnavailable("no answer")

    for method in ("read", "write"):
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, method, away)
            with pytest.raises(Unavailable, match="no answer"):
                await store.edit(Rewrite("work", first, ZERO))
            with pytest.raises(Unavailable, match="no answer"):
                await store.redrive(Redrive("work", edit=ZERO))
    for where in ("body.total=5", "body.total!=7"):
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, "read", away)
            with pytest.raises(Unavailable, match="no answer"):
                await store.discard(Discard("work", where=parse_where(where, store.clock.now())))
    assert await store.audit() == []
    await store.redrive(Redrive("work"))
    assert await taken(store, "work") == [body(0), body(1)]
    assert await taken(store, "copy") == [body(0), body(1)]
    await until_left(path)
    await store.close()


async def test_a_body_that_is_lost_can_be_given_anew_and_its_parts_cannot(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, body(0))
    (letter,) = await ids(store)
    for file in path.with_name("s.db-claims").iterdir():
        file.unlink()
    with pytest.raises(RefusedError, match="gone or damaged"):
        await store.edit(Rewrite("work", letter, ZERO))
    await store.edit(Rewrite("work", letter, parse_edit([], b'{"n":9}')))
    await store.redrive(Redrive("work"))
    assert await taken(store, "work") == [b'{"n":9}']
    await store.close()


async def test_parts_of_a_body_beyond_the_bound_are_refused_and_a_whole_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "EDITED_BYTES", 4_000)
    store = await with_letters(tmp_path / "s.db", body(0))
    (letter,) = await ids(store)
    with pytest.raises(RefusedError, match="give a whole body"):
        await store.edit(Rewrite("work", letter, ZERO))
    await store.edit(Rewrite("work", letter, parse_edit([], body(1))))
    await store.redrive(Redrive("work"))
    assert await taken(store, "work") == [body(1)]
    await store.close()


async def test_a_move_waits_out_an_outage_of_the_place_and_can_be_cancelled_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "s.db", VirtualClock(1000.0)
    store = await with_letters(path, body(0), body(1), clock=clock)

    async def away(self: FileSink, obj: object) -> bytes:
        raise SinkUnavailable("no answer")

    for method in ("read", "write"):
        with monkeypatch.context() as broken:
            broken.setattr(FileSink, method, away)
            first = await store.start_move(Redrive("work", where=parse_where("body.total=5", clock.now()), edit=ZERO))
            await clock.advance(600)
            assert (await store.moves("work"))[0].state == "running"
            assert (await store.cancel_move(first.id)).state == "cancelled"
            await store.start_move(Redrive("work", edit=ZERO))
            await clock.advance(600)
            if method == "read":
                await store.cancel_move((await store.moves("work"))[0].id)
    await clock.advance(6)
    ended, *_ = await store.moves("work")
    assert (ended.state, ended.moved) == ("completed", 2)
    assert await taken(store, "work") == [body(n, total=0) for n in range(2)]
    await store.close()


async def test_a_crash_at_any_point_of_an_edit_leaves_one_whole_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    store = await with_letters(path, body(0))
    await taken(store, "copy")
    (letter,) = await ids(store)
    copies: list[Path] = []
    loop, unlinked = asyncio.get_running_loop(), asyncio.Event()
    write, unlink, commit = FileSink.write, store.claims._unlink, store.journal.commit

    def killed() -> None:
        copies.append(left_by_a_kill(path, f"x{len(copies)}.db"))

    async def writing(self: FileSink, obj: Object) -> None:
        killed()
        await write(self, obj)
        killed()

    def unlinking(names: list[str]) -> None:
        killed()
        unlink(names)
        killed()
        loop.call_soon_threadsafe(unlinked.set)

    async def committing(group: object) -> None:
        killed()
        await commit(group)  # type: ignore[arg-type]  # passed on
        killed()

    monkeypatch.setattr(FileSink, "write", writing)
    monkeypatch.setattr(store.claims, "_unlink", unlinking)
    monkeypatch.setattr(store.journal, "commit", committing)
    await store.edit(Rewrite("work", letter, ZERO))
    await unlinked.wait()
    await until_left(path, body(0, total=0))
    killed()
    monkeypatch.undo()
    await store.close()
    seen: list[bytes] = []
    for copy in copies:
        store = await opened(copy)
        await store.redrive(Redrive("work"))
        seen += await taken(store, "work")
        assert (await store.stats()).quarantined == 0
        await until_left(copy)
        await store.close()
    assert set(seen) == {body(0), body(0, total=0)}
    assert len(seen) == len(copies) >= 7
    assert seen == sorted(seen, key=lambda each: b'"total":0' in each), "old first, then new"
