"""The store as a test sees it: what it notes, and what misfortune does on the way to the handlers."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from pipeflow.errors import ConfigurationError
from pipeflow.messages import (
    Ack,
    Delivery,
    Emit,
    Extend,
    Outgoing,
    Receipt,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import Store
from pipeflow.testing.chaos import Chaos, Misfortune
from pipeflow.testing.tap import Tap, WorkerDied


class Plain:
    """A store that hands out what it is given and remembers what it was told."""

    url = "memory://plain"

    def __init__(self, *deliveries: Delivery, answers: Sequence[Sent | Refused] = ()) -> None:
        self.deliveries = deliveries
        self.answers = answers
        self.settled: list[Settlement] = []

    async def publish(self, topic: str, batch: Sequence[Outgoing]) -> Sequence[Sent | Refused]:
        return self.answers or [Sent("id") for _ in batch]

    async def receive(self, queue: str, want: Want) -> Sequence[Delivery]:
        return self.deliveries

    async def settle(self, queue: str, batch: Sequence[Settlement]) -> Sequence[Settled | Stale]:
        self.settled += batch
        return [Settled() if each.receipt.receive < 100 else Stale() for each in batch]


def tap(store: Plain, chaos: Chaos | None = None, *, seed: int = 1, fifo: Sequence[str] = ()) -> Tap:
    return Tap(cast(Store, store), None if chaos is None else Misfortune(chaos, seed), fifo)


def delivery(place: int = 1, queue: str = "billing", receive: int = 1) -> Delivery:
    return Delivery(
        id=f"m{place}",
        queue=queue,
        body=b"{}",
        receipt=Receipt(place, 1, receive),
        attempt=1,
        sent_at=0.0,
        deadline=30.0,
        sequence=place,
    )


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_chaos_is_from_never_to_always(share: float) -> None:
    with pytest.raises(ConfigurationError, match=r"use 0 \(never\) to 1 \(always\)"):
        Chaos(crash=share)
    with pytest.raises(ConfigurationError, match="duplicate"):
        Chaos(duplicate=share)


def test_equal_seeds_meet_equal_fates() -> None:
    def fates(seed: int) -> list[bool]:
        misfortune = Misfortune(Chaos(crash=0.5, duplicate=0.5), seed)
        return [misfortune.crashes() for _ in range(50)] + [misfortune.comes_twice() for _ in range(50)]

    assert fates(7) == fates(7)
    assert fates(7) != fates(8)


def test_chaos_happens_about_as_often_as_it_was_asked_for() -> None:
    misfortune = Misfortune(Chaos(crash=0.1), seed=3)
    assert 60 < sum(misfortune.crashes() for _ in range(1000)) < 140
    assert not any(misfortune.comes_twice() for _ in range(1000))


async def test_what_a_topic_accepted_is_noted_and_what_it_refused_or_knew_is_not() -> None:
    store = Plain(answers=[Sent("a"), Refused("TooLarge", "no"), Sent("c", duplicate=True)])
    watched = tap(store)
    await watched.publish("orders", [Outgoing(b"1"), Outgoing(b"2"), Outgoing(b"3")])
    assert watched.published == {"orders": [Outgoing(b"1")]}


async def test_an_emit_is_published_when_its_acknowledgement_is_settled() -> None:
    watched = tap(Plain())
    emit = Emit("topic", "receipts", Outgoing(b"r"))
    aside = Emit("queue", "other", Outgoing(b"q"))
    late = Ack(Receipt(2, 1, 100), [Emit("topic", "receipts", Outgoing(b"late"))])
    await watched.settle("billing", [Ack(Receipt(1, 1, 1), [emit, aside]), late])
    assert watched.published == {"receipts": [Outgoing(b"r")]}


async def test_everything_else_is_the_stores_own() -> None:
    assert tap(Plain()).url == "memory://plain"


async def test_without_chaos_deliveries_pass_as_they_are() -> None:
    store = Plain(delivery(1), delivery(2))
    watched = tap(store)
    assert await watched.receive("billing", Want()) == (delivery(1), delivery(2))
    assert await watched.middleware(delivery(1), returns) == "done"
    assert store.settled == []


async def returns(delivery: Delivery) -> object:
    return "done"


async def test_what_a_dying_worker_settles_never_reaches_the_store() -> None:
    store = Plain(delivery(1))
    watched = tap(store, Chaos(crash=1))
    await watched.receive("billing", Want())
    answers = await watched.settle("billing", [Ack(Receipt(1, 1, 1)), Extend(Receipt(2, 1, 1), 30)])
    assert [type(answer) for answer in answers] == [Stale, Settled]
    assert store.settled == [Extend(Receipt(2, 1, 1), 30)]
    assert [type(answer) for answer in await watched.settle("billing", [Extend(Receipt(1, 1, 1), 30)])] == [Stale]


async def test_the_next_receive_of_a_message_whose_worker_died_is_a_new_life() -> None:
    store = Plain(delivery(1))
    watched = tap(store, Chaos(crash=1))
    await watched.receive("billing", Want())
    assert isinstance((await watched.settle("billing", [Ack(Receipt(1, 1, 2))]))[0], Settled)


async def steps_before_death(seed: int) -> list[str]:
    store = Plain(delivery(1))
    watched = tap(store, Chaos(crash=1), seed=seed)
    await watched.receive("billing", Want())
    done: list[str] = []

    async def handler(delivery: Delivery) -> object:
        done.append("called")
        try:
            for number in range(2):
                await asyncio.sleep(0)
                done.append(f"after await {number + 1}")
        except asyncio.CancelledError:
            done.append("cut off")
            raise
        return "done"

    with pytest.raises(WorkerDied, match="the worker died with message m1 of billing"):
        await watched.middleware(delivery(1), handler)
    return done


async def test_a_call_is_cut_off_before_it_began_at_an_await_or_after_it_returned() -> None:
    seen = {tuple(await steps_before_death(seed)) for seed in range(60)}
    assert seen == {
        (),
        ("called", "cut off"),
        ("called", "after await 1", "cut off"),
        ("called", "after await 1", "after await 2"),
    }


async def seed_of(*length: int) -> int:
    for seed in range(60):
        if len(await steps_before_death(seed)) in length:
            return seed
    raise AssertionError("no seed meets this fate")


async def test_cancelling_a_dying_call_from_outside_reaches_the_handler() -> None:
    granted_an_await = await seed_of(3)
    watched = tap(Plain(delivery(1)), Chaos(crash=1), seed=granted_an_await)
    await watched.receive("billing", Want())
    reached: list[str] = []

    async def handler(delivery: Delivery) -> object:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            reached.append("cancelled")
            raise
        return None

    call = asyncio.ensure_future(cast("asyncio.Future[object]", watched.middleware(delivery(1), handler)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert reached == ["cancelled"]


async def test_an_error_of_a_dying_call_stays_its_own() -> None:
    called_at_all = await seed_of(2, 3)
    watched = tap(Plain(delivery(1)), Chaos(crash=1), seed=called_at_all)
    await watched.receive("billing", Want())

    async def handler(delivery: Delivery) -> object:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await watched.middleware(delivery(1), handler)


async def test_a_duplicate_is_given_back_unharmed_while_the_first_call_works() -> None:
    store = Plain(delivery(1))
    arrived = await tap(store, Chaos(duplicate=1)).receive("billing", Want())
    assert arrived == (delivery(1),)
    assert store.settled == [Release(Receipt(1, 1, 1))]


async def test_a_fifo_queue_never_gives_a_message_twice() -> None:
    store = Plain(delivery(1, queue="ledger"))
    await tap(store, Chaos(duplicate=1), fifo=["ledger"]).receive("ledger", Want())
    assert store.settled == []
