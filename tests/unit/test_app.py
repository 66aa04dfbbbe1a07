"""An app: open and closed, by itself or under others, and what its nouns say when it is neither."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeflow import App, Context, Message, RefusedError
from pipeflow.errors import CodecError, ConfigurationError, UnknownScheme
from pipeflow.events import Event, Handled
from pipeflow.testing import harness


class Order(msgspec.Struct, frozen=True):
    id: int


class Receipt(msgspec.Struct, frozen=True):
    order: int


async def test_a_noun_of_an_app_that_is_not_open_says_how_to_open_it() -> None:
    app = App("shop", broker="memory://")
    orders, work = app.topic("orders", Order), app.queue("work", Order)
    with pytest.raises(ConfigurationError, match=r"topic orders: its app is not open; use it inside `async with app:`"):
        await orders.publish(Order(1))
    async with app:
        await orders.publish(Order(1))
    with pytest.raises(ConfigurationError, match="queue work: its app is not open"):
        await work.send(Order(1))


async def test_a_run_inside_a_loop_says_what_is_for_there() -> None:
    with pytest.raises(ConfigurationError, match=r"app shop: a loop runs here already; use `await app.serve\(\)`"):
        App("shop", broker="memory://").run()


async def test_an_app_opens_again_after_it_was_closed_and_not_twice_at_once() -> None:
    app = App("shop", broker="memory://")
    work = app.queue("work", Order)
    for _ in range(2):
        async with app:
            assert len(await work.send(Order(1))) == 36
            with pytest.raises(ConfigurationError, match="app shop is open already"):
                await app.__aenter__()


async def test_an_app_that_is_left_in_another_task_says_where_to_open_it() -> None:
    app = App("shop", broker="memory://")
    async with app:
        with pytest.raises(ConfigurationError, match=r"opened in one task and left in another.*`pipeflow_harness`"):
            await asyncio.create_task(app.__aexit__(None, None, None))


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Colour.RED, "red"),
        (type("Text", (str,), {})("x"), "x"),
        (type("Number", (int,), {})(3), 3),
        (type("Share", (float,), {})(0.5), 0.5),
        (True, True),
        (b"x", b"x"),
        (("a", 1, None), ["a", 1, None]),
    ],
)
async def test_T26_attributes_are_kept_as_what_they_are_made_of(tmp_path: Path, value: Any, kept: object) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    work = app.queue("work", Order)
    async with app.running(handlers=False) as runtime:
        await work.send(Order(1), a=value)
        await work.send_many([Order(2)], attributes={"a": value})
        assert [each.attributes for each in await runtime.store.peek("work")] == [{"a": kept}] * 2


@pytest.mark.parametrize("value", [object(), 2**70, None, {"x": 1}, [1, object()], [b"x"], ["x", ["y"]]])
async def test_T26_an_attribute_that_cannot_be_kept_is_its_senders_error_and_nobody_elses(
    tmp_path: Path, value: Any
) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    orders = app.topic("orders", Order)
    work = app.queue("work", Order, orders)
    async with app.client():
        for send in (work.send, orders.publish):
            with pytest.raises(CodecError, match=r"attribute kind is .*: use text"):
                await send(Order(1), kind=value)
        with pytest.raises(CodecError, match=r"attribute kind is .*: use text"):
            await orders.publish_many([Order(1)], attributes={"kind": value})
        await work.send(Order(2))


async def test_nothing_is_declared_while_the_app_is_open() -> None:
    app = App("shop", broker="memory://")
    async with app:
        with pytest.raises(
            ConfigurationError, match=r"^test_app.py:\d+: queue late cannot be declared while the app is open"
        ):
            app.queue("late", Order)
    app.queue("late", Order)


async def test_a_client_publishes_and_runs_no_handler() -> None:
    app = App("shop", broker="memory://")
    work = app.queue("work", Order)
    seen: list[Order] = []

    @work.handler
    async def handle(order: Order) -> None:
        seen.append(order)

    async with app.client():
        await work.send(Order(1))
    assert seen == []


@pytest.mark.parametrize(
    "sink",
    ["s3://bucket/lake?shape=CANARY", "https://CANARY@host/lake", "nowhere://host/CANARY?key=CANARY"],
)
async def test_a_sink_that_is_refused_is_written_nowhere(sink: str, tmp_path: Path) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    app.stream("lake", Order, sink=sink)
    with pytest.raises(ConfigurationError) as raised:
        await app.run_until_idle()
    assert "CANARY" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


async def test_what_was_sent_before_a_restart_is_handled_after_it(tmp_path: Path) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    work = app.queue("work", Order)
    seen: list[Order] = []

    @work.handler
    async def handle(order: Order) -> None:
        seen.append(order)

    async with app.client():
        await work.send_many([Order(1), Order(2)])
    await app.run_until_idle()
    assert sorted(order.id for order in seen) == [1, 2]
    await app.run_until_idle()
    assert len(seen) == 2


async def test_the_broker_is_the_calls_then_the_environments_then_the_apps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop", broker="nowhere://app")
    with pytest.raises(UnknownScheme, match="nowhere://app"):
        async with app:
            pass
    monkeypatch.setenv("PIPEFLOW_BROKER", "nowhere://environment")
    with pytest.raises(UnknownScheme, match="nowhere://environment"):
        async with app:
            pass
    async with app.running(broker="memory://") as runtime:
        assert runtime.store.url.startswith("memory://")
    monkeypatch.delenv("PIPEFLOW_BROKER")
    monkeypatch.chdir(tmp_path)
    async with App("shop"):
        assert (tmp_path / "shop.db").exists()


async def test_only_runs_what_is_named_and_suggests_what_was_meant() -> None:
    app = App("shop")
    first, second = app.queue("billing", Order), app.queue("audit", Order)
    seen: list[str] = []

    @first.handler
    async def one(order: Order) -> None:
        seen.append("billing")

    @second.handler
    async def two(order: Order) -> None:
        seen.append("audit")

    async with app.running(broker="memory://", only=["audit"], grace=5):
        await first.send(Order(1))
        await second.send(Order(1))
        await app.run_until_idle()
    assert seen == ["audit"]
    with pytest.raises(ConfigurationError, match=r"only 'biling': no queue .* did you mean billing"):
        async with app.running(broker="memory://", only=["biling"]):
            pass


async def test_a_refused_item_is_an_error_for_a_single_call() -> None:
    app = App("shop", broker="memory://")
    small = app.queue("small", bytes, max_body=3)
    async with app:
        with pytest.raises(RefusedError, match="queue small: "):
            await small.send(b"four")


async def test_a_charge_and_its_receipt_are_one_and_know_where_they_came_from() -> None:
    app = App("shop")
    receipts = app.topic("receipts", Receipt)
    work, after = app.queue("work", Order), app.queue("after", Receipt, receipts)
    envelopes: list[Message[Receipt]] = []

    @work.handler(emit=receipts)
    async def charge(order: Order) -> Receipt | None:
        return Receipt(order.id) if order.id else None

    @after.handler
    async def look(message: Message[Receipt]) -> None:
        envelopes.append(message)

    async with harness(app) as h:
        first = await work.send(Order(1))
        await work.send(Order(0))
        await h.settle()
        assert h.published(receipts) == [Receipt(1)]
        assert envelopes[0].headers["causation"] == first
        assert envelopes[0].headers["correlation"] == first


async def test_the_correlation_is_that_of_the_first_cause_through_every_way_of_publishing() -> None:
    app = App("shop")
    a, b, c, d = (app.queue(name, Order) for name in "abcd")
    headers: dict[str, dict[str, str]] = {}

    @a.handler
    async def first(order: Order, ctx: Context) -> None:
        ctx.send(b, order)

    @b.handler
    async def second(message: Message[Order]) -> None:
        headers["b"] = message.headers
        await c.send(message.body)
        await d.send_many([message.body])

    @c.handler
    async def third(message: Message[Order]) -> None:
        headers["c"] = message.headers

    @d.handler
    async def fourth(message: Message[Order]) -> None:
        headers["d"] = message.headers

    async with harness(app) as h:
        start = await a.send(Order(1))
        await h.settle()
    assert {each["correlation"] for each in headers.values()} == {start}
    assert headers["c"]["causation"] == headers["d"]["causation"] != start


async def test_observers_hear_everything_and_one_that_raises_is_left_out() -> None:
    app = App("shop", broker="memory://")
    work = app.queue("work", Order)
    events: list[Event] = []

    @app.observe
    def broken(event: Event) -> None:
        raise ValueError

    app.observe(events.append)

    @work.handler
    async def handle(order: Order) -> None: ...

    async with app:
        await work.send(Order(1))
        await app.run_until_idle()
    assert [type(event).__name__ for event in events] == ["Started", "Queued", "Handled", "Stopped"]
    assert isinstance(events[2], Handled)


async def test_two_apps_do_not_share_a_noun() -> None:
    first, second = App("first", broker="memory://"), App("second", broker="memory://")
    orders = first.topic("orders", Order)
    second.topics.append(orders)
    async with first:
        with pytest.raises(ConfigurationError, match=r"topic orders .* is open in app first; declare one of its own"):
            async with second:
                pass


async def test_a_harness_beside_an_open_app_does_not_disturb_it() -> None:
    app = App("shop", broker="memory://")
    work = app.queue("work", Order)
    seen: list[int] = []

    @work.handler
    async def handle(order: Order) -> None:
        seen.append(order.id)
        if order.id == 1:
            await work.send(Order(2))

    async with app:
        async with harness(app) as h:
            await work.send(Order(1))
            await h.settle()
            assert seen == [1, 2]
        await work.send(Order(3))
        await app.run_until_idle()
    assert seen == [1, 2, 3]


def test_importing_pipeflow_loads_no_door_no_sqlite_and_no_compression() -> None:
    program = (
        "import sys, pipeflow; print([name for name in sys.modules if name.startswith(("
        "'pipeflow.cli', 'pipeflow.testing', 'pipeflow.server', 'pipeflow.embedded', 'sqlite3', 'aiosqlite', 'isal', "
        "'click', 'rich'))])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout == "[]\n"
