"""What every broker finds when somebody looks through a queue without taking anything out of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeflow.errors import ConfigurationError, NotFound
from pipeflow.filters import parse_where
from pipeflow.looking import FOUND_BYTES
from pipeflow.messages import Bury, Defer, Failure, Outgoing
from pipeflow.protocols import Search, State

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk


async def fill(desk: Desk, count: int = 300) -> None:
    """More than a page, and far more than the small head holds."""
    await desk.queue(dead_letters="dead", max_receives=3)
    for n in range(count):
        customer = ["ada", "bo", "cy"][n % 3]
        body = json.dumps({"customer": customer, "n": n})
        await desk.send(
            body, delay=100.0 + n if n % 5 == 4 else None, attributes={"kind": "even" if n % 2 == 0 else "odd"}
        )


async def numbers(desk: Desk, limit: int = 1000, where: str | None = None, **search: object) -> list[int]:
    policy = parse_where(where, desk.clock.now()) if where is not None else None
    found = await desk.store.search(Search("q", limit, where=policy, **search))  # type: ignore[arg-type]  # a builder
    assert found.complete
    return [json.loads(each.body)["n"] for each in found]


async def test_a_search_looks_through_the_whole_queue_and_says_how_far(desk: Desk) -> None:
    await fill(desk)
    found = await desk.store.search(Search("q", where=parse_where("body.customer=nobody", desk.clock.now())))
    assert (found.messages, found.examined, found.complete) == ([], 300, True)
    assert await desk.counts() == (240, 60, 0)


async def test_a_search_stops_at_its_limit(desk: Desk) -> None:
    await fill(desk)
    found = await desk.store.search(Search("q", 2, where=parse_where("body.customer=bo", desk.clock.now())))
    assert [json.loads(each.body)["customer"] for each in found] == ["bo", "bo"]
    assert json.loads(found.messages[0].body)["n"] == 1
    assert not found.complete
    assert found.examined < 20


async def test_a_search_on_disk_stops_before_it_holds_all_of_a_large_queue(desk: Desk) -> None:
    await desk.queue()
    for _ in range(7):
        await desk.store.send("q", [Outgoing(bytes(200_000))] * 30)
    found = await desk.store.search(Search("q", 1_000))
    if desk.store.features.durable:
        assert sum(len(each.body) for each in found) <= FOUND_BYTES + 200_000
        assert not found.complete
        assert found.examined == len(found) > 150
    else:
        assert (len(found), found.complete) == (210, True)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("body.customer=ada", [n for n in range(300) if n % 3 == 0]),
        ("body.n>=290,body.n<295", [*range(290, 295)]),
        ("attributes.kind=odd,body.customer=cy", [n for n in range(300) if n % 6 == 5]),
        ("state=delayed,body.n<20", [4, 9, 14, 19]),
        ("attempt>0", []),
    ],
)
async def test_a_condition_looks_at_bodies_attributes_and_states(desk: Desk, where: str, wanted: list[int]) -> None:
    await fill(desk)
    assert sorted(await numbers(desk, where=where)) == wanted


async def test_text_is_found_in_the_body_as_it_was_sent(desk: Desk) -> None:
    await desk.queue()
    await desk.send("no JSON: ada", "ADA", '{"x": "Zoë"}', *(f"{n}" for n in range(20)))
    found = await desk.store.search(Search("q", contains=b"ada"))
    assert ([each.body for each in found], found.examined) == ([b"no JSON: ada"], 23)
    assert len(await desk.store.search(Search("q", contains="Zoë".encode()))) == 1


async def test_a_state_is_looked_for_where_it_can_be(desk: Desk) -> None:
    await fill(desk, 60)
    taken = await desk.take(3)
    await desk.settle(Defer(taken[0].receipt, 50.0))
    states: dict[State, int] = {"ready": 45, "delayed": 13, "in_flight": 2}
    for state, count in states.items():
        found = await desk.store.search(Search("q", 1000, state=state))
        assert {each.state for each in found} == {state}
        assert len(found) == count


async def test_looking_touches_nothing(desk: Desk) -> None:
    await fill(desk, 60)
    before = await desk.stats()
    await numbers(desk, contains=b"ada")
    assert await desk.stats() == before
    assert [delivery.attempt for delivery in await desk.take(100)] == [1] * 48


async def test_the_dead_letters_of_a_queue_are_looked_through(desk: Desk) -> None:
    await fill(desk, 40)
    for delivery in await desk.take(30):
        await desk.settle(Bury(delivery.receipt, Failure(desk.clock.now(), 1, "ValueError", "no")))
    where = parse_where("error=ValueError,body.customer=bo", desk.clock.now())
    found = await desk.store.search(Search("q", 1000, dead=True, where=where))
    assert found.examined == 30
    assert {json.loads(each.body)["customer"] for each in found} == {"bo"}
    assert {each.queue for each in found} == {"dead"}


async def test_a_fifo_queue_is_looked_through_whatever_its_groups(desk: Desk) -> None:
    await desk.queue(fifo=True, delay=30)
    for n in range(50):
        await desk.send(f'{{"n": {n}}}', group="abcdefg"[n % 7])
    assert await numbers(desk, state="delayed") == [*range(50)]
    await desk.advance(30)
    assert sorted(await numbers(desk, where="group=c")) == [n for n in range(50) if n % 7 == 2]
    assert await numbers(desk, state="delayed") == []


async def test_keys_dedup_ids_and_priorities_can_be_looked_for(desk: Desk) -> None:
    await desk.queue()
    for n in range(30):
        await desk.send(f'{{"n": {100 + n}}}', priority=n % 10)
    assert await numbers(desk, where="priority>8") == [109, 119, 129]
    assert len(await numbers(desk, where="priority<=8")) == 27
    await desk.send('{"n": 1}', key="invoice-1", delay=50.0)
    await desk.send('{"n": 2}', dedup_id="two")
    assert await numbers(desk, where="key=invoice*") == [1]
    assert await numbers(desk, where="dedup_id=two") == [2]


async def test_a_limit_of_nothing_and_an_unknown_queue_are_refused(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="limit is 0"):
        Search("q", 0)
    with pytest.raises(NotFound):
        await desk.store.search(Search("nowhere"))
