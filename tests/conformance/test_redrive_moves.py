"""What every broker does with moves of dead letters (SQS: Q96-Q101)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeflow.edits import parse_edit
from pipeflow.errors import ConfigurationError, NotFound, RefusedError
from pipeflow.filters import parse_where
from pipeflow.messages import Bury, Defer, Outgoing
from pipeflow.protocols import Redrive
from pipeflow.specs import DAY, TopicSpec, Topology, archive_of, archive_queue

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def bury(desk: Desk, count: int, queue: str = "q") -> None:
    """Send so many messages and bury them."""
    await desk.send(*(f"{queue}{n}" for n in range(count)), queue=queue)
    for _ in range(count):
        await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take(count, queue)), queue=queue)


async def test_Q96_only_dead_letters_are_moved_and_both_queues_exist(desk: Desk) -> None:
    await desk.queue("plain")
    await desk.queue(dead_letters="dead")
    with pytest.raises(NotFound, match="has no dead letters"):
        await desk.store.start_move(Redrive("plain"))
    with pytest.raises(NotFound, match="there is no queue nowhere"):
        await desk.store.start_move(Redrive("nowhere"))
    with pytest.raises(NotFound, match="there is no queue nowhere"):
        await desk.store.start_move(Redrive("q", to="nowhere"))


async def test_Q96_no_dead_letters_go_to_the_archive_of_a_topic(desk: Desk) -> None:
    topic = TopicSpec("t", archive=DAY)
    await desk.store.declare(Topology(topics=(topic,), queues=(archive_queue(topic),)))
    await desk.queue(dead_letters="dead")
    await bury(desk, 1)
    for ask in (desk.store.redrive, desk.store.start_move):
        with pytest.raises(RefusedError, match="is the archive of a topic"):
            await ask(Redrive("q", to=archive_of("t")))
    assert (await desk.stats()).dead == 1


async def test_Q96_a_rate_is_kept_on_the_clock(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await bury(desk, 20)
    move = await desk.store.start_move(Redrive("q", rate=2.0))
    assert (move.state, move.to_move, move.moved) == ("running", 20, 0)
    for second in range(10):
        await desk.advance(0.9)
        moved = (await desk.stats()).ready
        assert moved <= 2 * second + 3, "no faster"
        await desk.advance(0.1)
        assert (await desk.stats()).ready >= min(20, 2 * second + 1), "no slower"
    await desk.advance(1)
    (ended,) = await desk.store.moves("q")
    assert (ended.id, ended.state, ended.moved, ended.rate) == (move.id, "completed", 20, 2.0)
    assert ended.ended_at is not None
    assert 9.0 <= ended.ended_at - ended.started_at <= 11.0


async def test_Q96_a_rate_is_more_than_nothing(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="rate is 0"):
        Redrive("q", rate=0)


async def test_Q97_one_move_at_a_time_takes_from_the_same_dead_letters(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("other", dead_letters="dead")
    await desk.queue("third", dead_letters="dead-3")
    await bury(desk, 3)
    move = await desk.store.start_move(Redrive("q", rate=0.1))
    with pytest.raises(RefusedError, match=f"move {move.id} takes from dead already"):
        await desk.store.start_move(Redrive("other"))
    with pytest.raises(RefusedError, match="one does at a time"):
        await desk.store.redrive(Redrive("q"))
    await desk.store.start_move(Redrive("third"))
    await desk.advance(60)
    assert (await desk.store.start_move(Redrive("other"))).state == "running"


async def test_Q98_without_a_destination_each_letter_goes_back_to_the_queue_it_came_from(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("other", dead_letters="dead")
    await bury(desk, 3)
    await bury(desk, 2, "other")
    await desk.store.start_move(Redrive("q"))
    await desk.advance(1)
    assert (await desk.bodies(), await desk.bodies(queue="other")) == (["q0", "q1", "q2"], ["other0", "other1"])


async def test_Q98_a_letter_whose_queue_is_gone_goes_to_no_other(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("other", dead_letters="dead")
    await bury(desk, 2, "other")
    await bury(desk, 2)
    await desk.store.delete_queue("other")
    await desk.store.start_move(Redrive("q", rate=1))
    await desk.advance(5)
    (move,) = await desk.store.moves("q")
    assert (move.state, move.moved, "no queue other any more" in move.failure) == ("failed", 0, True)
    with pytest.raises(NotFound, match="name one for them with --to"):
        await desk.store.redrive(Redrive("q"))
    assert (await desk.counts(), await desk.counts("dead")) == ((0, 0, 0), (4, 0, 0))
    assert (await desk.store.redrive(Redrive("q", to="q"))).moved == 4


async def test_Q98_a_letter_does_not_go_to_a_queue_of_another_kind_that_has_its_name_now(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.queue("other", dead_letters="dead")
    await bury(desk, 1, "other")
    await desk.store.delete_queue("other")
    await desk.queue("other", fifo=True)
    with pytest.raises(NotFound, match="dead letters of a standard queue go to a standard queue"):
        await desk.store.redrive(Redrive("q"))
    assert await desk.counts("other") == (0, 0, 0)


async def test_Q98_what_was_sent_to_the_dead_letters_goes_to_the_queue_that_asks(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send("a", queue="dead")
    assert (await desk.store.redrive(Redrive("q"))).moved == 1
    assert await desk.bodies() == ["a"]


async def test_Q99_moved_letters_are_new_messages_oldest_first(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    (sent,) = await desk.send("a", attributes={"kind": "x"})
    await desk.settle(Bury((await desk.one()).receipt))
    await desk.store.start_move(Redrive("q"))
    await desk.advance(1)
    delivery = await desk.one()
    assert (delivery.attempt, delivery.attributes, delivery.dead_letter_source) == (1, {"kind": "x"}, None)
    assert delivery.id != sent.id


async def test_Q98_what_fails_again_meanwhile_is_not_moved_again(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await bury(desk, 12)
    await desk.store.start_move(Redrive("q", rate=4))
    for _ in range(8):
        await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take()))
        await desk.advance(1)
    (move,) = await desk.store.moves("q")
    assert (move.state, move.moved) == ("completed", 12)
    assert (await desk.stats()).dead == 12


async def test_Q100_a_move_takes_what_matches_up_to_its_limit_and_the_last_ten_are_listed(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send(*(f'{{"n": {n}}}' for n in range(8)))
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take()))
    where = parse_where("body.n>=2", desk.clock.now())
    ids = []
    for _ in range(12):
        ids.append((await desk.store.start_move(Redrive("q", where=where, limit=1))).id)
        await desk.advance(1)
    moves = await desk.store.moves("q")
    assert [move.id for move in moves] == ids[:1:-1]
    assert [move.moved for move in moves] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert await desk.store.moves() == moves
    assert (await desk.stats()).dead == 2


async def test_Q100_a_move_from_dead_letters_that_are_deleted_fails_and_says_so(desk: Desk) -> None:
    await desk.queue("to")
    await desk.queue(dead_letters="dead")
    await bury(desk, 10)
    await desk.store.start_move(Redrive("q", to="to", rate=1))
    await desk.advance(2.5)
    await desk.store.delete_queue("q")
    await desk.store.delete_queue("dead")
    await desk.queue("dead")
    await desk.advance(10)
    (move,) = await desk.store.moves()
    assert (move.state, move.moved) == ("failed", 3)
    assert move.failure == "the dead letters dead were deleted meanwhile"
    assert await desk.counts("to") == (3, 0, 0)


async def test_Q101_a_cancelled_move_leaves_moved_what_was_moved(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await bury(desk, 10)
    move = await desk.store.start_move(Redrive("q", rate=1))
    await desk.advance(3.5)
    cancelled = await desk.store.cancel_move(move.id)
    assert cancelled.state in ("cancelling", "cancelled")
    await desk.advance(100)
    (ended,) = await desk.store.moves("q")
    assert (ended.state, ended.moved) == ("cancelled", cancelled.moved)
    assert ((await desk.stats()).ready, (await desk.stats()).dead) == (ended.moved, 10 - ended.moved)
    assert 3 <= ended.moved <= 5
    with pytest.raises(RefusedError, match="has ended"):
        await desk.store.cancel_move(move.id)
    with pytest.raises(NotFound, match="there is no move nope"):
        await desk.store.cancel_move("nope")
    assert (await desk.store.redrive(Redrive("q"))).moved == 10 - ended.moved


async def test_Q99_a_letter_in_somebodys_hands_stays_there(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await bury(desk, 3)
    held = await desk.one("dead")
    assert (await desk.store.redrive(Redrive("q"))).moved == 2
    await desk.store.start_move(Redrive("q"))
    await desk.advance(1)
    assert await desk.bodies() == ["q1", "q2"]
    await desk.ack(held, queue="dead")


async def test_Q91_letters_of_a_fifo_queue_are_known_by_the_ids_of_their_messages(desk: Desk) -> None:
    await desk.queue(fifo=True, dead_letters="dead")
    (sent,) = await desk.send("a", group="g", dedup_id="once")
    await desk.settle(Bury((await desk.one()).receipt))
    letter = await desk.one("dead")
    assert (letter.id, letter.dedup_id, letter.group) == (sent.id, sent.id, "g")


async def test_Q48_who_waits_for_letters_gets_what_a_redrive_to_another_queue_lets_come_up(desk: Desk) -> None:
    """The first of its group was deferred, and held the second back; it is moved away."""
    await desk.queue(fifo=True, dead_letters="dead")
    await desk.queue("other", fifo=True, dead_letters=None)
    await desk.send("first", "second", group="g")
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take(2)))
    await desk.settle(Defer((await desk.one("dead")).receipt, 1000.0), queue="dead")
    async with desk.waiting("dead", wait=500.0) as waiting:
        assert (await desk.store.redrive(Redrive("q", to="other", limit=1))).moved == 1
        assert await waiting.bodies() == ["second"]


async def test_Q96_a_letter_that_an_edit_cannot_read_stays_and_the_others_are_moved(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    unreadable = (b'{"a":1,"name":"Jos\xe9"}', b'{"a":1,"n":1e}', b"[" * 5000 + b"]" * 5000)
    await desk.store.send("q", [Outgoing(body) for body in (*unreadable, b'{"a":1}')])
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take(4)))
    await desk.store.start_move(Redrive("q", rate=10, edit=parse_edit(["body.a=2"])))
    await desk.advance(2)
    (move,) = await desk.store.moves("q")
    assert (move.state, move.moved, move.unfit) == ("completed", 1, 3)
    assert await desk.bodies() == ['{"a":2}']
    redriven = await desk.store.redrive(Redrive("q", edit=parse_edit(["body.a=2"])))
    assert (redriven.moved, redriven.unfit) == (0, 3)
