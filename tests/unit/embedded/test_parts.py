"""Bodies larger than a frame go through the owner's socket in parts, and nothing of them is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from pipeflow.clock import SystemClock
from pipeflow.embedded.frames import MAX_FRAME
from pipeflow.embedded.link import Link
from pipeflow.embedded.opening import Kept
from pipeflow.embedded.parts import PART_BYTES, WHOLE_BYTES, Held
from pipeflow.embedded.remote import RemoteStore, connect
from pipeflow.embedded.verbs import Verb
from pipeflow.errors import RefusedError
from pipeflow.messages import Ack, Emit, Outgoing, Refused, Sent, Settled, Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

HUGE = bytes(range(256)) * ((MAX_FRAME + PART_BYTES) // 256)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Kept]:
    store = await open_store(f"sqlite:///{tmp_path}/shop.db")
    assert isinstance(store, Kept)
    await store.declare(Topology(queues=(QueueSpec("q"),)))
    yield store
    await store.close()


@pytest.fixture
async def client(owner: Kept, tmp_path: Path) -> AsyncIterator[RemoteStore]:
    store = await connect(tmp_path / "shop.db.sock", "sqlite:///shop.db", SystemClock())
    assert isinstance(store, RemoteStore)
    yield store
    await store.close()


async def test_a_body_beyond_a_frame_goes_there_and_back(client: RemoteStore) -> None:
    results = await client.send("q", [Outgoing(b"first"), Outgoing(HUGE, {"a": 1}, {"trace": "x"}), Outgoing(b"last")])
    assert all(isinstance(result, Sent) for result in results)
    bodies = []
    while got := await client.receive("q", Want()):
        bodies += [delivery.body for delivery in got]
        for delivery in got:
            if delivery.body is HUGE or len(delivery.body) > 10:
                assert (delivery.attributes, delivery.headers) == ({"a": 1}, {"trace": "x"})
        await client.settle("q", [Ack(delivery.receipt) for delivery in got])
    assert bodies == [b"first", HUGE, b"last"]


async def test_a_body_of_whole_parts_ends_where_it_ends(client: RemoteStore) -> None:
    for size in (WHOLE_BYTES, WHOLE_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 1):
        await client.send("q", [Outgoing(b"z" * size)])
        (delivery,) = await client.receive("q", Want())
        assert len(delivery.body) == size
        await client.settle("q", [Ack(delivery.receipt)])


async def test_what_an_acknowledgement_emits_may_be_beyond_a_frame(client: RemoteStore) -> None:
    await client.send("q", [Outgoing(b"go")])
    (delivery,) = await client.receive("q", Want())
    assert await client.settle("q", [Ack(delivery.receipt, [Emit("queue", "q", Outgoing(HUGE))])]) == [Settled()]
    (emitted,) = await client.receive("q", Want())
    assert emitted.body == HUGE


def halfway(verb: str, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the second part goes this way: the first has arrived, and others are to come."""
    reached = asyncio.Event()
    calls = count(1)
    real = Link.ask

    async def ask(self: Link, asked: Verb, *arguments: object) -> object:
        if asked.name == verb and next(calls) == 2:
            reached.set()
        return await real(self, asked, *arguments)

    monkeypatch.setattr(Link, "ask", ask)
    return reached


async def test_a_sender_that_gives_up_half_way_sends_nothing(
    client: RemoteStore, owner: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = halfway("part", monkeypatch)
    sending = asyncio.create_task(client.send("q", [Outgoing(HUGE)]))
    await reached.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert (await client.stats()).queues[0].ready == 0
    await client.send("q", [Outgoing(b"next")])
    assert [delivery.body for delivery in await client.receive("q", Want())] == [b"next"]


async def test_a_receiver_that_gives_up_half_way_gives_the_message_back(
    client: RemoteStore, owner: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.send("q", [Outgoing(HUGE)])
    reached = halfway("rest", monkeypatch)
    receiving = asyncio.create_task(client.receive("q", Want()))
    await reached.wait()
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    async with asyncio.timeout(10):
        while not (got := await client.receive("q", Want(wait=1))):
            pass
    assert (got[0].body, got[0].attempt) == (HUGE, 1)


async def test_the_header_that_names_parts_is_refused_and_one_that_lies_in_a_store_harms_no_receiver(
    client: RemoteStore, owner: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Outgoing(b"x", headers={"pipeflow-parts": "1", "trace": "t"})
    await client.send("q", [Outgoing(b"go")])
    (delivery,) = await client.receive("q", Want())
    emits = [Emit("queue", "q", poison)]
    for answers in (
        await owner.send("q", [poison]),
        await client.send("q", [poison]),
        await client.settle("q", [Ack(delivery.receipt, emits)]),
    ):
        (refused,) = answers
        assert isinstance(refused, Refused)
        assert refused.code == "bad_headers"
        assert "pipeflow-parts" in refused.reason
    await client.settle("q", [Ack(delivery.receipt)])
    # A store may hold one from before it was refused.
    with monkeypatch.context() as lenient:
        lenient.setattr("pipeflow.embedded.intake.unfit", lambda name, outgoing: None)
        await owner.send("q", [poison])
    await client.send("q", [Outgoing(HUGE)])
    got = [*await client.receive("q", Want(limit=1)), *await client.receive("q", Want(limit=1))]
    assert [(delivery.body, delivery.headers) for delivery in got] == [(b"x", {"trace": "t"}), (HUGE, {})]


def test_parts_that_never_came_are_not_made_up() -> None:
    parts = Held()
    parts.part("1", b"abc")
    with pytest.raises(RefusedError, match="did not come whole"):
        parts.whole(("q", [Outgoing(b"", headers={"pipeflow-parts": "2"})]))
    parts.part("1", b"def")
    assert parts.whole(("q", [Outgoing(b"", headers={"pipeflow-parts": "1"})])) == ("q", [Outgoing(b"abcdef")])
    with pytest.raises(RefusedError, match="receive the message again"):
        parts.rest("9", 0)
