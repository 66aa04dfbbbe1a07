"""What every broker does with dead letters that an operator looks at, edits, sends back and deletes, and its audit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from pipeflow.edits import fingerprint, parse_edit
from pipeflow.errors import ConfigurationError, NotFound, RefusedError
from pipeflow.filters import parse_where
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Bury, Defer, Failure
from pipeflow.protocols import Peeked
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def letters(desk: Desk, count: int, queue: str = "q", **fields: object) -> list[str]:
    """So many dead letters `{"n": 0, "total": 5}` and on; their ids."""
    bodies = [f'{{"n": {n}, "total": 5}}' for n in range(count)]
    sent = await desk.send(*bodies, queue=queue, **fields)
    failure = Failure(desk.clock.now(), 1, "ValueError", "bad", "0badc0de")
    while taken := await desk.take(count, queue):
        await desk.settle(*(Bury(delivery.receipt, failure) for delivery in taken), queue=queue)
    return [each.id for each in sent]


async def dead(desk: Desk, queue: str = "q") -> list[Peeked]:
    return await desk.store.peek(queue, 1000, True)


async def values(desk: Desk, queue: str = "q") -> list[tuple[int, object]]:
    """(n, total) of each dead letter."""
    bodies = [msgspec.json.decode(letter.body) for letter in await dead(desk, queue)]
    return [(body["n"], body["total"]) for body in bodies]


# -- editing -------------------------------------------------------------------------------------------------------


async def test_an_edited_letter_keeps_its_place_its_id_and_all_that_the_edit_does_not_name(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 8, attributes={"kind": "x", "size": 3}, headers={"traceparent": "00-1"}, group="g")
    before = await dead(desk)
    change = await desk.store.edit(Rewrite("q", ids[5], parse_edit(["body.total=0", "attributes.kind=y"])))
    assert (change.before.body, change.after.body) == (b'{"n": 5, "total": 5}', b'{"n":5,"total":0}')
    assert (change.before.attributes, change.after.attributes) == ({"kind": "x", "size": 3}, {"kind": "y", "size": 3})
    after = await dead(desk)
    expected = msgspec.structs.replace(
        before[5], body=b'{"n":5,"total":0}', attributes={"kind": "y", "size": 3}, size=before[5].size - 3
    )
    assert after == [*before[:5], expected, *before[6:]]
    assert await values(desk) == [(n, 0 if n == 5 else 5) for n in range(8)]
    assert [delivery.body for delivery in await desk.take(8, "dead")][5] == b'{"n":5,"total":0}'


async def test_an_edit_of_what_is_not_there_or_does_not_fit_changes_nothing(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 5)
    before = await dead(desk)
    with pytest.raises(NotFound, match="no dead letter nope"):
        await desk.store.edit(Rewrite("q", "nope", parse_edit(["body.total=0"])))
    with pytest.raises(RefusedError, match="its body has no 'customer'"):
        await desk.store.edit(Rewrite("q", ids[4], parse_edit(["body.customer.name=ada"])))
    with pytest.raises(RefusedError, match="64 bits"):
        await desk.store.edit(Rewrite("q", ids[4], parse_edit([f"attributes.n={1 << 70}"])))
    with pytest.raises(RefusedError, match="changed meanwhile"):
        await desk.store.edit(Rewrite("q", ids[4], parse_edit(["body.total=0"]), expects="0" * 16))
    assert await dead(desk) == before
    assert await desk.store.audit("q") == []


async def test_an_edit_is_measured_like_a_send_but_may_always_make_less(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    (id,) = await letters(desk, 1)
    await desk.queue(dead_letters="dead", max_body=10)
    with pytest.raises(RefusedError, match="the limit of q is 10"):
        await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=5000000000"])))
    await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=1"])))
    assert await values(desk) == [(0, 1)]


async def test_a_letter_in_a_receivers_hands_is_not_edited(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    (id,) = await letters(desk, 1)
    await desk.one("dead")
    with pytest.raises(RefusedError, match="a receiver of dead has"):
        await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=0"])))
    await desk.advance(3600)
    await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=0"])))
    assert await values(desk) == [(0, 0)]


async def test_a_body_that_queues_share_is_changed_for_one_of_them_only(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("a", dead_letters="dead"), QueueSpec("b"), QueueSpec("c", dead_letters="dead-c"))
    long = '{"total": 5, "text": "' + "x" * 500 + '"}'
    for _ in range(5):
        await desk.publish(long)
    for queue in ("a", "c"):
        for delivery in await desk.take(5, queue):
            await desk.settle(Bury(delivery.receipt), queue=queue)
    changed = (await dead(desk, "a"))[4].id
    await desk.store.edit(Rewrite("a", changed, parse_edit(["body.total=0"])))
    await desk.store.redrive(Redrive("c", edit=parse_edit(["body.total=7"])))
    assert [b'"total":0' in letter.body for letter in await dead(desk, "a")] == [False] * 4 + [True]
    assert await desk.bodies(queue="b") == [long] * 5
    assert [body.startswith('{"total":7,') for body in await desk.bodies(queue="c")] == [True] * 5


async def test_fifo_letters_are_edited_in_their_groups_and_stay_in_order(desk: Desk) -> None:
    await desk.queue(fifo=True, dead_letters="dead")
    ids = []
    for group in ("a", "b"):
        for n in range(4):
            (sent,) = await desk.send(f'{{"n": {n}, "total": 5}}', group=group, dedup_id=f"{group}{n}")
            ids.append(sent.id)
    while taken := await desk.take(8):
        await desk.settle(*(Bury(delivery.receipt) for delivery in taken))
    for id in (ids[2], ids[6]):
        await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=0"])))
    seen: dict[str | None, list[tuple[int, int]]] = {}
    while taken := await desk.take(8, "dead"):
        for delivery in taken:
            body = msgspec.json.decode(delivery.body)
            seen.setdefault(delivery.group, []).append((body["n"], body["total"]))
            assert delivery.dedup_id == delivery.id, "Q91: what it was"
        await desk.ack(*taken, queue="dead")
    assert seen == {group: [(0, 5), (1, 5), (2, 0), (3, 5)] for group in ("a", "b")}


# -- sending back --------------------------------------------------------------------------------------------------


async def test_a_redrive_changes_each_letter_on_its_way_and_leaves_those_that_the_edit_does_not_fit(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await letters(desk, 5)
    await desk.send("no json")
    await desk.settle(Bury((await desk.one()).receipt))
    request = Redrive("q", edit=parse_edit(["body.total=0"]), dry_run=True)
    tried = await desk.store.redrive(request)
    assert (tried.matched, tried.moved, tried.unfit) == (6, 0, 1)
    assert [(c.before.body, c.after.body) for c in tried.changes] == [
        (f'{{"n": {n}, "total": 5}}'.encode(), f'{{"n":{n},"total":0}}'.encode()) for n in range(3)
    ]
    assert len(await dead(desk)) == 6
    done = await desk.store.redrive(msgspec.structs.replace(request, dry_run=False))
    assert (done.matched, done.moved, done.unfit) == (6, 5, 1)
    assert "its body is no JSON" in done.unfit_reason
    assert await desk.bodies() == [f'{{"n":{n},"total":0}}' for n in range(5)]
    assert [letter.body for letter in await dead(desk)] == [b"no json"]


async def test_a_redrive_takes_the_letters_that_are_named(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 9)
    done = await desk.store.redrive(Redrive("q", ids=(ids[1], ids[7], "nope")))
    assert (done.matched, done.moved, done.ids) == (2, 2, [ids[1], ids[7]])
    assert [n for n, _ in await values(desk)] == [0, 2, 3, 4, 5, 6, 8]


async def test_a_move_remembers_its_edit_and_keeps_its_rate(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await letters(desk, 10)
    move = await desk.store.start_move(Redrive("q", rate=2, edit=parse_edit(["body.total=0"])))
    await desk.advance(2)
    assert 3 <= (await desk.stats()).ready <= 6
    await desk.advance(10)
    (ended,) = await desk.store.moves("q")
    assert (ended.state, ended.moved, ended.unfit, ended.edit) == ("completed", 10, 0, move.edit)
    assert sorted(await desk.bodies()) == [f'{{"n":{n},"total":0}}' for n in range(10)]


async def test_edits_and_discards_wait_for_the_end_of_a_move(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 5)
    await desk.store.start_move(Redrive("q", rate=0.1))
    with pytest.raises(RefusedError, match="takes from dead already"):
        await desk.store.edit(Rewrite("q", ids[4], parse_edit(["body.total=0"])))
    with pytest.raises(RefusedError, match="takes from dead already"):
        await desk.store.discard(Discard("q", every=True))


async def test_a_message_tells_how_often_it_was_sent_back_from_where_and_what_it_was_called(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    (first,) = await letters(desk, 1, headers={"traceparent": "00-1"})
    ids, times = [first], [desk.clock.now()]
    for _ in range(12):
        await desk.advance(10)
        times.append(desk.clock.now())
        await desk.store.redrive(Redrive("q"))
        delivery = await desk.one()
        ids.append(delivery.id)
        await desk.settle(Bury(delivery.receipt, Failure(desk.clock.now(), 1, "KeyError", "again")))
    (letter,) = await dead(desk)
    been = letter.provenance
    assert been is not None
    assert (been.id, been.sent_at, been.redrives) == (first, times[0], 12)
    assert [passage.id for passage in been.passages] == ids[2:-1]
    assert [passage.at for passage in been.passages] == times[3:]
    assert {(passage.source, passage.letters) for passage in been.passages} == {("q", "dead")}
    assert letter.headers["traceparent"] == "00-1"
    assert len(letter.failures) == 10, "failures go on over redrives, the last ten"


async def test_a_letter_is_told_with_when_it_was_received_and_how_long_it_is_kept(desk: Desk) -> None:
    await desk.queue("dead", retention=1000, max_receives=None)
    await desk.queue(dead_letters="dead", dead_letter_age="sent")
    await desk.send("a")
    await desk.advance(5)
    await desk.settle(Defer((await desk.one()).receipt, 0))
    await desk.advance(5)
    await desk.settle(Bury((await desk.one()).receipt))
    (letter,) = await dead(desk)
    now = desk.clock.now()
    assert (letter.sent_at, letter.first_received_at, letter.received_at) == (now - 10, now - 5, now)
    assert letter.kept_until == now - 10 + 1000


async def test_letters_that_were_sent_straight_to_their_queue_are_moved_once(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send(*(str(n) for n in range(7)), queue="dead")
    assert (await desk.store.redrive(Redrive("q"))).moved == 7
    assert await desk.bodies() == [str(n) for n in range(7)]
    assert await desk.counts("dead") == (0, 0, 0)


# -- deleting ------------------------------------------------------------------------------------------------------


async def test_discarded_letters_are_gone_and_counted(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 9)
    where = parse_where("body.n>=4", desk.clock.now())
    tried = await desk.store.discard(Discard("q", where=where, dry_run=True))
    assert (tried.examined, tried.matched, tried.discarded) == (9, 5, 0)
    done = await desk.store.discard(Discard("q", where=where, limit=2))
    assert (done.discarded, done.ids) == (2, ids[4:6])
    assert (await desk.store.discard(Discard("q", ids=(ids[0], ids[8])))).discarded == 2
    assert [n for n, _ in await values(desk)] == [1, 2, 3, 6, 7]
    assert (await desk.store.discard(Discard("q", every=True))).discarded == 5
    assert await desk.counts("dead") == (0, 0, 0)
    stats = await desk.stats()
    assert (stats.discarded, stats.dead, stats.purged) == (9, 0, 0)


async def test_nothing_is_discarded_without_a_selection(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="name ids or a condition, or say every one"):
        Discard("q")
    with pytest.raises(ConfigurationError, match="name ids or a condition, or say every one"):
        Discard("q", ids=("a",), every=True)


async def test_a_discarded_head_of_a_group_lets_the_group_go_on(desk: Desk) -> None:
    await desk.queue(fifo=True, dead_letters="dead")
    for n in range(3):
        await desk.send(str(n), group="g", dedup_id=str(n))
    while taken := await desk.take():
        await desk.settle(*(Bury(delivery.receipt) for delivery in taken))
    first = (await dead(desk))[0].id
    await desk.store.discard(Discard("q", ids=(first,)))
    assert (await desk.bodies(queue="dead"))[:1] == ["1"]


# -- the audit -----------------------------------------------------------------------------------------------------


async def test_the_audit_tells_each_action_with_who_what_which_and_how_many(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("other")
    ids = await letters(desk, 7)
    edit = parse_edit(["body.total=0"])
    await desk.store.edit(Rewrite("q", ids[0], edit, user="ada"))
    await desk.store.redrive(Redrive("q", to="other", ids=(ids[1],), edit=edit))
    await desk.store.discard(Discard("q", where=parse_where("body.n=2", desk.clock.now())))
    move = await desk.store.start_move(Redrive("q", rate=0.5, limit=9))
    await desk.advance(1)
    await desk.store.cancel_move(move.id)
    await desk.advance(60)
    purged = await desk.store.purge("dead")
    await desk.store.purge("other")
    entries = (await desk.store.audit("q"))[::-1]
    assert [entry.action for entry in entries] == ["edit", "redrive", "discard", "move", "cancel", "end", "purge"]
    edited, redriven, discarded, moved, cancelled, ended, emptied = entries
    assert (edited.user, edited.uid, edited.pid) == ("ada", os.geteuid(), os.getpid())
    assert {entry.letters for entry in entries} == {"dead"}
    assert (edited.queue, edited.selection, edited.edit, edited.count, edited.ids) == (
        "q", f"id {ids[0]}", "body.total=0", 1, [ids[0]],
    )  # fmt: skip
    assert edited.digests == [(fingerprint(b'{"n": 0, "total": 5}'), fingerprint(b'{"n":0,"total":0}'))]
    assert (redriven.to, redriven.count, redriven.ids, redriven.edit) == ("other", 1, [ids[1]], "body.total=0")
    assert redriven.digests == [(fingerprint(b'{"n": 1, "total": 5}'), fingerprint(b'{"n":1,"total":0}'))]
    assert (discarded.selection, discarded.count, discarded.ids) == ('where {"body.n":[2,"2"]}', 1, [ids[2]])
    assert (moved.selection, moved.move, moved.user) == ("all, at most 9", move.id, redriven.user)
    assert moved.count == ended.count == (await desk.store.moves("q"))[0].moved
    assert moved.ids == [id for id in ids if id not in ids[1:3]][: moved.count]
    assert (cancelled.move, ended.move, ended.note) == (move.id, move.id, "cancelled")
    assert (emptied.queue, emptied.count) == ("dead", purged)
    assert all(entry.finished for entry in entries)
    assert [entry.number for entry in entries] == list(range(1, 8))


async def test_the_audit_is_read_in_pages_of_one_queue_or_of_all(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("p", dead_letters="dead-p")
    ids = await letters(desk, 5)
    (other,) = await letters(desk, 1, "p")
    for n in range(5):
        await desk.store.edit(Rewrite("q", ids[n], parse_edit(["body.total=0"])))
    await desk.store.edit(Rewrite("p", other, parse_edit(["body.total=0"])))
    assert [entry.number for entry in await desk.store.audit("q", 2)] == [5, 4]
    assert [entry.number for entry in await desk.store.audit("q", 2, before=4)] == [3, 2]
    assert [entry.number for entry in await desk.store.audit()] == [6, 5, 4, 3, 2, 1]
    assert [entry.number for entry in await desk.store.audit("dead-p")] == [6]
    with pytest.raises(NotFound, match="neither a queue nor a stream nope"):
        await desk.store.audit("nope")


async def test_what_changes_nothing_is_not_in_the_audit(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    (id,) = await letters(desk, 1)
    await desk.store.edit(Rewrite("q", id, parse_edit(["body.total=0"]), dry_run=True))
    await desk.store.redrive(Redrive("q", dry_run=True))
    await desk.store.discard(Discard("q", every=True, dry_run=True))
    await desk.store.discard(Discard("q", ids=("nope",)))
    await desk.store.redrive(Redrive("q", where=parse_where("body.n=7", 0.0)))
    assert await desk.store.audit() == []
    assert await values(desk) == [(0, 5)]


async def test_an_entry_has_the_ids_of_its_first_hundred(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    ids = await letters(desk, 120)
    await desk.store.redrive(Redrive("q"))
    (entry,) = await desk.store.audit()
    assert (entry.count, entry.ids) == (120, ids[:100])
