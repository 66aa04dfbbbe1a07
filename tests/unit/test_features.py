"""What a store cannot do is said before anything runs: the noun, its place, the remedy; or to who sends."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pipeflow import App, At, Context
from pipeflow.clock import VirtualClock
from pipeflow.embedded.broker import EmbeddedBroker
from pipeflow.embedded.sqlite.outbox_file import OutboxFile
from pipeflow.engine.lacking import Lacking
from pipeflow.errors import FeatureMissing
from pipeflow.protocols import Features, Store
from pipeflow.registry import open_store
from pipeflow.testing import harness
from pipeflow.wiring.features import missing

LACKS: dict[str, Any] = {
    "fifo": False,
    "dedup": False,
    "max_delay": 60.0,
    "rates": False,
    "archives": False,
    "record_log": False,
    "admin": False,
    "checkpoints": False,
    "ttl": False,
    "priorities": False,
    "delayed_keys": False,
}


@asynccontextmanager
async def store_without(*names: str) -> AsyncIterator[Store]:
    """A store that says it has everything but these."""
    store = await open_store("memory://", clock=VirtualClock())
    assert isinstance(store, EmbeddedBroker)
    store.features = replace(store.features, **{name: LACKS[name] for name in names})
    yield store
    await store.close()


def fifo_topic(app: App) -> None:
    app.topic("orders", str, fifo=True)


def deduplicating_topic(app: App) -> None:
    app.topic("orders", str, content_dedup=True)


def archiving_topic(app: App) -> None:
    app.topic("orders", str, archive=30)


def fifo_queue(app: App) -> None:
    app.queue("work", str, fifo=True)


def deduplicating_queue(app: App) -> None:
    app.queue("work", str, content_dedup=True)


def slow_queue(app: App) -> None:
    app.queue("work", str, max_per_second=2)


def late_queue(app: App) -> None:
    app.queue("work", str, delay=61)


def stream(app: App) -> None:
    app.stream("lake", str, sink="memory://")


def webhook(app: App) -> None:
    app.webhook("partner", app.topic("orders", str), url="https://partner.example.org/orders")


def source(app: App) -> None:
    @app.source(app.topic("orders", str))
    async def feed(position: int | None) -> AsyncIterator[At[int, str]]:
        yield At(1, "one")


def outbox(app: App) -> None:
    app.outbox("app.db")


DECLARED: list[tuple[Callable[[App], None], str, str]] = [
    (fifo_topic, "fifo", r"topic orders \(test_features.py:\d+\): fifo=True.*leave fifo off"),
    (deduplicating_topic, "dedup", r"topic orders \(\S+:\d+\): content_dedup=True.*leave it off"),
    (archiving_topic, "archives", r"topic orders \(\S+:\d+\): archive=.*leave it off"),
    (fifo_queue, "fifo", r"queue work \(\S+:\d+\): fifo=True.*leave fifo off"),
    (deduplicating_queue, "dedup", r"queue work \(\S+:\d+\): content_dedup=True.*leave it off"),
    (slow_queue, "rates", r"queue work \(\S+:\d+\): max_per_second=2 .*leave it off"),
    (late_queue, "max_delay", r"queue work \(\S+:\d+\): delay=61 .*use at most 60 s"),
    (stream, "record_log", r"stream lake \(\S+:\d+\): there is no log"),
    (webhook, "admin", r"webhook partner \(\S+:\d+\): handshake=True.*use handshake=False"),
    (source, "checkpoints", r"source feed \(\S+:\d+\): positions.*another store"),
    (outbox, "checkpoints", r"outbox app.db \(\S+:\d+\): positions.*another store"),
]


@pytest.mark.parametrize(("declare", "lacking", "said"), DECLARED, ids=lambda each: getattr(each, "__name__", ""))
async def test_an_app_does_not_open_on_a_store_that_cannot_do_what_it_declares(
    declare: Callable[[App], None], lacking: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = App("shop")
    declare(app)
    async with store_without(lacking) as store:
        with pytest.raises(FeatureMissing, match=said) as caught:
            async with app.running(store=store):
                raise AssertionError("it opened")
        assert "the store memory:// cannot do" in str(caught.value)
        described = await store.describe()
        assert described == replace(described, topics=(), queues=(), streams=()), "a refused app declares nothing"
    everything_else = Features(durable=False, **{name: LACKS[name] for name in LACKS.keys() - {lacking}})
    for line in missing(list(app.walk()), everything_else):
        assert not re.search(said, line), "what the store has is not refused"


async def test_everything_that_is_missing_is_said_at_once() -> None:
    app = App("shop")
    fifo_topic(app)
    slow_queue(app)
    async with store_without("fifo", "rates") as store:
        with pytest.raises(FeatureMissing, match=r"topic orders .*; queue work "):
            async with app.running(store=store):
                pass


MESSAGES: list[tuple[str, dict[str, Any], str]] = [
    ("priorities", {"priority": 9}, "priority=9"),
    ("ttl", {"ttl": 60}, "ttl="),
    ("delayed_keys", {"key": "one", "delay": 5}, "key="),
    ("dedup", {"dedup_id": "1"}, "dedup_id="),
    ("fifo", {"group": "g"}, "group="),
    ("max_delay", {"delay": 61}, "delay=61"),
]


@pytest.mark.parametrize(("lacking", "options", "said"), MESSAGES, ids=[each[0] for each in MESSAGES])
async def test_a_message_that_asks_for_what_the_store_cannot_do_is_not_sent(
    lacking: str, options: dict[str, Any], said: str
) -> None:
    app = App("shop")
    orders, work = app.topic("orders", str), app.queue("work", str)
    async with store_without(lacking) as store, app.running(store=store):
        calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [("queue work", lambda: work.send("one", **options))]
        if "key" not in options:
            calls.append(("topic orders", lambda: orders.publish("one", **options)))
        for noun, call in calls:
            with pytest.raises(FeatureMissing, match=f"{noun}: .*{said}.* the store memory://.*; use "):
                await call()
        await work.send("plain")
        assert [each.body for each in await store.peek("work")] == [b'"plain"']


@pytest.mark.parametrize("lacking", [True, False])
async def test_what_a_handler_sends_is_looked_at_too(lacking: bool) -> None:
    app = App("shop")
    work, copies = app.queue("work", str, max_receives=1), app.queue("copies", str)

    @work.handler
    async def handle(text: str, ctx: Context) -> None:
        ctx.send(copies, text, priority=9)

    async with harness(app) as h:
        if lacking:
            h.runtime.lacking = Lacking(replace(h.runtime.store.features, priorities=False), "memory://")
        await work.send("one")
        await h.settle()
        assert h.queued(copies) == ([] if lacking else ["one"])
        assert h.dead(work) == (["one"] if lacking else [])


async def test_a_source_whose_messages_the_store_cannot_take_ends_the_app_by_name() -> None:
    app = App("shop")
    orders = app.topic("orders", str)

    @app.source(orders)
    async def feed(position: int | None) -> AsyncIterator[At[int, str]]:
        yield At(1, "one", dedup_id="1")

    async with store_without("dedup") as store:
        with pytest.raises(FeatureMissing, match=r"feed .*: topic orders: dedup_id="):
            async with app.running(store=store) as runtime:
                await runtime.stopped()


async def test_an_outbox_sets_aside_what_the_store_cannot_take_and_goes_on(tmp_path: Path) -> None:
    app = App("shop")
    work = app.queue("work", str)
    outbox = app.outbox(str(tmp_path / "app.db"))
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        outbox.send(connection, work, "high", priority=9)
        outbox.send(connection, work, "plain")
        connection.commit()
    async with store_without("priorities") as store, app.running(store=store) as runtime:
        await runtime.until_idle()
        assert [each.body for each in await store.peek("work")] == [b'"plain"']
    (aside,) = OutboxFile(tmp_path / "app.db", "pipeflow_outbox").aside()
    assert "queue work: priority=9 cannot be done" in aside.failure
