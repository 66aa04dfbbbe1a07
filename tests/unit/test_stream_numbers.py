"""What a stream says of itself in numbers: counters, ages, and why each object was written when it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.embedded.records import RecordCounters
from pipeflow.errors import Overloaded, SinkUnavailable
from pipeflow.events import Delivered, Event
from pipeflow.protocols import Object, StreamStats
from pipeflow.sinks.memory import MemorySink
from pipeflow.stream import Stream
from pipeflow.testing import harness


class Flight(msgspec.Struct, frozen=True):
    carrier: str | None
    n: int = 0


class Sick(MemorySink):
    """Takes nothing for its first attempts."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def write(self, obj: Object) -> None:
        if self.failures:
            self.failures -= 1
            raise SinkUnavailable("down")
        await super().write(obj)


def lake_of(app: App, **options: Any) -> Stream[bytes]:
    return app.stream("lake", bytes, sink="memory://lake", **{"compression": "none", **options})


async def fill(lake: Stream[bytes], how: str) -> None:
    match how:
        case "put":
            for body in (b"one", b"four", b"seven"):
                await lake.put(body)
        case "put_many":
            await lake.put_many([b"one", b"four", b"seven"])
        case _:
            for body in (b"one", b"four", b"seven"):
                lake.put_nowait(body)


@pytest.mark.parametrize("how", ["put", "put_many", "put_nowait"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"durability": "memory"},
        {"partition_by": lambda body: str(len(body))},
        {"durability": "memory", "partition_by": lambda body: str(len(body))},
        {"delimiter": b"\r\n"},
        {"durability": "memory", "delimiter": b"\r\n", "buffer_bytes": 6},
        {"split": b"#"},
    ],
    ids=["plain", "memory", "partitions", "partitions in memory", "separated", "small buffers in memory", "unpacked"],
)
async def test_S85_what_came_in_is_counted_in_records_and_in_bytes_whichever_way_it_came(
    how: str, options: dict[str, Any], tmp_path: Path
) -> None:
    app = App("numbers", broker=f"sqlite:///{tmp_path}/lake.db")
    lake = lake_of(app, **options)
    async with app.running(sinks={"lake": MemorySink()}):
        await fill(lake, how)
        stats = await lake.stats()
        assert (stats.accepted, stats.accepted_bytes) == (3, 12)
        await lake.flush()
        stats = await lake.stats()
    separators = 3 * len(options.get("delimiter", b""))
    assert (stats.accepted, stats.accepted_bytes) == (3, 12)
    assert (stats.delivered, stats.delivered_bytes, stats.buffered) == (3, 12 + separators, 0)


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S85_what_comes_by_a_topic_and_what_another_program_puts_is_counted_too(
    durability: Any, tmp_path: Path
) -> None:
    app, broker = App("numbers"), f"sqlite:///{tmp_path}/lake.db"
    topic = app.topic("bodies", bytes)
    lake = app.stream("lake", bytes, topic, sink="memory://lake", durability=durability, delimiter=b"--")
    async with app.running(broker=broker, sinks={"lake": MemorySink()}):
        await topic.publish(b"one")
        async with app.client(broker=broker):  # what is opened last is talked to: the owner, through its socket
            await lake.put_many([b"four", b"seven"])
        stats = await lake.stats()
    assert (stats.accepted, stats.accepted_bytes) == (3, 12)


async def test_S85_a_backup_counts_what_it_keeps(tmp_path: Path) -> None:
    app = App("numbers", broker=f"sqlite:///{tmp_path}/lake.db")
    originals = app.stream("originals", bytes, sink="memory://originals")
    lake = lake_of(app, backup=originals)
    async with app.running(sinks={"lake": MemorySink(), "originals": MemorySink()}):
        await fill(lake, "put_many")
        assert [(each.accepted, each.accepted_bytes) for each in (await lake.stats(), await originals.stats())] == [
            (3, 12),
            (3, 12),
        ]


async def test_S85_freshness_partitions_deliveries_and_failures_are_numbers() -> None:
    """The age of the oldest undelivered record, open buffers, and what became of attempts."""
    clock, sink = VirtualClock(1_000.0), Sick(2)
    app = App("numbers")
    lake = lake_of(app, partition_by=lambda body: body.decode(), buffer_seconds=60)
    async with app.running(clock=clock, broker="memory://", sinks={"lake": sink}):
        assert await numbers(lake) == (0, 0.0, 0, 0, None)
        await lake.put(b"a")
        await clock.advance(30)
        await lake.put(b"b")
        await clock.advance(10)
        assert await numbers(lake) == (2, 40.0, 0, 0, None)
        await clock.advance(20)
        stats = await lake.stats()
        assert (stats.open_partitions, stats.oldest_age, stats.delivery_failures) == (1, 60.0, 1)
        await clock.advance(10)
        stats = await lake.stats()
        assert (stats.deliveries, stats.delivery_failures, stats.delivered) == (1, 2, 1)
        assert stats.delivered_at is not None
        assert 1_060.0 < stats.delivered_at <= 1_070.0
        assert (stats.oldest_age, stats.delivered_bytes) == (40.0, 1)
        await clock.advance(20)
        assert await numbers(lake) == (0, 0.0, 2, 2, 1_090.0)


async def numbers(lake: Stream[bytes]) -> tuple[int, float, int, int, float | None]:
    stats = await lake.stats()
    return stats.open_partitions, stats.oldest_age, stats.deliveries, stats.delivery_failures, stats.delivered_at


