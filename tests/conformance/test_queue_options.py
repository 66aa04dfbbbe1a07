"""What every broker does when options of a queue change, and when a queue is deleted (SQS: Q14, Q16, Q74, Q88 ...)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError, NotFound, RefusedError, SpecConflict
from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Extend,
    Outgoing,
    Receipt,
    Refused,
    Release,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import Redrive
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def test_Q14_a_queue_declared_again_as_it_is_stays_as_it_is(desk: Desk) -> None:
    await desk.queue(delay=5)
    await desk.send("a")
    before = await desk.stats()
    await desk.advance(10)
    await desk.queue(delay=5)
    assert ((await desk.stats()).created_at, (await desk.stats()).modified_at) == (
        before.created_at,
        before.modified_at,
    )
    assert await desk.bodies() == ["a"]


async def test_Q14_Q74_what_messages_depend_on_is_refused_with_a_diff(desk: Desk) -> None:
    await desk.queue(fifo=True)
    with pytest.raises(SpecConflict, match="dedup_scope: 'queue' in the store, 'group' in the code"):
        await desk.queue(fifo=True, dedup_scope="group")
    with pytest.raises(SpecConflict, match="fifo: True in the store, False in the code"):
        await desk.queue()
    first, second = await desk.send("a", "b", group="g", dedup_id="1")
    assert second.duplicate, "still the scope that it was made with"
    (other,) = await desk.send("c", group="h", dedup_id="1")
    assert other.duplicate
    assert first.id == other.id


async def test_Q16_a_new_visibility_timeout_holds_from_the_next_receive_on(desk: Desk) -> None:
    await desk.queue(visibility_timeout=100)
    await desk.send("a", "b")
    first = await desk.one()
    await desk.queue(visibility_timeout=10)
    second = await desk.one()
    assert (first.deadline - desk.clock.now(), second.deadline - desk.clock.now()) == (100, 10)


async def test_Q16_other_options_hold_at_once(desk: Desk) -> None:
    await desk.queue(max_receives=5, dead_letters="dead")
    await desk.send("a", "b", "c")
    await desk.settle(Defer((await desk.one()).receipt, 0))
    await desk.queue(max_receives=1, dead_letters="dead", max_in_flight=1, delay=50, max_body=10)
    assert await desk.bodies() == ["b"], "no more than one in flight"
    await desk.queue(max_receives=1, dead_letters="dead", delay=50, max_body=10)
    assert await desk.bodies() == ["c"], "a was received once, and that is enough now"
    assert await desk.bodies(queue="dead") == ["a"]
    await desk.send("d")
    assert await desk.counts() == (0, 1, 2)
    (answer,) = await desk.store.send("q", [Outgoing(b"x" * 11)])
    assert isinstance(answer, Refused)
    await desk.queue(max_receives=1, dead_letters="dead", retention=20)
    await desk.advance(20)
    assert await desk.counts() == (0, 0, 0)


async def test_Q103_the_time_of_last_modification_changes_with_options_only(desk: Desk) -> None:
    made = desk.clock.now()
    await desk.queue()
    await desk.advance(10)
    await desk.send("a")
    await desk.ack(await desk.one())
    await desk.queue()
    await desk.queue(tags={"team": "billing"})
    stats = await desk.stats()
    assert (stats.created_at, stats.modified_at, stats.tags) == (made, made, {"team": "billing"})
    await desk.queue(delay=1)
    stats = await desk.stats()
    assert (stats.created_at, stats.modified_at) == (made, made + 10)


async def test_Q88_dead_letters_may_say_whose_they_are(desk: Desk) -> None:
    await desk.queue("open", max_receives=None)
    await desk.queue("closed", max_receives=None, dead_letters_from=())
    await desk.queue("chosen", max_receives=None, dead_letters_from=("q", "other"))
    await desk.queue(dead_letters="open")
    with pytest.raises(ConfigurationError, match="closed takes dead letters of no queue only"):
        await desk.queue(dead_letters="closed")
    with pytest.raises(ConfigurationError, match="chosen takes dead letters of q, other only"):
        await desk.queue("stranger", dead_letters="chosen")
    await desk.queue(dead_letters="chosen")
    await desk.send("a")
    await desk.settle(Bury((await desk.one()).receipt))
    assert await desk.bodies(queue="chosen") == ["a"]


async def test_Q104_the_queues_that_use_a_dead_letters_queue_are_listed(desk: Desk) -> None:
    await desk.queue("a", dead_letters="dead")
    await desk.queue("b", dead_letters="dead")
    await desk.queue("c", dead_letters="c-dead")
    assert (await desk.stats("dead")).dead_letters_of == ["a", "b"]
    assert (await desk.stats("c-dead")).dead_letters_of == ["c"]
    await desk.queue("b", dead_letters="c-dead")
    assert (await desk.stats("dead")).dead_letters_of == ["a"]


async def test_Q86_dead_letters_take_a_number_of_receives_from_one_to_a_thousand(desk: Desk) -> None:
    for wrong in (0, 1001):
        with pytest.raises(ConfigurationError, match="use 1 to 1000"):
            await desk.queue(max_receives=wrong, dead_letters="dead")
    await desk.queue(max_receives=1000, dead_letters="dead")


async def test_Q105_Q15_Q22_deleting_a_queue_drops_what_is_in_it_and_its_name_is_free_at_once(desk: Desk) -> None:
    await desk.queue()
    await desk.send(*(str(n) for n in range(10)))
    await desk.send("later", delay=100)
    held = await desk.one()
    assert await desk.store.delete_queue("q") == 11
    for call in (
        desk.store.send("q", [Outgoing(b"x")]),
        desk.store.receive("q", Want()),
        desk.store.settle("q", [Ack(held.receipt)]),
        desk.store.delete_queue("q"),
    ):
        with pytest.raises(NotFound, match="there is no queue q"):
            await call
    await desk.queue()
    await desk.advance(200)
    assert await desk.bodies() == []
    assert isinstance((await desk.settle(Ack(held.receipt)))[0], Stale)
    await desk.send("new")
    assert await desk.bodies() == ["new"]


async def test_Q105_a_queue_that_takes_dead_letters_is_not_deleted_and_its_own_stay(desk: Desk) -> None:
    await desk.queue(dead_letters="dead")
    await desk.send("a")
    await desk.settle(Bury((await desk.one()).receipt))
    with pytest.raises(RefusedError, match="takes the dead letters of q"):
        await desk.store.delete_queue("dead")
    await desk.store.delete_queue("q")
    assert await desk.bodies(queue="dead") == ["a"]
    assert await desk.store.delete_queue("dead") == 1


async def test_Q105_a_deleted_queue_is_subscribed_to_nothing(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"), QueueSpec("other"))
    await desk.store.delete_queue("q")
    await desk.publish("x")
    assert await desk.bodies(queue="other") == ["x"]
    assert [each.target for each in (await desk.store.describe()).subscriptions] == ["other"]


async def test_Q106_a_receive_that_waits_on_a_deleted_queue_ends_with_an_error(desk: Desk) -> None:
    await desk.queue()
    waiting = asyncio.create_task(_receive(desk, 20.0))
    await desk.clock.settle()
    await asyncio.sleep(0)
    await desk.store.delete_queue("q")
    async with asyncio.timeout(10):
        with pytest.raises(NotFound, match="there is no queue q"):
            await waiting


async def _receive(desk: Desk, wait: float) -> None:
    await desk.store.receive("q", Want(wait=wait))


async def test_Q100_a_move_whose_destination_is_deleted_fails_and_says_why(desk: Desk) -> None:
    await desk.queue("to")
    await desk.queue(dead_letters="dead")
    await desk.send(*"abcd")
    await desk.settle(*(Bury(delivery.receipt) for delivery in await desk.take()))
    await desk.store.start_move(Redrive("q", to="to", rate=1))
    await desk.advance(1.5)
    await desk.store.delete_queue("to")
    await desk.advance(5)
    (move,) = await desk.store.moves("q")
    assert (move.state, "there is no queue to" in move.failure) == ("failed", True)
    assert (await desk.stats()).dead == 4 - move.moved


async def ask(desk: Desk, id: str, limit: int = 10, timeout: float = 30.0) -> list[tuple[str, Receipt]]:
    want = Want(limit, visibility_timeout=timeout, attempt_id=id)
    return [(delivery.body.decode(), delivery.receipt) for delivery in await desk.store.receive("q", want)]


async def test_Q57_a_receive_with_the_same_id_brings_the_same_messages_and_receipts(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", "b", group="g")
    first = await ask(desk, "1")
    assert first
    await desk.advance(20)
    assert await ask(desk, "1") == first
    await desk.advance(20)
    assert await ask(desk, "1") == first, "their visibility timeout began again"
    assert (await desk.counts())[2] == len(first)
    await desk.advance(31)
    again = await ask(desk, "1")
    assert [body for body, _ in again] == [body for body, _ in first]
    assert again != first, "they were visible meanwhile: an ordinary receive"


@pytest.mark.parametrize("change", ["ack", "extend", "release"])
async def test_Q57_what_changed_meanwhile_makes_it_an_ordinary_receive(desk: Desk, change: str) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    await desk.send("b", group="h")
    ((_, receipt),) = await ask(desk, "1", limit=1)
    ways: dict[str, Settlement] = {"ack": Ack(receipt), "extend": Extend(receipt, 100.0), "release": Release(receipt)}
    assert await desk.settle(ways[change]) == [Settled()]
    again = await ask(desk, "1", limit=1)
    assert [body for body, _ in again] == (["a"] if change == "release" else ["b"])
    assert again[0][1] != receipt


async def test_Q57_what_was_changed_and_changed_back_is_not_as_it_was(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    ((_, receipt),) = await ask(desk, "1")
    assert await desk.settle(Extend(receipt, 100.0)) == [Settled()]
    assert await ask(desk, "1") == []
    assert await desk.settle(Extend(receipt, 30.0)) == [Settled()]
    assert await ask(desk, "1") == []


async def test_Q57_what_was_extended_to_the_deadline_it_had_is_not_as_it_was(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    ((_, receipt),) = await ask(desk, "1")
    await desk.advance(10)
    assert await desk.settle(Extend(receipt, 20.0)) == [Settled()]
    assert await ask(desk, "1") == []


async def test_Q57_Q63_a_receive_that_is_repeated_hides_its_messages_for_twelve_hours_at_most(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    first = await ask(desk, "1", timeout=43_200.0)
    await desk.advance(200)
    assert await ask(desk, "1", timeout=43_200.0) == first
    await desk.advance(43_000)
    assert await desk.counts() == (1, 0, 0)


async def test_Q57_a_repeat_that_is_given_up_takes_nothing_from_who_has_it(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    want = Want(durable=True, attempt_id="1")
    (held,) = await desk.store.receive("q", want)
    repeat = asyncio.create_task(_receive_all(desk, want))
    await asyncio.sleep(0)
    repeat.cancel()
    await asyncio.wait([repeat])
    assert await desk.bodies() == []
    (again,) = await desk.store.receive("q", want)
    assert again.receipt == held.receipt
    await desk.ack(held)


async def _receive_all(desk: Desk, want: Want) -> None:
    await desk.store.receive("q", want)


async def test_Q57_after_five_minutes_the_id_means_nothing(desk: Desk) -> None:
    await desk.queue(fifo=True)
    await desk.send("a", group="g")
    first = await ask(desk, "1", timeout=1000.0)
    await desk.advance(299)
    assert await ask(desk, "1", timeout=1000.0) == first
    await desk.advance(300)
    assert await ask(desk, "1", timeout=1000.0) == []


async def test_Q57_ids_are_for_fifo_queues(desk: Desk) -> None:
    await desk.queue()
    with pytest.raises(ConfigurationError, match="is for FIFO queues"):
        await ask(desk, "1")


async def test_Q20_tags_are_kept_with_the_queue_and_replaced_by_those_declared_last(desk: Desk) -> None:
    await desk.queue(tags={"team": "shop", "cost-centre": ""})
    await desk.send("a")
    await desk.queue(tags={"team": "billing", "Team": "x"})
    assert (await desk.stats()).tags == {"team": "billing", "Team": "x"}
    assert await desk.bodies() == ["a"]
    for wrong in ({"": "x"}, {"k" * 129: ""}, {"k": "v" * 257}, {str(n): "" for n in range(51)}):
        with pytest.raises(ConfigurationError, match=r"tags; use at most 50"):
            await desk.queue(tags=wrong)
