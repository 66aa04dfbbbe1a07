"""What has the wrong type is refused by itself or raised by name, in every build of pipeflow, and harms nobody else.

An item that cannot be kept is a value beside the answers of the others; what is no item at all is a TypeError, and
nothing of the call is done.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

import pytest

from pipeflow.errors import ConfigurationError, NotFound
from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Emit,
    Extend,
    Failure,
    Outgoing,
    Receipt,
    Refused,
    Release,
    Sent,
    Settled,
    Stale,
    Want,
)
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec

if TYPE_CHECKING:
    from tests.conformance.conftest import Desk

FAILURE = Failure(1.0, 1, "ValueError", "bad")
HALF = "half a pair: \udcff"


def outgoing(**fields: Any) -> Outgoing:
    return Outgoing(**{"body": b"x", **fields})


def no(**fields: Any) -> dict[str, Any]:
    return fields


NOT_SENT = [
    no(body="text"),
    no(body=None),
    no(body=5),
    no(attributes=[]),
    no(attributes={5: "x"}),
    no(attributes={"n": 1 << 70}),
    no(attributes={"o": object}),
    no(headers="x"),
    no(headers=[]),
    no(headers={5: "x"}),
    no(headers={"x": 7}),
    no(headers={"x": HALF}),
    no(group=5),
    no(dedup_id=b"x"),
    no(delay="1"),
    no(delay=nan),
    no(delay=True),
    no(delay=10**400),
    no(checkpoint=5),
    no(checkpoint=("source",)),
    no(checkpoint=(5, b"")),
    no(id=5),
    no(id=b"x"),
    no(id=HALF),
    no(claim=5),
    no(ttl="1"),
    no(key={}),
    no(priority="1"),
    no(priority=1.5),
    no(priority=None),
    no(priority=[]),
]


async def test_a_message_of_wrong_types_is_refused_alone_whichever_way_it_comes(desk: Desk) -> None:
    """What was encoded all the same would lie in the store as a damaged row, or fail the commit of everybody."""
    await desk.fan_out(QueueSpec("q"))
    await desk.queue("other")
    for fields in NOT_SENT:
        bad = outgoing(**fields)
        await desk.send("first")
        first = await desk.one()
        for batch in (
            await desk.store.send("q", [outgoing(body=b"1"), bad]),
            await desk.store.publish("t", [outgoing(body=b"2"), bad]),
        ):
            assert [type(answer) for answer in batch] == [Sent, Refused], fields
        (answer,) = await desk.settle(Ack(first.receipt, [Emit("queue", "other", bad)]))
        assert isinstance(answer, Refused), fields
        assert answer.reason
        others = await desk.take(2)
        assert [each.body for each in others] == [b"1", b"2"], fields
        await desk.ack(first, *others)
    assert await desk.counts("other") == (0, 0, 0)


async def test_what_is_no_message_is_named_with_its_place_and_nothing_is_sent(desk: Desk) -> None:
    await desk.fan_out(QueueSpec("q"))
    items: list[Any] = [None, 5, "x", b"x", {}, object]
    for item in items:
        for verb, name in ((desk.store.send, "q"), (desk.store.publish, "t")):
            with pytest.raises(TypeError, match=r"item 1 of a batch to send is .*; use Outgoing"):
                await verb(name, [outgoing(), item])
            no_batch: Any = item or None
            with pytest.raises(TypeError, match=r"batch to send is .*; use"):
                await verb(name, no_batch)
    assert await desk.counts() == (0, 0, 0)


async def test_what_is_no_name_is_not_found(desk: Desk) -> None:
    await desk.queue()
    names: list[Any] = [None, 5, b"q", {}, ("q",), object]
    for name in names:
        for call in (
            desk.store.send(name, [outgoing()]),
            desk.store.publish(name, [outgoing()]),
            desk.store.receive(name, Want()),
            desk.store.settle(name, []),
            desk.store.purge(name),
        ):
            with pytest.raises(NotFound, match="there is no "):
                await call


NOT_WANTED = [
    (no(limit="5"), TypeError, "limit of a receive is '5'"),
    (no(limit=None), TypeError, "limit of a receive is None"),
    (no(limit=1.5), TypeError, "limit of a receive is 1.5"),
    (no(limit=0), ConfigurationError, "a receive of 0"),
    (no(max_bytes=None), TypeError, "max_bytes of a receive is None"),
    (no(max_bytes="1"), TypeError, "max_bytes of a receive is '1'"),
    (no(durable=None), TypeError, "durable of a receive is None"),
    (no(max_bytes=1.5), TypeError, "max_bytes of a receive is 1.5"),
    (no(wait=None), TypeError, "wait of a receive is None"),
    (no(wait="1"), TypeError, "wait of a receive is '1'"),
    (no(wait=nan), ConfigurationError, "a receive of 10 that waits nan s"),
    (no(wait=10**400), ConfigurationError, "a receive of 10 that waits 1000"),
    (no(visibility_timeout="1"), TypeError, "visibility_timeout of a receive is '1'"),
    (no(visibility_timeout=nan), ConfigurationError, "visibility_timeout of a receive is nan"),
    (no(visibility_timeout=-1), ConfigurationError, "visibility_timeout of a receive is -1"),
    (no(attempt_id=5), ConfigurationError, "attempt_id 5"),
]


async def test_a_receive_of_wrong_types_is_named_and_takes_nothing(desk: Desk) -> None:
    await desk.queue()
    await desk.send("1")
    for fields, error, told in NOT_WANTED:
        with pytest.raises(error) as raised:
            await desk.store.receive("q", Want(**fields))
        assert str(raised.value).startswith(f"q: {told}")
    wants: list[Any] = [None, 5, "x", {}]
    for want in wants:
        with pytest.raises(TypeError, match=r"q: a receive asks with .*; use Want"):
            await desk.store.receive("q", want)
    assert await desk.counts() == (1, 0, 0)


NOT_SETTLED = [
    (Defer, no(delay="1"), "delay of a settlement is '1'"),
    (Defer, no(delay=None), "delay of a settlement is None"),
    (Defer, no(delay=10**400), "delay of a settlement is 1000"),
    (Defer, no(delay=1.0, failure=5), "failure of a settlement cannot be kept"),
    (Defer, no(delay=1.0, failure={"a": object}), "failure of a settlement cannot be kept"),
    (Defer, no(delay=1.0, failure=Failure(1.0, 1, "E", HALF)), "failure of a settlement cannot be kept"),
    (Defer, no(delay=1.0, failure=Failure("x", 1, "E", "")), "failure of a settlement cannot be kept"),  # type: ignore[arg-type]  # wrong on purpose
    (Extend, no(visibility_timeout="1"), "visibility_timeout of a settlement is '1'"),
    (Extend, no(visibility_timeout=10**400), "visibility_timeout of a settlement is 1000"),
    (Bury, no(failure="x"), "failure of a settlement cannot be kept"),
    (Bury, no(failure=Failure(1.0, 1, "E", None)), "failure of a settlement cannot be kept"),  # type: ignore[arg-type]  # wrong on purpose
    (Bury, no(failure=FAILURE, headers=5), "headers of a settlement cannot be kept"),
    (Bury, no(failure=FAILURE, headers={5: "x"}), "headers of a settlement cannot be kept"),
    (Bury, no(failure=FAILURE, headers={"x": HALF}), "headers of a settlement cannot be kept"),
    (Release, no(delay="1"), "delay of a settlement is '1'"),
]


async def test_a_settlement_that_cannot_be_kept_is_refused_alone_and_its_message_stays_held(desk: Desk) -> None:
    """Encoded with everybody's group it would close the store, or lie there as a damaged row."""
    await desk.queue()
    for kind, fields, told in NOT_SETTLED:
        await desk.send("1", "2")
        bad, good = await desk.take(2)
        refused, settled = await desk.settle(kind(bad.receipt, **fields), Ack(good.receipt))
        assert isinstance(refused, Refused), fields
        assert refused.reason.startswith(f"q: {told}")
        assert isinstance(settled, Settled)
        await desk.ack(bad)