async def test_S85_records_that_meet_the_bound_are_counted(tmp_path: Path) -> None:
    for durability in (None, "memory"):
        clock, app = VirtualClock(0.0), App("numbers")
        lake = lake_of(app, buffer_bytes=4, max_buffered=8, durability=durability)
        broker = f"sqlite:///{tmp_path}/{durability}.db"
        async with app.running(clock=clock, broker=broker, sinks={"lake": Sick(3)}, grace=0):
            await lake.put_many([b"abcd", b"efgh"])
            with pytest.raises(Overloaded):
                lake.put_nowait(b"ijkl")
            assert (await lake.stats()).throttled == 1
            async with Moving(clock):
                await lake.put_many([b"ijkl", b"mnop"])
            assert (await lake.stats()).throttled == 3


class Moving:
    """Time goes on while the block waits."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    async def __aenter__(self) -> None:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._move)

    async def _move(self) -> None:
        while True:
            await self._clock.advance(1)

    async def __aexit__(self, *error: Any) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*error)


async def test_S85_counters_survive_a_restart_and_are_seen_through_the_owners_socket(tmp_path: Path) -> None:
    app, broker = App("numbers"), f"sqlite:///{tmp_path}/lake.db"
    lake = lake_of(app)
    async with app.running(broker=broker, sinks={"lake": Sick(1)}):
        await fill(lake, "put_many")
        await lake.flush()
        async with app.client(broker=broker):
            seen = await lake.stats()
    async with app.running(broker=broker, handlers=False):
        kept = await lake.stats()
    assert kept == seen
    assert (kept.accepted_bytes, kept.deliveries, kept.delivery_failures) == (12, 1, 1)
    assert kept.delivered_at is not None


def test_S85_counters_that_an_older_version_wrote_still_read() -> None:
    older = {"accepted": 7, "placed": 7, "dropped": 1, "failed": 0, "delivered": 6, "objects": 2, "object_bytes": 99,
             "quarantined": 0, "suspected_upto": 0, "deaths": 0}  # fmt: skip
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=RecordCounters)
    assert (read.accepted, read.delivered, read.accepted_bytes, read.delivered_at) == (7, 6, 0, 0.0)
    assert set(StreamStats.__struct_fields__) >= {"accepted_bytes", "delivered_bytes", "throttled", "delivered_at"}


# Why and when


async def by_size(lake: Stream[bytes], clock: VirtualClock) -> None:
    await lake.put(b"x" * 100)


async def by_time(lake: Stream[bytes], clock: VirtualClock) -> None:
    await lake.put(b"x")
    await clock.advance(60)


async def by_demand(lake: Stream[bytes], clock: VirtualClock) -> None:
    await lake.put(b"x")
    await lake.flush()


async def by_pressure(lake: Stream[bytes], clock: VirtualClock) -> None:
    await lake.put(b"x")
    await lake.put(b"y")


async def by_drain(lake: Stream[bytes], clock: VirtualClock) -> None:
    await lake.put(b"x")


@pytest.mark.parametrize("durability", [None, "memory"])
@pytest.mark.parametrize("fill", [by_size, by_time, by_demand, by_pressure, by_drain])
async def test_S33_each_delivery_says_why_it_was_made(
    fill: Callable[[Stream[bytes], VirtualClock], Any], durability: Any
) -> None:
    clock, app, events = VirtualClock(0.0), App("numbers"), list[Event]()
    app.observe(events.append)
    lake = lake_of(
        app, durability=durability, buffer_bytes=100, max_partitions=1, partition_by=lambda body: body[:1].decode()
    )
    async with app.running(clock=clock, broker="memory://", sinks={"lake": MemorySink()}):
        await fill(lake, clock)
        await clock.settle()
    first, *rest = [event for event in events if isinstance(event, Delivered)]
    assert first.reason == fill.__name__.removeprefix("by_")
    assert [event.reason for event in rest] == (["drain"] if fill is by_pressure else [])


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_S37_an_interval_of_zero_delivers_at_once_and_what_comes_together_together(durability: Any) -> None:
    app = App("numbers")
    lake = lake_of(app, buffer_seconds=0, durability=durability, delimiter=b"\n")
    async with harness(app) as h:
        await lake.put_many([b"a", b"b"])
        await h.settle()
        assert list(h.objects(lake).values()) == [b"a\nb\n"]
        await lake.put(b"c")
        await h.settle()
        assert sorted(h.objects(lake).values()) == [b"a\nb\n", b"c\n"]


async def test_S36_changed_hints_concern_buffers_that_open_after_the_change(tmp_path: Path) -> None:
    """From the declaration to the objects: what waits under the old hints keeps them."""
    clock, sink, broker = VirtualClock(0.0), MemorySink(), f"sqlite:///{tmp_path}/lake.db"

    def declared(seconds: float, size: int) -> tuple[App, Stream[bytes]]:
        app = App("numbers")
        return app, lake_of(
            app, buffer_seconds=seconds, buffer_bytes=size, delimiter=b"\n", partition_by=lambda body: body[:1].decode()
        )

    app, lake = declared(600, 1_000)
    async with app.running(clock=clock, broker=broker, handlers=False):
        await lake.put(b"old 1")
        changed, later = declared(60, 12)
        async with changed.running(clock=clock, store=lake.binding.runtime.store, sinks={"lake": sink}, grace=0):
            await later.put_many([b"old 2", b"old 3", b"new 1"])
            await clock.advance(60)
            assert sorted(sink.objects.values()) == [b"new 1\n"]
            await later.put_many([b"new 2", b"new 3"])
            await clock.advance(0)
            assert sorted(sink.objects.values()) == [b"new 1\n", b"new 2\nnew 3\n"], "12 bytes are full now"
            await clock.advance(539)
            assert len(sink.objects) == 2
            await clock.advance(1)
            assert sorted(sink.objects.values())[-1] == b"old 1\nold 2\nold 3\n"
