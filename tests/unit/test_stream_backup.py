"""Backups as programs declare them: what goes in by any way is there twice, and what cannot be is refused at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.engine.runtime import Runtime
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.messages import At
from pipeflow.sinks.memory import MemorySink


class Order(msgspec.Struct, frozen=True):
    id: str
    total: int = 1


def shop(broker: str = "memory://", **options: Any) -> App:
    app = App("shop", broker=broker)
    durability = options.get("durability")
    originals = app.stream(
        "originals",
        bytes,
        sink="memory://originals",
        format="jsonl",
        compression="none",
        prefix="originals/",
        durability=durability,
    )
    orders = app.topic("orders", Order)
    lake = app.stream("lake", Order, orders, sink="memory://lake", backup=originals, **options)

    @lake.transform
    def doubled(order: Order) -> Order | None:
        return Order(order.id, order.total * 2) if order.total else None

    return app


@asynccontextmanager
async def running(app: App, **more: Any) -> AsyncIterator[tuple[Runtime, dict[str, MemorySink]]]:
    sinks = {stream.name: MemorySink() for stream in app.streams}
    async with app.running(clock=VirtualClock(), sinks=sinks, seed=7, **more) as runtime:
        yield runtime, sinks


def lines(sink: MemorySink) -> list[bytes]:
    return [line for content in sink.objects.values() for line in content.splitlines()]


@pytest.mark.parametrize("options", [{}, {"durability": "memory"}], ids=["durable", "memory"])
async def test_S31_records_put_published_emitted_and_from_sources_lie_in_the_backup_as_they_came(
    options: dict[str, Any], tmp_path: Path
) -> None:
    app = shop(f"sqlite:///{tmp_path}/shop.db", **options)
    originals, lake = app.streams
    queue = app.queue("work", Order)

    @queue.handler(emit=app.topics[0])
    async def work(order: Order) -> Order:
        return order

    @app.source(lake)
    async def feed(last: int | None) -> AsyncIterator[At[int, Order]]:
        for n in range(last or 0, 2):
            yield At(n + 1, Order(f"source-{n}"))

    async with running(app) as (runtime, sinks):
        await lake.put(Order("put"))
        await lake.put_many([Order("many-1"), Order("many-2", 0)])
        lake.put_nowait(Order("nowait"))
        await app.topics[0].publish(Order("published"))
        await queue.send(Order("emitted"))
        await runtime.until_idle()
        await originals.flush()
        stats = {each.name: each for each in (await runtime.store.stats()).streams}
        kept = sorted(msgspec.json.decode(line, type=Order).id for line in lines(sinks["originals"]))
    ids = ["put", "many-1", "many-2", "nowait", "published", "emitted", "source-0", "source-1"]
    assert kept == sorted(ids)
    assert all(name.startswith("originals/") for name in sinks["originals"].objects)
    assert stats["lake"].dropped == 1
    assert stats["lake"].backup == "originals"


async def test_S10_a_backup_may_be_added_later_and_taken_away_again(tmp_path: Path) -> None:
    broker = f"sqlite:///{tmp_path}/shop.db"

    async def put(id: str, backup: bool) -> list[bytes]:
        app = App("shop", broker=broker)
        originals = app.stream("originals", bytes, sink="memory://originals", format="jsonl", compression="none")
        lake = app.stream("lake", bytes, sink="memory://lake", backup=originals if backup else None)
        async with running(app) as (_, sinks):
            await lake.put(id.encode())
            await originals.flush()
            return lines(sinks["originals"])

    assert await put("before", backup=False) == []
    assert await put("with", backup=True) == [b"with"]
    assert await put("after", backup=False) == []


async def test_S31_a_put_that_the_backup_refuses_is_refused_whole() -> None:
    app = App("shop", broker="memory://")
    originals = app.stream("originals", bytes, sink="memory://originals", max_record=3)
    lake = app.stream("lake", bytes, sink="memory://lake", backup=originals)
    async with running(app) as (runtime, _):
        with pytest.raises(RefusedError, match="stream originals: a record of 4 bytes; the limit is max_record=3"):
            await lake.put(b"four")
        assert [each.accepted for each in (await runtime.store.stats()).streams] == [0, 0]


async def test_S31_a_stream_brings_its_backup_into_a_process_that_runs_only_some() -> None:
    app = shop()
    async with running(app, only=["lake"]) as (runtime, _):
        assert [each.name for each in runtime.deliveries] == ["originals", "lake"]


@pytest.mark.parametrize(
    ("backup", "lake", "reason"),
    [
        ({"format": "csv", "columns": ["id"]}, {}, "format='csv' makes something else of records"),
        ({"durability": "memory"}, {}, "both are accepted in one commit; declare both with durability='memory'"),
        ({}, {"durability": "memory"}, "both are accepted in one commit"),
    ],
)
def test_S31_a_backup_that_would_keep_something_else_is_refused_when_the_app_is_checked(
    backup: dict[str, Any], lake: dict[str, Any], reason: str
) -> None:
    app = App("shop")
    originals = app.stream("originals", Order, sink="memory://originals", **backup)
    app.stream("lake", Order, sink="memory://lake", backup=originals, **lake)
    with pytest.raises(ConfigurationError, match=f"stream originals cannot be the backup of stream lake: .*{reason}"):
        app.topology()


def test_S31_a_backup_has_no_transform() -> None:
    app = App("shop")
    originals = app.stream("originals", Order, sink="memory://originals")
    app.stream("lake", Order, sink="memory://lake", backup=originals)

    @originals.transform
    def changed(order: Order) -> Order:
        return order

    with pytest.raises(ConfigurationError, match="it unpacks or transforms, and a backup keeps records as they came"):
        app.topology()


def test_S31_a_backup_has_no_backup_so_there_are_no_circles() -> None:
    app = App("shop")
    last = app.stream("last", bytes, sink="memory://last")
    originals = app.stream("originals", bytes, sink="memory://originals", backup=last)
    app.stream("lake", bytes, sink="memory://lake", backup=originals)
    with pytest.raises(ConfigurationError, match="it has a backup itself, last; a record is kept once"):
        app.topology()


def test_S31_a_backup_takes_bytes_or_the_type_of_its_stream() -> None:
    app = App("shop")
    numbers = app.stream("numbers", int, sink="memory://numbers")
    with pytest.raises(
        ConfigurationError, match=r"test_stream_backup.py:\d+: stream lake: its backup numbers takes int"
    ):
        app.stream("lake", Order, sink="memory://lake", backup=numbers)


def test_S31_a_backup_of_another_app_is_told() -> None:
    originals = App("other").stream("originals", bytes, sink="memory://originals")
    app = App("shop")
    app.stream("lake", Order, sink="memory://lake", backup=originals)
    with pytest.raises(ConfigurationError, match="stream lake: its backup originals is not declared here"):
        app.topology()


async def test_S31_the_store_itself_refuses_a_backup_it_does_not_have() -> None:
    from msgspec.structs import replace

    app = shop()
    async with running(app) as (runtime, _):
        topology = app.topology()
        lake = next(spec for spec in topology.streams if spec.name == "lake")
        for backup, reason in (("nowhere", "backup nowhere is not declared"), ("lake", "cannot be its own backup")):
            with pytest.raises(ConfigurationError, match=reason):
                await runtime.store.declare(replace(topology, streams=(replace(lake, backup=backup),)))