async def test_what_is_no_settlement_is_named_with_its_place_and_nothing_is_settled(desk: Desk) -> None:
    await desk.queue()
    await desk.send("1")
    delivery = await desk.one()
    wrong: Any = 5
    receipt = Receipt(1, 1, 1)
    items: list[tuple[Any, str]] = [
        (None, "is None; use Ack"),
        (5, "is an int; use Ack"),
        (Ack(wrong), "has 5 for a receipt; use the delivery's own"),
        (Bury(wrong), "has 5 for a receipt"),
        (Ack(receipt, wrong), "has an int for emits; use a list of Emit"),
        (Ack(receipt, (wrong,)), "emits an int; use Emit"),  # type: ignore[arg-type]  # wrong on purpose
        (Ack(receipt, [wrong]), "emits an int; use Emit"),
        (Ack(receipt, [Emit("queue", "q", wrong)]), "emits an int; use Emit(kind, target, Outgoing(body))"),
        (Ack(receipt, [Emit("queue", wrong, outgoing())]), "emits to an int"),
    ]
    for item, told in items:
        with pytest.raises(TypeError) as raised:
            await desk.settle(Ack(delivery.receipt), item)
        assert str(raised.value).startswith(f"q: item 1 of a batch to settle {told}")
    assert await desk.counts() == (0, 0, 1)
    await desk.ack(delivery)


