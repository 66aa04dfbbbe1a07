"""`queue.dead_letters`: an app mends what failed, with the types of its queues."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeflow import App, Backoff, Message, Queue, Reject
from pipeflow.errors import CodecError, ConfigurationError, RefusedError
from pipeflow.messages import Outgoing
from pipeflow.testing import harness


class Order(msgspec.Struct):
    id: str
    total: int


def shop() -> tuple[App, Queue[Order], list[Order]]:
    """An app that rejects what costs nothing."""
    app, done = App("shop"), list[Order]()
    billing = app.queue("billing", Order)

    @billing.handler
    async def charge(order: Order) -> None:
        if order.total <= 0:
            raise Reject("nothing to charge")
        done.append(order)

    return app, billing, done


async def test_letters_are_mended_on_their_way_back_or_where_they_lie() -> None:
    app, billing, done = shop()
    async with harness(app) as h:
        for n in range(4):
            await billing.send(Order(f"o{n}", 0))
        await h.settle()
        first, second, third, fourth = (letter.id for letter in await billing.peek(dead=True))
        letters = billing.dead_letters
        assert (await letters.edit(first, "body.total=1", user="ada")).after.body == b'{"id":"o0","total":1}'
        await letters.edit(second, value=Order("new", 2))
        tried = await letters.redrive("body.total=3", ids=[third], dry_run=True)
        assert [change.after.body for change in tried.changes] == [b'{"id":"o2","total":3}']
        assert (await letters.redrive("body.total=3", ids=[third])).moved == 1
        assert (await letters.redrive(where="body.total>0")).moved == 2
        assert (await letters.discard(ids=[fourth])).discarded == 1
        await h.settle()
        assert sorted((order.id, order.total) for order in done) == [("new", 2), ("o0", 1), ("o2", 3)]
        assert h.dead(billing) == []
        entries = await letters.audit()
        assert [entry.action for entry in entries] == ["discard", "redrive", "redrive", "edit", "edit"]
        assert entries[-1].user == "ada"


async def test_what_the_handler_could_not_read_is_refused_and_nothing_changes() -> None:
    app, billing, done = shop()
    async with harness(app) as h:
        await billing.send(Order("a", 0))
        await h.settle()
        (letter,) = await billing.peek(dead=True)
        with pytest.raises(CodecError, match="its handler could not read it"):
            await billing.dead_letters.edit(letter.id, "body.total=much")
        with pytest.raises(CodecError, match="its handler could not read it"):
            await billing.dead_letters.redrive("body.total=much")
        with pytest.raises(RefusedError, match="its body has no 'customer'"):
            await billing.dead_letters.edit(letter.id, "body.customer.name=x")
        with pytest.raises(ConfigurationError, match="changes nothing"):
            await billing.dead_letters.edit(letter.id)
        with pytest.raises(ConfigurationError, match="say every one"):
            await billing.dead_letters.discard()
        assert h.dead(billing) == [Order("a", 0)]
        assert await billing.dead_letters.audit() == []
        assert done == []


async def test_a_redrive_tries_the_first_three_letters_and_what_else_cannot_be_read_comes_back() -> None:
    app, billing, done = shop()
    async with harness(app) as h:
        for n in range(3):
            await billing.send(Order(f"o{n}", 0))
        await billing.binding.runtime.store.send(billing.name, [Outgoing(b'{"total":0}')])
        await h.settle()
        assert len(await billing.peek(dead=True)) == 4
        assert (await billing.dead_letters.redrive("body.total=3")).moved == 4
        await h.settle()
        assert [order.id for order in done] == ["o0", "o1", "o2"]
        assert [letter.body for letter in await billing.peek(dead=True)] == [b'{"total":3}']
        with pytest.raises(CodecError, match="its handler could not read it"):
            await billing.dead_letters.redrive("body.total=4")


async def test_Q95_the_handler_of_a_queue_of_dead_letters_has_as_many_attempts_as_any_other(tmp_path: Path) -> None:
    app, seen = App("shop"), list[tuple[str, int]]()
    second = app.queue("second", Order, max_receives=2, backoff=Backoff(base=0))
    first = app.queue("first", Order, max_receives=3, backoff=Backoff(base=0), dead_letters="second")

    @first.handler
    async def charge(message: Message[Order]) -> None:
        seen.append(("first", message.attempt))
        raise ConnectionError

    @second.handler
    async def charge_by_hand(message: Message[Order]) -> None:
        seen.append(("second", message.attempt))
        raise ConnectionError

    for store in ("memory://", f"sqlite:///{tmp_path}/store.db?hot_messages=3"):
        seen.clear()
        async with harness(app, store=store) as h:
            await first.send(Order("o", 0))
            await h.settle()
            assert seen == [("first", 1), ("first", 2), ("first", 3), ("second", 1), ("second", 2)]
            assert h.dead(second) == [Order("o", 0)]
