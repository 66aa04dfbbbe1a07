"""Sources: in order, from the last committed position, and never past an item that was refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from pipeflow import App, At, ConfigurationError, RefusedError
from pipeflow.clock import VirtualClock
from pipeflow.engine.sources import AHEAD
from pipeflow.events import SourceStopped
from pipeflow.messages import Outgoing, Refused, Sent
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int


class Spy:
    """A store that notes what is published, and may refuse or hold it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.batches: list[list[Outgoing]] = []
        self.refuse: int | None = None
        self.gate: asyncio.Event | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def publish(self, topic: str, batch: list[Outgoing]) -> list[Sent | Refused]:
        self.batches.append(batch)
        if self.gate is not None:
            await self.gate.wait()
        answers = list(await self._store.publish(topic, batch))
        for number, message in enumerate(batch):
            if self.refuse is not None and message.body == msgspec.json.encode(Order(self.refuse)):
                answers[number] = Refused("TooLarge", "too large")
        return answers


async def test_a_source_publishes_in_order_and_ends() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(2500):
            yield At(number, Order(number))

    async with harness(app) as h:
        await h.settle()
        assert [order.id for order in h.published(orders)] == list(range(2500))
        assert [event for event in h.events if isinstance(event, SourceStopped)] == [SourceStopped(0.0, "replay")]
        assert await h.runtime.store.position("replay") == b"2499"


async def test_a_restart_goes_on_exactly_behind_the_last_commit() -> None:
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock)
    positions: list[object] = []
    seen: list[int] = []

    def shop(last: int) -> App:
        app = App("shop")
        orders = app.topic("orders", Order)
        work = app.queue("work", Order, orders)

        @work.handler
        async def handle(order: Order) -> None:
            seen.append(order.id)

        @app.source(orders)
        async def replay(position: tuple[int, str] | None) -> AsyncIterator[At[tuple[int, str], Order]]:
            positions.append(position)
            for number in range(position[0] + 1 if position else 0, last):
                yield At((number, "row"), Order(number))

        return app

    for last in (10, 25):
        async with shop(last).running(store=store, clock=clock, grace=0.0):
            await clock.settle()
    await store.close()
    assert positions == [None, (9, "row")]
    assert sorted(seen) == list(range(25))


async def test_a_source_that_raises_starts_again_with_backoff_from_what_was_committed_H73() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)
    starts: list[tuple[float, int | None]] = []
    clock = VirtualClock()

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        starts.append((clock.now(), position))
        for number in range(0 if position is None else position + 1, 6):
            if number % 2 and len(starts) < number + 1:
                raise OSError("the feed is gone")
            yield At(number, Order(number))

    async with harness(app, clock=clock) as h:
        await h.advance(600)
        assert [order.id for order in h.published(orders)] == list(range(6))
        again = [
            event.again_at for event in h.events if isinstance(event, SourceStopped) and event.again_at is not None
        ]
        assert [when for when, _ in starts[1:]] == again
        # What was yielded before it raised is committed before it starts again.
        assert starts[1][1] == 0


async def test_a_refused_item_stops_the_source_for_good_and_names_its_position(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    app = App("shop")
    orders = app.topic("orders", Order)
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock)
    spy = Spy(store)
    spy.refuse = 3

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(10):
            yield At(number, Order(number))

    stopped: list[SourceStopped] = []
    app.observe(lambda event: stopped.append(event) if isinstance(event, SourceStopped) else None)
    async with app.running(store=spy, clock=clock, grace=0.0) as runtime:  # type: ignore[arg-type]  # delegates
        await clock.settle()
        with pytest.raises(RefusedError, match=r"source replay .* stopped at position 3: too large"):
            await runtime.until_idle()
    await store.close()
    assert stopped[0].again_at is None
    assert "position 3" in stopped[0].reason


async def test_a_source_runs_ahead_of_its_commits_by_a_bounded_number_of_items() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock)
    spy = Spy(store)
    spy.gate = asyncio.Event()
    made: list[int] = []

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(5000):
            made.append(number)
            yield At(number, Order(number))

    async with app.running(store=spy, clock=clock, grace=0.0):  # type: ignore[arg-type]  # delegates
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(made) == AHEAD == 1000
        spy.gate.set()
        await clock.settle()
        assert len(made) == 5000
        assert max(map(len, spy.batches)) <= AHEAD
        assert len(spy.batches) < 20
    await store.close()


async def test_attributes_and_groups_of_an_item_are_those_of_its_message() -> None:
    app = App("shop")
    orders = app.topic("orders", Order, fifo=True)
    ledger = app.queue("ledger", Order, orders.where(kind="placed"), fifo=True)
    groups: list[str | None] = []

    @ledger.handler
    async def book(order: Order) -> None:
        groups.append(str(order.id))

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(4):
            kind = "placed" if number % 2 else "paid"
            yield At(number, Order(number), attributes={"kind": kind}, group="g", dedup_id=str(number))

    async with harness(app) as h:
        await h.settle()
        assert groups == ["1", "3"]


