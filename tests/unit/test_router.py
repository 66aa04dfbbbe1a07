"""Nouns: what they are called, what they become, and what is refused while they are declared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from pipeflow import App, At, Delivery, Handle, Router, num
from pipeflow.errors import CodecError, ConfigurationError, InvalidName, WiringError
from pipeflow.messages import Refused, Sent
from pipeflow.specs import QueueSpec, Subscription
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int
    total: int = 0


def test_a_router_puts_its_prefix_before_every_name_and_apps_include_it() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)
    router = Router(prefix="invoicing-")
    queue = router.queue("orders", Order, orders)
    app.include(router)
    assert queue.name == "invoicing-orders"
    topology = app.topology()
    assert [each.name for each in topology.queues] == ["invoicing-orders", "invoicing-orders-dlq"]
    assert topology.subscriptions == (Subscription("orders", "queue", "invoicing-orders"),)


def test_a_declaration_that_was_refused_takes_no_name_and_one_that_was_not_keeps_it() -> None:
    app = App("shop")
    with pytest.raises(ConfigurationError):
        app.queue("work", Order, visibility_timeout=-1)
    app.queue("other", Order)
    app.queue("work", Order)
    app.topic("work", Order)
    for name in ("work", "other"):
        with pytest.raises(ConfigurationError, match="declared already"):
            app.queue(name, Order)


def test_dead_letters_are_declared_with_their_queue_fifo_like_it_and_kept_for_fourteen_days_Q87() -> None:
    app = App("shop")
    app.queue("plain", Order)
    app.queue("ordered", Order, fifo=True)
    app.queue("named", Order, dead_letters="morgue")
    app.queue("never", Order, dead_letters=False)
    queues = {each.name: each for each in app.topology().queues}
    assert set(queues) == {"plain", "plain-dlq", "ordered", "ordered-dlq", "named", "morgue", "never"}
    assert queues["ordered-dlq"].fifo
    assert queues["plain"].max_receives == 5
    assert queues["never"].max_receives is None
    assert queues["never"].dead_letters is None
    dead = queues["plain-dlq"]
    assert (dead.retention, dead.max_receives, dead.holds_dead_letters) == (14 * 86_400, None, True)


def test_dead_letters_may_be_a_queue_with_a_handler_of_its_own() -> None:
    app = App("shop")
    app.queue("work", Order, dead_letters="failed")
    app.queue("failed", Order, dead_letters=False)
    assert [each.name for each in app.topology().queues] == ["work", "failed"]


@pytest.mark.parametrize(
    ("declare", "error", "text"),
    [
        (lambda app: app.queue("a b", Order), InvalidName, "use 1 to 80 letters"),
        (lambda app: app.queue("orders.fifo", Order), InvalidName, "pass fifo=True"),
        (lambda app: app.queue("q", Order, max_receives=0), ConfigurationError, "use 1 to 1000"),
        (
            lambda app: app.queue("q", Order, max_receives=3, dead_letters=False),
            ConfigurationError,
            "needs dead letters",
        ),
        (lambda app: app.queue("taken", Order), ConfigurationError, r"declared already at test_router.py:\d+"),
        (lambda app: app.queue("q", Order).batch_handler(size=0), ConfigurationError, "use size >= 1"),
        (lambda app: app.queue("q", Order).handler(concurrency=0)(print), ConfigurationError, "concurrency is 0"),
        (lambda app: app.queue("q", Order).handler(timeout=float("nan"))(print), ConfigurationError, "timeout is nan"),
        (
            lambda app: app.queue("q", Order).handler(emit="orders")(print),
            WiringError,
            "emit is 'orders'; give the topic",
        ),
        (
            lambda app: app.stream("s", Order, sink="memory://s", compression="lz4"),
            ConfigurationError,
            r"test_router.py:\d+: stream s: compression is 'lz4'; use one of none, gzip",
        ),
        (lambda app: app.stream("s", Order, sink="memory://s", format="xml"), ConfigurationError, "use one of jsonl"),
        (lambda app: app.stream("s", Order, sink="memory://s", durability="disk"), ConfigurationError, "one of memory"),
        (lambda app: app.stream("s", Order, sink="memory://s", delimiter=";"), ConfigurationError, "write it as bytes"),
        (
            lambda app: app.middleware(5),
            WiringError,
            r"test_router.py:\d+: 5 is no middleware .*; write `async def guard",
        ),
        (lambda app: app.middleware(lambda delivery: None), WiringError, "too many positional arguments"),
        (lambda app: app.include(app), ConfigurationError, "included already"),
        (
            lambda app: app.queue("q", Order, app.queue("fed", Order)),
            ConfigurationError,
            r"test_router.py:\d+: queue q: it cannot subscribe to <queue fed>; give a topic",
        ),
        (lambda app: app.queue("q", Order, "orders"), ConfigurationError, "cannot subscribe to 'orders'"),
        (lambda app: app.stream("s", Order, "orders", sink="memory://s"), ConfigurationError, "stream s: it cannot"),
        (lambda app: app.webhook("w", "orders", url="https://a.example"), ConfigurationError, "webhook w: it cannot"),
        (lambda app: app.queue("q", Order, visibility_timeout="30s"), ConfigurationError, "is '30s'; use a number"),
        (lambda app: app.queue("q", Order, max_receives=True), ConfigurationError, "is True; use a number"),
        (
            lambda app: app.queue("q", Order).handler(concurrency="4")(print),
            ConfigurationError,
            r"test_router.py:\d+: q: concurrency is '4'; use a number",
        ),
        (lambda app: app.queue("q", Order).batch_handler(size="9"), ConfigurationError, "size is '9'; use a number"),
        (lambda app: app.queue("q", Order).batch_handler(linger=float("nan")), ConfigurationError, "linger >= 0"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(declare, error, text) -> None:  # type: ignore[no-untyped-def]
    app = App("shop")
    app.queue("taken", Order)
    with pytest.raises(error, match=text):
        declare(app)


def test_two_routers_with_one_name_are_refused_with_both_places() -> None:
    app, router = App("shop"), Router()
    app.queue("work", Order)
    router.queue("work", Order)
    app.include(router)
    with pytest.raises(
        ConfigurationError, match=r"queue work is declared at test_router.py:\d+ and again at test_router"
    ):
        app.topology()


def test_a_topic_of_a_router_that_is_not_included_is_named() -> None:
    app, router = App("shop"), Router()
    app.queue("work", Order, router.topic("orders", Order))
    with pytest.raises(ConfigurationError, match="topic orders, which is on a router that this app does not include"):
        app.topology()


def test_a_handler_or_source_that_feeds_what_the_app_does_not_include_is_named() -> None:
    app, router = App("shop"), Router()
    orders = router.topic("orders", Order)

    @app.queue("work", Order).handler(emit=orders)
    async def handle(order: Order) -> Order:
        return order

    with pytest.raises(
        ConfigurationError, match=r"handler handle .* emits to topic orders \(test_router.py:\d+\), which"
    ):
        app.topology()
    app.include(router)
    app.topology()
    other = App("other")

    @other.source(orders)
    async def replay(position: int | None) -> AsyncIterator[At[int, Order]]:
        yield At(1, Order(1))

    with pytest.raises(ConfigurationError, match=r"source replay feeds topic orders .*add app.include"):
        other.topology()


def test_a_fifo_queue_of_a_standard_topic_is_refused() -> None:
    app = App("shop")
    app.queue("ledger", Order, app.topic("orders", Order), fifo=True)
    with pytest.raises(ConfigurationError, match="declare the topic with fifo=True"):
        app.topology()


def test_fifo_dead_letters_that_are_standard_are_refused_Q87() -> None:
    app = App("shop")
    app.queue("ledger", Order, fifo=True, dead_letters="failed")
    app.queue("failed", Order)
    with pytest.raises(ConfigurationError, match="must be FIFO"):
        app.topology()


def test_options_become_the_spec() -> None:
    queue = App("shop").queue(
        "work", Order, visibility_timeout=60, max_receives=3, delay=5, retention=100, content_dedup=True, fifo=True
    )
    assert queue.spec == QueueSpec(
        "work",
        fifo=True,
        visibility_timeout=60,
        max_receives=3,
        dead_letters="work-dlq",
        delay=5,
        retention=100,
        content_dedup=True,
    )


async def test_where_selects_by_attributes_and_where_body_by_content() -> None:
    app = App("shop")
    orders = app.topic("orders", Order)
    placed = app.queue("placed", Order, orders.where(kind=["placed", "paid"], total=num(">", 100)))
    large = app.queue("large", Order, orders.where_body({"total": [{"numeric": [">", 100]}]}))
    async with harness(app) as h:
        await orders.publish(Order(1, 500), kind="placed", total=500)
        await orders.publish(Order(2, 500), kind="gone", total=500)
        await orders.publish(Order(3, 5), attributes={"kind": "paid", "total": 101})
        assert [order.id for order in h.queued(placed)] == [1, 3]
        assert [order.id for order in h.queued(large)] == [1, 2]


def test_T44_a_filter_on_bodies_that_are_no_json_is_refused_where_it_is_written() -> None:
    app = App("shop")
    for orders in (app.topic("orders", Order, codec="msgpack"), app.topics_named("orders-*", Order, codec="msgpack")):
        with pytest.raises(ConfigurationError, match="msgpack, so nothing would match"):
            orders.where_body({"total": [1]})
        orders.where(total=1)


async def test_many_are_sent_at_once_and_a_refused_one_is_a_value_among_the_answers() -> None:
    app = App("shop")
    ledger = app.queue("ledger", Order, fifo=True, max_body=60)
    async with harness(app) as h:
        answers = await ledger.send_many(
            [Order(1), Order(2), Order(1)],
            group=lambda order: f"g{order.id}",
            dedup_id=lambda order: f"d{order.id}",
            attributes=lambda order: {"id": order.id},
        )
        assert [type(answer) for answer in answers] == [Sent, Sent, Sent]
        assert isinstance(answers[2], Sent)
        assert answers[2].duplicate
        refused = await ledger.send_many([Order(10**40, 10**40)], group="g", dedup_id=lambda order: "d")
        assert isinstance(refused[0], Refused)
        assert len(h.queued(ledger)) == 2


async def test_what_is_no_list_of_values_is_not_taken_for_one() -> None:
    app = App("shop")
    names: Any = app.queue("names", str)
    orders: Any = app.topic("orders", Order)
    async with harness(app) as h:
        for given in ("ada", {"ada": 1}, 5):
            with pytest.raises(ConfigurationError, match="is one value; give a list of values"):
                await names.send_many(given)
        with pytest.raises(ConfigurationError, match="Order is one value"):
            await orders.publish_many(Order(1))
        with pytest.raises(ConfigurationError, match="dedup_id is 'd', and no two messages have the same"):
            await names.send_many(["ada", "bo"], dedup_id="d")
        assert h.queued(names) == []


async def test_an_attribute_whose_name_is_no_text_is_refused_by_name() -> None:
    app = App("shop")
    names: Any = app.queue("names", str)
    async with harness(app):
        with pytest.raises(CodecError, match="attribute 1: names are text"):
            await names.send("ada", attributes={1: "x"})


async def test_a_look_that_cannot_be_is_refused_with_what_can() -> None:
    app = App("shop")
    names: Any = app.queue("names", str)
    async with harness(app):
        with pytest.raises(ConfigurationError, match="names: state is 'hidden'; use ready, delayed, in_flight"):
            await names.peek(state="hidden")
        with pytest.raises(ConfigurationError, match="write conditions as one text"):
            await names.peek(where={"attempt": 2})
        with pytest.raises(ConfigurationError, match="limit is '5'; use a number"):
            await names.peek("5")


async def test_middleware_runs_outermost_first_and_a_routers_own_around_its_own_handlers_only() -> None:
    app, router = App("shop"), Router()
    log: list[str] = []
    mine, theirs = app.queue("mine", Order), router.queue("theirs", Order)

    def layer(name: str) -> None:
        async def around(delivery: Delivery, call_next: Handle) -> object:
            log.append(f"{name} in")
            result = await call_next(delivery)
            log.append(f"{name} out with {result}")
            return result

        (router if name == "router" else app).middleware(around)

    layer("first")
    layer("second")
    layer("router")
    app.include(router)

    @mine.handler
    async def one(order: Order) -> int:
        return 1

    @theirs.handler
    def two(order: Order) -> int:
        return 2

    async with harness(app) as h:
        await mine.send(Order(1))
        await h.settle()
        assert log == ["first in", "second in", "second out with 1", "first out with 1"]
        log.clear()
        await theirs.send(Order(1))
        await h.settle()
        assert log[:3] == ["first in", "second in", "router in"]
        assert log[3:] == ["router out with 2", "second out with 2", "first out with 2"]


async def test_middleware_may_acknowledge_without_the_handler_and_change_what_it_sees() -> None:
    app = App("shop")
    work = app.queue("work", Order)
    seen: list[Order] = []

    @app.middleware
    async def tenant(delivery: Delivery, call_next: Handle) -> object:
        if delivery.attributes.get("tenant") == "blocked":
            return None
        return await call_next(msgspec.structs.replace(delivery, body=b'{"id":7}'))

    @work.handler
    async def handle(order: Order) -> None:
        seen.append(order)

    async with harness(app) as h:
        await work.send(Order(1), tenant="blocked")
        await work.send(Order(2), tenant="good")
        await h.settle()
        assert seen == [Order(7)]
        assert h.queued(work) == h.in_flight(work) == h.dead(work) == []


def test_T77_at_most_fifty_tags_are_taken() -> None:
    with pytest.raises(ConfigurationError, match="51 tags; use at most 50"):
        Router().topic("orders", Order, tags={str(n): "x" for n in range(51)})


def test_T56_a_stream_of_envelopes_takes_no_partition_and_no_columns() -> None:
    router = Router()
    orders = router.topic("orders", Order)
    router.stream("lake", Order, orders, sink="memory://lake", envelope=True)
    assert not router.subscriptions[0].raw
    with pytest.raises(ConfigurationError, match="envelope=True delivers envelopes"):
        router.stream("files", Order, orders, sink="memory://files", envelope=True, format="parquet")