async def test_what_can_be_gone_through_once_is_no_batch(desk: Desk) -> None:
    """It was at its end when it was looked at, and nothing of it was done, without a word."""
    await desk.fan_out(QueueSpec("q"))
    await desk.send("1")
    delivery = await desk.one()
    once: Any = (each for each in [Ack(delivery.receipt)])
    with pytest.raises(TypeError, match="a batch to settle is a generator; use a list"):
        await desk.store.settle("q", once)
    for verb, name in ((desk.store.send, "q"), (desk.store.publish, "t")):
        once = (each for each in [outgoing()])
        with pytest.raises(TypeError, match="a batch to send is a generator; use a list"):
            await verb(name, once)
    assert await desk.counts() == (0, 0, 1)
    await desk.ack(delivery)


async def test_a_receipt_that_nobody_was_given_is_stale(desk: Desk) -> None:
    await desk.queue()
    await desk.send("1", "2", priority=1)
    places: list[Any] = ["1", None, 1.5, -1, 1 << 70]
    for place in places:
        answers = await desk.settle(*(kind(Receipt(place, 1, 1)) for kind in (Ack, Bury, Release)))
        assert [type(answer) for answer in answers] == [Stale] * 3
    assert await desk.counts() == (2, 0, 0)


async def test_an_acknowledgement_without_a_list_of_emits_publishes_nothing(desk: Desk) -> None:
    await desk.queue()
    nothing: list[Any] = [None, (), {}]
    for emits in nothing:
        await desk.send("1")
        assert await desk.settle(Ack((await desk.one()).receipt, emits)) == [Settled()]
    assert await desk.counts() == (0, 0, 0)


async def test_of_a_large_batch_the_one_that_is_wrong_is_refused(desk: Desk) -> None:
    await desk.queue()
    batch = [outgoing(body=b"%d" % n) for n in range(5_000)]
    batch[3_000] = outgoing(headers={5: "x"})
    answers = await desk.store.send("q", batch)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, Refused)] == [3_000]


async def test_nothing_that_was_accepted_is_damaged_at_the_next_start(desk: Desk, url: str) -> None:
    """What is encoded with a wrong type does not read back."""
    await desk.queue()
    await desk.store.send("q", [outgoing(**fields) for fields in NOT_SENT])
    await desk.send("1", "2")
    for kind, fields, _ in NOT_SETTLED:
        await desk.settle(kind((await desk.one()).receipt, **fields))
        await desk.advance(60)
    await desk.store.close()
    if url == "memory://":
        return
    desk.store = await open_store(url, clock=desk.clock)
    assert (await desk.store.stats()).quarantined == 0
    assert sorted(await desk.bodies()) == ["1", "2"]
    await desk.store.close()
