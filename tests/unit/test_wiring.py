"""Signatures: what serves a parameter, and what is said when nothing does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from pipeflow import App, At, Batch, Context, Message
from pipeflow.errors import ConfigurationError, WiringError
from pipeflow.testing import harness

if TYPE_CHECKING:
    from decimal import Decimal


class Order(msgspec.Struct, frozen=True):
    id: int


class Click(msgspec.Struct, frozen=True):
    id: int


class Db:
    def __init__(self, name: str = "main") -> None:
        self.name = name


class Session:
    def __init__(self, db: Db) -> None:
        self.db = db
        self.ended = ""


def shop() -> App:
    return App("shop")


async def refused(app: App) -> str:
    with pytest.raises(WiringError) as caught:
        async with harness(app):
            pass
    return str(caught.value)


async def test_a_parameter_that_nothing_provides_is_named_with_place_type_and_remedy() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    @billing.handler
    async def charge(order: Order, db: Db) -> None: ...

    line = charge.__code__.co_firstlineno
    assert await refused(app) == (
        f"charge (test_wiring.py:{line}): nothing provides parameter db: Db; "
        "declare an @app.provide function that results in Db"
    )


async def test_a_handler_of_another_payload_is_told_what_its_queue_carries() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    @billing.handler  # type: ignore[arg-type]  # under test
    async def charge(click: Click) -> None: ...

    assert "queue billing carries Order: write `click: Order` or `click: Message[Order]`" in await refused(app)


async def test_an_envelope_of_another_payload_is_told_what_to_write() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    @billing.handler  # type: ignore[arg-type]  # under test
    async def charge(message: Message[Click]) -> None: ...

    assert "asks for Message[Click], but its queue carries Order; write Message[Order]" in await refused(app)


async def test_a_batch_handler_without_a_batch_is_told_what_to_write() -> None:
    app = shop()
    bulk = app.queue("bulk", Order)

    @bulk.batch_handler(size=3)  # type: ignore[arg-type]  # under test
    async def load(order: Order) -> None: ...

    assert "write `batch: Batch[Order]`" in await refused(app)


async def test_a_name_known_to_the_type_checker_only_is_explained() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    @billing.handler
    async def charge(order: Order, amount: Decimal) -> None: ...

    text = await refused(app)
    assert "names 'Decimal', which is not there at run time; import it outside `if TYPE_CHECKING:`" in text


async def test_types_of_the_function_around_are_seen_and_those_defined_later_too() -> None:
    class Local:
        pass

    app = shop()
    billing = app.queue("billing", Order)
    seen: list[object] = []

    @billing.handler
    async def charge(order: Order, local: Local, later: Later) -> None:
        seen.extend([local, later])

    async with harness(app, provide={Local: Local(), Later: Later()}) as h:
        await billing.send(Order(1))
        await h.settle()
    assert [type(each) for each in seen] == [Local, Later]


class Later:
    pass


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda order: None, "parameter order has no type"),
        (eval("lambda *orders: None"), "parameter *orders cannot be served by type"),  # noqa: S307  # a literal
        (3, "3 is no function"),
    ],
)
def test_shapes_that_no_call_can_serve_are_refused_when_decorated(function: Any, text: str) -> None:
    billing: Any = shop().queue("billing", Order)
    with pytest.raises(WiringError) as caught:
        billing.handler(function)
    assert text in str(caught.value)


async def test_a_handler_that_yields_is_told_how_to_publish_many() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    @billing.handler
    async def charge(order: Order) -> AsyncIterator[int]:
        yield 1

    assert "ask for `ctx: Context` and call ctx.publish for each" in await refused(app)


def test_a_second_handler_is_refused_by_the_name_of_the_first() -> None:
    billing = shop().queue("billing", Order)

    @billing.handler
    async def charge(order: Order) -> None: ...

    with pytest.raises(WiringError, match=r"queue billing already has the handler charge \(test_wiring.py:\d+\)"):

        @billing.handler
        async def again(order: Order) -> None: ...


async def test_a_handler_that_is_declared_while_the_app_is_open_is_refused() -> None:
    app = shop()
    billing = app.queue("billing", Order)

    async def charge(order: Order) -> None: ...

    async with harness(app):
        with pytest.raises(ConfigurationError, match=r"test_wiring.py:\d+: queue billing: a handler .* would not run"):
            billing.handler(charge)
    billing.handler(charge)


async def test_a_batch_handler_needs_no_options() -> None:
    app = shop()
    billing = app.queue("billing", Order)
    seen: list[int] = []

    @billing.batch_handler
    async def charge(batch: Batch[Order]) -> None:
        seen.extend(message.body.id for message in batch)

    async with harness(app) as h:
        await billing.send_many([Order(1), Order(2)])
        await h.settle()
    assert seen == [1, 2]


def test_decorators_return_the_function_itself() -> None:
    app = shop()
    orders = app.topic("orders", Order)
    names = ("plain", "called", "batch")
    plain, called, batch = (app.queue(name, Order) for name in names)

    async def one(order: Order) -> Order: ...  # type: ignore[empty-body]  # never called

    async def many(batch: Batch[Order]) -> None: ...

    async def feed(position: int | None) -> AsyncIterator[At[int, Order]]:
        yield At(1, Order(1))

    def db() -> Db: ...  # type: ignore[empty-body]  # never called

    assert plain.handler(one) is one
    assert called.handler(emit=orders)(one) is one
    assert batch.batch_handler(size=3)(many) is many
    assert app.source(orders)(feed) is feed
    assert app.provide(db) is db
    assert app.provide(per="message")(db) is db


async def test_everything_a_handler_may_ask_for_in_any_order() -> None:
    app = shop()
    work = app.queue("work", Order)
    seen: list[object] = []

    @app.provide
    def main() -> Db:
        return Db("main")

    @app.provide
    async def replica() -> Annotated[Db, "replica"]:
        return Db("replica")

    @work.handler  # type: ignore[arg-type]  # mypy wants the payload first, the engine does not
    async def handle(
        ctx: Context, db: Db, message: Message[Order], *, order: Order, copy: Annotated[Db, "replica"], limit: int = 5
    ) -> None:
        assert ctx.message == message
        seen.extend([db.name, message.body, order, copy.name, limit, ctx.attempt])

    async with harness(app) as h:
        await work.send(Order(1), kind="placed")
        await h.settle()
    assert seen == ["main", Order(1), Order(1), "replica", 5, 1]


async def test_payloads_may_be_taken_as_something_wider() -> None:
    app = shop()
    first, second, third = app.queue("first", Order), app.queue("second", dict[str, object]), app.queue("third", Order)
    seen: list[object] = []

    @first.handler
    async def wide(order: Order | None) -> None:
        seen.append(order)

    @second.handler
    async def plain(payload: dict[str, object]) -> None:
        seen.append(payload)

    @third.handler
    async def anything(payload: object) -> None:
        seen.append(payload)

    async with harness(app) as h:
        await first.send(Order(1))
        await second.send({"a": 1})
        await third.send(Order(3))
        await h.settle()
    assert sorted(map(repr, seen)) == sorted(map(repr, [Order(1), {"a": 1}, Order(3)]))


async def test_providers_are_entered_in_order_and_left_in_reverse() -> None:
    app = shop()
    work = app.queue("work", Order)
    log: list[str] = []

    @app.provide
    async def db() -> AsyncIterator[Db]:
        log.append("db in")
        yield Db()
        log.append("db out")

    @app.provide
    def session(db: Db) -> Iterator[Session]:
        log.append("session in")
        yield Session(db)
        log.append("session out")

    @work.handler
    async def handle(order: Order, session: Session) -> None:
        log.append(f"handled with {session.db.name}")

    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
    assert log == ["db in", "session in", "handled with main", "session out", "db out"]


async def test_a_provider_per_message_sees_how_its_message_ended() -> None:
    app = shop()
    work = app.queue("work", Order, max_receives=1)
    sessions: list[Session] = []

    @app.provide
    def db() -> Db:
        return Db()

    @app.provide(per="message")
    async def session(db: Db) -> AsyncIterator[Session]:
        session = Session(db)
        sessions.append(session)
        try:
            yield session
            session.ended = "committed"
        except ValueError:
            session.ended = "rolled back"
            raise

    @work.handler
    async def handle(order: Order, session: Session) -> None:
        if order.id == 2:
            raise ValueError

    async with harness(app) as h:
        await work.send_many([Order(1), Order(2)])
        await h.settle()
        assert h.dead(work) == [Order(2)]
    assert sorted(session.ended for session in sessions) == ["committed", "rolled back"]


async def test_overrides_replace_providers_which_are_then_not_entered() -> None:
    app = shop()
    work = app.queue("work", Order)
    seen: list[str] = []

    @app.provide
    async def db() -> AsyncIterator[Db]:
        raise AssertionError("entered although replaced")
        yield

    @work.handler
    async def handle(order: Order, db: Db) -> None:
        seen.append(db.name)

    async with harness(app, provide={Db: Db("fake")}) as h:
        await work.send(Order(1))
        await h.settle()
    assert seen == ["fake"]


def needs_later(app: App) -> None:
    @app.provide
    def session(db: Db) -> Session:
        return Session(db)

    @app.provide
    def db() -> Db:
        return Db()


def twice(app: App) -> None:
    for _ in range(2):

        @app.provide
        def db() -> Db:
            return Db()


def unannotated(app: App) -> None:
    @app.provide
    def db():  # type: ignore[no-untyped-def]  # under test
        return Db()


def short_lived(app: App) -> None:
    @app.provide(per="message")
    def db() -> Db:
        return Db()

    @app.provide
    def session(db: Db) -> Session:
        return Session(db)


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (needs_later, "parameter db: Db is provided by nothing declared before it"),
        (twice, "Db is already provided by db"),
        (unannotated, "a provider is known by its result; annotate it"),
        (short_lived, "is provided by nothing declared before it that lives as long as the app"),
    ],
)
async def test_providers_that_cannot_be_are_refused(declare: Callable[[App], None], text: str) -> None:
    app = shop()
    declare(app)
    assert text in await refused(app)


async def test_a_source_of_another_shape_is_told_what_to_write() -> None:
    app = shop()
    orders = app.topic("orders", Order)

    @app.source(orders)  # type: ignore[arg-type]  # under test
    async def feed() -> AsyncIterator[At[int, Order]]:
        yield At(1, Order(1))

    assert "write `async def feed(position: int | None) -> AsyncIterator[At[int, Order]]`" in await refused(app)


async def test_ctx_in_a_batch_has_no_single_message_and_none_takes_anything_after_the_return() -> None:
    app = shop()
    bulk, copies = app.queue("bulk", Order), app.topic("copies", Order)
    texts: list[str] = []
    kept: list[Context] = []

    @bulk.batch_handler(size=2)
    async def load(batch: Batch[Order], ctx: Context) -> None:
        kept.append(ctx)
        with pytest.raises(Exception, match="a batch has many messages"):
            _ = ctx.message

    async with harness(app) as h:
        await bulk.send(Order(1))
        await h.settle()
        with pytest.raises(Exception, match="the handler has returned, so topic copies cannot leave"):
            kept[0].publish(copies, Order(1))
    assert texts == []


async def test_a_handler_that_emits_something_else_fails_and_says_how_to_publish_several() -> None:
    app = App("shop")
    work, receipts = app.queue("work", Order, max_receives=1), app.topic("receipts", Order)

    @work.handler(emit=receipts)
    async def handle(order: Order) -> Any:
        return [order, order]

    async with harness(app) as h:
        await work.send(Order(1))
        await h.settle()
        assert h.published(receipts) == []
        (dead,) = await h.runtime.store.peek("work", 1, True)
        assert dead.failures[0].message.endswith(
            "returned list, and emit=receipts publishes Order: return one Order or None; "
            "to publish several, ask for `ctx: Context` and call ctx.publish for each"
        )
