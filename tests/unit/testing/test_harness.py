"""The harness: the real engine in memory under virtual time, with probes, overrides and seeded misfortune."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from pipeflow import App, At, Batch, Context, Delivery, Handle, Message, Reject, Retry
from pipeflow.events import Buried, Handled, Published, Retried, Started
from pipeflow.protocols import Store
from pipeflow.testing import VirtualClock, harness


class Order(msgspec.Struct, frozen=True):
    id: str
    customer: str = "ada"
    total: int = 1


class Receipt(msgspec.Struct, frozen=True):
    order: str


class Shop:
    """A small app with one topic, ready for a test to hang nouns on."""

    def __init__(self) -> None:
        self.app = App("shop", broker="sqlite:///never-opened.db")
        self.orders = self.app.topic("orders", Order)
        self.receipts = self.app.topic("receipts", Receipt)


def orders(count: int) -> list[Order]:
    return [Order(str(number)) for number in range(count)]


async def test_what_a_topic_accepted_is_published_and_waits_in_its_queues() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders.where(kind="placed"))
    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"), kind="placed")
        await shop.orders.publish(Order("2"), kind="cancelled")
        await billing.send(Order("3"), delay=60)
        assert h.published(shop.orders) == [Order("1"), Order("2")]
        assert h.queued(billing) == [Order("1"), Order("3")]
        assert h.in_flight(billing) == []
        assert h.dead(billing) == []


async def test_a_message_is_in_flight_while_its_handler_works() -> None:
    shop, started, go = Shop(), asyncio.Event(), asyncio.Event()
    billing = shop.app.queue("billing", Order, shop.orders)

    @billing.handler
    async def slow(order: Order) -> None:
        started.set()
        await go.wait()

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await started.wait()
        assert h.in_flight(billing) == [Order("1")]
        assert h.queued(billing) == []
        go.set()
        await h.settle()
        assert h.in_flight(billing) == []


async def test_what_a_handler_emits_is_published_when_it_is_acknowledged() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)

    @billing.handler(emit=shop.receipts)
    async def charge(order: Order, ctx: Context) -> Receipt:
        ctx.publish(shop.receipts, Receipt(f"copy of {order.id}"))
        if order.total < 0:
            raise Reject("negative")
        return Receipt(order.id)

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await shop.orders.publish(Order("2", total=-1))
        await h.settle()
        assert sorted(receipt.order for receipt in h.published(shop.receipts)) == ["1", "copy of 1"]
        assert h.dead(billing) == [Order("2", total=-1)]


async def test_events_tell_what_happened_and_when() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, max_receives=2)

    @billing.handler
    async def fails(order: Order) -> None:
        raise ValueError("no")

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(600)
        kinds = [type(event) for event in h.events]
        assert kinds.index(Published) < kinds.index(Retried) < kinds.index(Buried)
        (buried,) = (event for event in h.events if isinstance(event, Buried))
        assert buried.attempt == 2
        assert buried.failure is not None
        assert buried.failure.type == "ValueError"
        assert 0 < buried.at < 600
        assert Handled not in kinds


async def test_the_harness_tells_that_the_app_has_started() -> None:
    async with harness(Shop().app) as h:
        assert [type(event) for event in h.events] == [Started]


async def test_a_retry_comes_back_at_its_moment_and_not_before() -> None:
    shop = Shop()
    later = shop.app.queue("later", Order, shop.orders)
    seen: list[tuple[int, float]] = []

    async with harness(shop.app) as before:
        assert before.queued(later) == []

    @later.handler
    async def ship(message: Message[Order]) -> None:
        seen.append((message.attempt, h.clock.now()))
        if message.attempt == 1:
            raise Retry(after=30)

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(29.9)
        assert seen == [(1, 0.0)]
        await h.advance(0.1)
        assert seen == [(1, 0.0), (2, 30.0)]


async def test_providers_are_replaced_by_type_for_one_harness_only() -> None:
    class Bank:
        name = "real"

    class FakeBank(Bank):
        name = "fake"

    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    used: list[str] = []

    @shop.app.provide
    async def bank() -> AsyncIterator[Bank]:
        used.append("entered")
        yield Bank()

    @billing.handler
    async def charge(order: Order, bank: Bank) -> None:
        used.append(bank.name)

    async with harness(shop.app, provide={Bank: FakeBank()}) as h:
        await shop.orders.publish(Order("1"))
        await h.settle()
    assert used == ["fake"]
    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await h.settle()
    assert used == ["fake", "entered", "real"]


async def test_every_harness_begins_with_an_empty_store() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    for _ in range(2):
        async with harness(shop.app) as h:
            assert h.queued(billing) == []
            await shop.orders.publish(Order("1"))
            assert h.published(shop.orders) == [Order("1")]


async def test_a_failing_assertion_comes_out_as_itself() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)

    @billing.handler
    async def charge(order: Order) -> None: ...

    with pytest.raises(AssertionError, match="told by the test"):
        async with harness(shop.app):
            raise AssertionError("told by the test")


async def test_leaving_does_not_wait_for_a_handler_that_never_ends() -> None:
    shop, started = Shop(), asyncio.Event()
    billing = shop.app.queue("billing", Order, shop.orders)

    @billing.handler
    async def stuck(order: Order) -> None:
        started.set()
        await asyncio.Event().wait()

    async with harness(shop.app):
        await shop.orders.publish(Order("1"))
        await started.wait()


async def test_middleware_of_the_app_runs_too() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    handled: list[str] = []

    @shop.app.middleware
    async def tenant(delivery: Delivery, call_next: Handle) -> object:
        if delivery.attributes.get("tenant") == "blocked":
            return None
        return await call_next(delivery)

    @billing.handler
    async def charge(order: Order) -> None:
        handled.append(order.id)

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"), tenant="blocked")
        await shop.orders.publish(Order("2"), tenant="good")
        await h.settle()
        assert handled == ["2"]
        assert h.queued(billing) == h.in_flight(billing) == h.dead(billing) == []


async def test_a_handler_in_a_thread_is_waited_for() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    handled: list[str] = []

    @billing.handler
    def charge(order: Order) -> None:
        handled.append(order.id)

    async with harness(shop.app) as h:
        await shop.orders.publish_many(orders(20))
        await h.settle()
        assert len(handled) == 20
        assert h.in_flight(billing) == []


async def test_H31_a_handler_that_takes_its_time_is_timed_out_in_virtual_time() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, max_receives=1)

    @billing.handler(timeout=10)
    async def slow(order: Order) -> None:
        await h.sleep(60)

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(9.9)
        assert h.in_flight(billing) == [Order("1")]
        await h.advance(0.1)
        assert h.dead(billing) == [Order("1")]


async def test_a_heartbeat_keeps_a_message_for_as_long_as_its_handler_works() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders, visibility_timeout=30)
    attempts: list[int] = []

    @billing.handler
    async def slow(message: Message[Order]) -> None:
        attempts.append(message.attempt)
        await h.sleep(3600)

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(3599)
        assert h.in_flight(billing) == [Order("1")]
        await h.advance(1)
        assert h.in_flight(billing) == h.queued(billing) == []
    assert attempts == [1]


async def test_waiting_for_a_handler_that_waits_for_the_test_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeflow.testing.running.PATIENCE", 0.001)
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)

    @billing.handler
    async def stuck(order: Order) -> None:
        await asyncio.Event().wait()

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        with pytest.raises(RuntimeError, match=r"settle: nothing has happened for .*stuck .*await h\.sleep"):
            await h.settle()
        with pytest.raises(RuntimeError, match="advance: nothing has happened"):
            await h.advance(5)


# Batch handlers


async def test_a_batch_gathers_for_its_linger_in_virtual_time() -> None:
    shop = Shop()
    bulk = shop.app.queue("bulk", Order, shop.orders)
    sizes: list[int] = []

    @bulk.batch_handler(size=500, linger=0.5)
    async def load(batch: Batch[Order]) -> None:
        sizes.append(len(batch))

    async with harness(shop.app) as h:
        for order in orders(3):
            await shop.orders.publish(order)
        await h.settle()
        assert sizes == []
        await h.advance(0.5)
        assert sizes == [3]


async def test_a_message_a_batch_failed_is_tried_alone_and_dies_alone() -> None:
    shop = Shop()
    bulk = shop.app.queue("bulk", Order, shop.orders, max_receives=3)
    seen: list[str] = []

    @bulk.batch_handler(size=10)
    async def load(batch: Batch[Order]) -> None:
        for message in batch:
            seen.append(message.body.id)
            if message.body.total < 0:
                batch.fail(message, "negative total")

    async with harness(shop.app) as h:
        await shop.orders.publish_many([Order("1"), Order("2", total=-1), Order("3")])
        await h.advance(3600)
        assert sorted(seen) == ["1", "2", "2", "2", "3"]
        assert h.dead(bulk) == [Order("2", total=-1)]


async def test_a_batch_that_raises_is_split_until_the_culprit_is_alone() -> None:
    shop = Shop()
    bulk = shop.app.queue("bulk", Order, shop.orders, max_receives=1)
    done: set[str] = set()

    @bulk.batch_handler(size=8)
    async def load(batch: Batch[Order]) -> None:
        if any(message.body.total < 0 for message in batch):
            raise ValueError("one of these")
        done.update(message.body.id for message in batch)

    async with harness(shop.app) as h:
        await shop.orders.publish_many([*orders(7), Order("bad", total=-1)])
        await h.advance(3600)
        assert done == {str(number) for number in range(7)}
        assert h.dead(bulk) == [Order("bad", total=-1)]


# FIFO


async def test_Q75_a_failing_message_holds_its_group_back_and_no_other() -> None:
    shop = Shop()
    ledger = shop.app.queue("ledger", Order, fifo=True)
    booked: list[tuple[str, str]] = []
    failed: list[str] = []

    @ledger.handler
    async def book(order: Order) -> None:
        if order.id == "1" and len(failed) < 2:
            failed.append(order.id)
            raise ConnectionError("asleep")
        booked.append((order.customer, order.id))

    async with harness(shop.app) as h:
        for customer in ("ada", "bob"):
            for number in range(3):
                await ledger.send(Order(str(number) + ("" if customer == "ada" else "b"), customer), group=customer)
        await h.settle()
        assert [each for each in booked if each[0] == "ada"] == [("ada", "0")]
        assert [each for each in booked if each[0] == "bob"] == [("bob", "0b"), ("bob", "1b"), ("bob", "2b")]
        await h.advance(600)
        assert [each for each in booked if each[0] == "ada"] == [("ada", "0"), ("ada", "1"), ("ada", "2")]


# Sources


async def test_a_source_publishes_and_a_restart_goes_on_where_it_ended(tmp_path: Path) -> None:
    shop = Shop()
    last = 5
    begun: list[int | None] = []

    @shop.app.source(shop.orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        begun.append(position)
        for number in range((position or 0) + 1, last + 1):
            yield At(number, Order(str(number)))

    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(shop.app, store=store) as h:
        await h.settle()
        assert [order.id for order in h.published(shop.orders)] == ["1", "2", "3", "4", "5"]
    last = 7
    async with harness(shop.app, store=store) as h:
        await h.settle()
        assert [order.id for order in h.published(shop.orders)] == ["6", "7"]
    assert begun == [None, 5]


# Streams


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("empty_folder")
async def test_a_stream_delivers_into_memory_when_its_time_has_come() -> None:
    shop = Shop()
    lake = shop.app.stream("lake", Order, shop.orders, sink="file://./lake", buffer_seconds=60)
    async with harness(shop.app) as h:
        await h.advance(10)
        await shop.orders.publish(Order("1"))
        await lake.put(Order("2"))
        await h.advance(59.9)
        assert h.objects(lake) == {}
        await h.advance(0.1)
        ((name, content),) = h.objects(lake).items()
        assert name.endswith(".jsonl.gz")
        assert [msgspec.json.decode(line, type=Order).id for line in content.splitlines()] == ["1", "2"]


async def test_leaving_delivers_what_streams_hold_and_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shop, started = Shop(), asyncio.Event()
    billing = shop.app.queue("billing", Order, shop.orders)
    lake = shop.app.stream("lake", Order, shop.orders, sink="file://./lake", compression="none")

    @billing.handler
    async def stuck(order: Order) -> None:
        started.set()
        await asyncio.Event().wait()

    async with harness(shop.app) as h:
        await shop.orders.publish(Order("1"))
        await started.wait()
    assert [msgspec.json.decode(content, type=Order) for content in h.objects(lake).values()] == [Order("1")]
    assert caplog.text == ""


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_objects_are_shown_decompressed(compression: str) -> None:
    shop = Shop()
    raw = shop.app.stream("raw", bytes, sink="s3://nowhere/at-all", buffer_seconds=1, compression=compression)  # type: ignore[arg-type]  # each of the names in turn
    async with harness(shop.app) as h:
        await raw.put_many([b"a", b"b"])
        await h.advance(1)
        assert b"".join(h.objects(raw).values()).replace(b"\n", b"") == b"ab"


async def test_a_stream_is_partitioned_and_transformed_in_memory() -> None:
    shop = Shop()
    archive = shop.app.stream(
        "archive", Order, shop.orders, sink="memory://", partition_by=lambda order: order.customer, buffer_seconds=5
    )

    @archive.transform
    async def anonymise(order: Order) -> Order | None:
        if order.customer == "bad":
            raise ValueError("unreadable")
        return None if order.customer == "test" else order

    async with harness(shop.app) as h:
        for customer in ("ada", "test", "bob", "bad"):
            await shop.orders.publish(Order(customer, customer))
        await h.advance(10)
        folders = {name.split("/")[0]: content for name, content in h.objects(archive).items()}
        assert msgspec.json.decode(folders["ada"]) == {"id": "ada", "customer": "ada", "total": 1}
        assert set(folders) == {"ada", "bob", "errors"}
        assert b"unreadable" in folders["errors"]


# Stores


async def test_the_same_app_runs_on_a_file_under_virtual_time(tmp_path: Path) -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(shop.app, store=store) as h:
        await billing.send(Order("1"), delay=7200)
        assert h.queued(billing) == [Order("1")]
    seen: list[float] = []

    @billing.handler
    async def charge(order: Order) -> None:
        seen.append(h.clock.now())

    async with harness(shop.app, store=store) as h:
        await h.advance(7200)
        assert len(seen) == 1
        assert seen[0] >= 7200


# What a harness leaves, and what it cannot see


async def test_every_token_is_given_back_when_the_harness_has_ended() -> None:
    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    shop.app.stream("lake", Order, shop.orders, sink="file://./lake")

    @billing.handler
    async def charge(order: Order) -> None: ...

    clock = VirtualClock()
    async with harness(shop.app, clock=clock) as h:
        await shop.orders.publish(Order("1"))
        await h.advance(5)
        assert clock.activity.awake == 0
    assert clock.activity.awake == 0


async def test_a_probe_that_would_have_to_wait_for_the_disk_says_what_to_do_instead() -> None:
    class OnDisk:
        async def peek(self, queue: str, limit: int, dead: bool) -> list[object]:
            await asyncio.get_running_loop().create_future()  # what another thread reads comes as a future
            return []

    shop = Shop()
    billing = shop.app.queue("billing", Order, shop.orders)
    async with harness(shop.app) as h:
        memory, h.runtime.store = h.runtime.store, cast(Store, OnDisk())
        with pytest.raises(
            RuntimeError, match=r"billing: part of the queue lies on disk.*await h\.runtime\.store\.peek"
        ):
            h.queued(billing)
        h.runtime.store = memory