async def test_a_source_may_fill_a_stream() -> None:
    app = App("shop")
    lake = app.stream("lake", Order, sink="memory://lake", compression="none")

    @app.source(lake)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        for number in range(3):
            yield At(number, Order(number))

    async with harness(app) as h:
        await h.advance(61)
        (content,) = h.objects(lake).values()
        assert content == b'{"id":0}\n{"id":1}\n{"id":2}\n'
        assert await h.runtime.store.position("replay") == b"2"


async def test_a_position_of_another_type_ends_the_program_with_the_remedy() -> None:
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock)

    def shop(kind: type) -> App:
        app = App("shop")
        orders = app.topic("orders", Order)

        async def replay(position: object) -> AsyncIterator[At[object, Order]]:
            yield At("one", Order(1))

        replay.__annotations__["return"] = AsyncIterator[At[kind, Order]]  # type: ignore[valid-type]  # under test
        app.source(orders)(replay)
        return app

    async with shop(str).running(store=store, clock=clock, grace=0.0):
        await clock.settle()
    app = shop(int)
    with pytest.raises(ConfigurationError, match="give the source a new name"):
        async with app.running(store=store, clock=clock, grace=0.0):
            await clock.settle()
    await store.close()


@pytest.mark.parametrize("kind", ["topic", "stream"])
async def test_nothing_behind_a_refused_item_is_accepted_and_a_restart_meets_it_again(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    clock = VirtualClock()
    store = await open_store("memory://", clock=clock)
    starts: list[int | None] = []
    seen: list[bytes] = []

    def shop(limit: int) -> App:
        app = App("shop")
        blobs = app.topic("blobs", bytes)
        lake = app.stream("lake", bytes, sink="memory://refused", max_record=50)
        work = app.queue("work", bytes, blobs, max_body=50)

        @work.handler
        async def handle(blob: bytes) -> None:
            seen.append(blob[:1])

        async def replay(position: int | None) -> AsyncIterator[At[int, bytes]]:
            starts.append(position)
            for number in range(0 if position is None else position + 1, 6):
                yield At(number, str(number).encode() * (limit if number == 3 else 1))

        if kind == "topic":
            app.source(blobs)(replay)
        else:
            app.source(lake)(replay)
        return app

    for _ in range(2):
        async with shop(100).running(store=store, clock=clock, grace=0.0) as runtime:
            await clock.settle()
            with pytest.raises(RefusedError, match="stopped at position 3"):
                await runtime.until_idle()
    async with shop(1).running(store=store, clock=clock, grace=0.0) as runtime:
        await runtime.until_idle()
        stats = await store.stats()
    await store.close()
    assert starts == [None, 2, 2]
    if kind == "topic":
        assert sorted(seen) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    else:
        assert stats.streams[0].accepted == 6


@pytest.mark.parametrize("kind", ["payload", "partition"])
async def test_an_item_that_cannot_be_published_at_all_stops_the_source_and_names_its_position(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    app = App("shop")
    orders = app.topic("orders", Order)
    lake = app.stream("lake", Order, sink="memory://lake", partition_by=lambda order: "x" * 300 if order.id else "a")
    starts: list[int | None] = []

    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        starts.append(position)
        yield At(7, Order(0))
        yield At(8, object() if kind == "payload" else Order(1))  # type: ignore[arg-type]  # what mypy refuses

    if kind == "payload":
        app.source(orders)(replay)
    else:
        app.source(lake)(replay)
    async with harness(app) as h:
        await h.advance(1000)
        assert starts == [None]
        with pytest.raises(RefusedError, match=r"source replay .* stopped at position 8: "):
            await h.runtime.until_idle()
        assert await h.runtime.store.position("replay") == b"7"


async def test_a_position_that_cannot_be_kept_ends_the_program_with_the_remedy() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)

    @app.source(orders)
    async def replay(position: object) -> AsyncIterator[At[object, Order]]:
        yield At(object(), Order(1))

    with pytest.raises(ConfigurationError, match=r"replay .*a position that cannot be kept.*use a number"):
        async with harness(app) as h:
            await h.settle()


async def test_a_source_in_which_something_was_cancelled_starts_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    app = App("shop")
    orders = app.topic("orders", Order)

    @app.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        yield At((position or 0) + 1, Order((position or 0) + 1))
        if position is None:
            raise asyncio.CancelledError

    async with harness(app) as h:
        await h.advance(10)
        assert h.published(orders) == [Order(1), Order(2)]
