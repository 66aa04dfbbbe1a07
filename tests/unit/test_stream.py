"""Streams as programs use them: what goes in comes out of the sink, once, in its partition, and in time."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.engine.runtime import Runtime
from pipeflow.errors import (
    CodecError,
    ConfigurationError,
    MissingExtra,
    Overloaded,
    RefusedError,
    SinkUnavailable,
    WiringError,
)
from pipeflow.protocols import Object, StreamStats
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import Format


class Order(msgspec.Struct, frozen=True):
    id: str
    customer: str
    total: int = 1


def order(n: int, customer: str = "ada") -> Order:
    return Order(str(n), customer, n)


class Down(MemorySink):
    """Takes nothing until it is up."""

    up = False

    async def write(self, obj: Object) -> None:
        if not self.up:
            raise SinkUnavailable("down")
        await super().write(obj)


@asynccontextmanager
async def opened(app: App, sink: MemorySink, broker: str = "memory://") -> AsyncIterator[Runtime]:
    async with app.running(clock=VirtualClock(), sinks={"lake": sink}, broker=broker, seed=7) as runtime:
        yield runtime


async def stats(runtime: Runtime) -> StreamStats:
    (found,) = (await runtime.store.stats()).streams
    return found


def lines(sink: MemorySink) -> list[str]:
    return [json.loads(line)["id"] for content in sink.objects.values() for line in content.splitlines()]


STORES = ["memory://", "sqlite"]


def url(store: str, folder: Path) -> str:
    return f"sqlite:///{folder}/shop.db" if store == "sqlite" else store


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("durability", [None, "memory"])
async def test_put_put_many_and_put_nowait_keep_their_order(store: str, durability: str | None, tmp_path: Path) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", compression="none", durability=durability)  # type: ignore[arg-type]
    async with opened(app, sink, url(store, tmp_path)) as runtime:
        await lake.put(order(1))
        await lake.put_many([order(2), order(3)])
        await lake.put_many([])
        lake.put_nowait(order(4))
        await lake.synced()
        assert (await stats(runtime)).accepted == 4
        await lake.flush()
        assert lines(sink) == ["1", "2", "3", "4"]


async def test_S86_leaving_the_app_delivers_what_is_buffered(tmp_path: Path) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", compression="none")
    async with opened(app, sink, url("sqlite", tmp_path)):
        await lake.put(order(1))
        assert sink.objects == {}
    assert lines(sink) == ["1"]


async def test_records_that_a_dead_sink_did_not_take_are_delivered_by_the_next_start(tmp_path: Path) -> None:
    app, sink = App("shop"), Down()
    lake = app.stream("lake", Order, sink="memory://", compression="none")
    async with opened(app, sink, url("sqlite", tmp_path)):
        await lake.put(order(1))
    assert sink.objects == {}
    sink.up = True
    async with opened(app, sink, url("sqlite", tmp_path)) as runtime:
        await lake.flush()
        assert (await stats(runtime)).delivered == 1
    assert lines(sink) == ["1"]


async def test_a_topic_feeds_a_stream_and_every_partition_has_its_folder() -> None:
    app, sink = App("shop"), MemorySink()
    orders = app.topic("orders", Order)
    lake = app.stream(
        "lake", Order, orders, sink="memory://", compression="none", partition_by=lambda order: order.customer
    )
    async with opened(app, sink):
        await orders.publish(order(1, "ada"))
        await orders.publish(order(2, "bo/b"))
        await lake.put(order(3, "ada"))
        await lake.flush()
    folders: dict[str, set[str]] = {}
    for name, content in sink.objects.items():
        folders.setdefault(name.rpartition("/")[0], set()).update(
            json.loads(line)["id"] for line in content.splitlines()
        )
    assert folders == {"ada": {"1", "3"}, "bo%2Fb": {"2"}}


@pytest.mark.parametrize(
    ("key", "folder"), [("a b", "a%20b"), (["x", "y"], "x/y"), ({"day": "1/2", "to": "JFK"}, "day=1%2F2/to=JFK")]
)
async def test_partition_by_may_answer_text_texts_or_a_dict(key: object, folder: str) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", partition_by=lambda order: key)  # type: ignore[arg-type, return-value]
    async with opened(app, sink):
        await lake.put(order(1))
        await lake.flush()
    (name,) = sink.objects
    assert name.rpartition("/")[0] == folder


async def test_a_record_without_a_partition_is_refused_to_its_producer_and_its_neighbours_are_not() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream(
        "lake", Order, sink="memory://", compression="none", max_record=60, partition_by=lambda order: order.customer
    )
    async with opened(app, sink):
        with pytest.raises(RefusedError, match="max_record=60"):
            await lake.put_many([order(1, "x" * 50), order(2, "b")])
        with pytest.raises(RefusedError, match="too long"):
            await lake.put(order(3, "é" * 300))
        await lake.flush()
    assert lines(sink) == ["2"]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("transformed", [False, True])
async def test_an_empty_batch_is_accepted_and_is_nothing(store: str, transformed: bool, tmp_path: Path) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", compression="none")
    if transformed:
        lake.transform(lambda order: order)
    async with opened(app, sink, url(store, tmp_path)) as runtime:
        await lake.put_many([])
        await lake.put_many(order(n) for n in (1, 2))
        await lake.flush()
        counted = await stats(runtime)
        assert (counted.accepted, counted.delivered, counted.dropped) == (2, 2, 0)
    assert lines(sink) == ["1", "2"]


async def test_S28_a_transform_keeps_drops_or_fails_single_records() -> None:
    app, sink = App("shop"), MemorySink()
    orders = app.topic("orders", Order)
    lake = app.stream("lake", Order, orders, sink="memory://", compression="none")

    @lake.transform
    async def clean(order: Order) -> Order | None:
        if order.total == 3:
            raise ValueError("three is refused")
        return None if order.total == 2 else Order(order.id, "anonymous", order.total)

    async with opened(app, sink) as runtime:
        for n in range(1, 5):
            await orders.publish(order(n))
        await orders.publish(order(5))
        await lake.flush()
        counted = await stats(runtime)
        assert (counted.accepted, counted.delivered, counted.dropped, counted.failed) == (5, 3, 1, 1)
    good = [content for name, content in sink.objects.items() if not name.startswith("errors/")]
    assert [json.loads(line)["customer"] for content in good for line in content.splitlines()] == ["anonymous"] * 3
    (failed,) = [content for name, content in sink.objects.items() if name.startswith("errors/")]
    assert json.loads(failed)["errorMessage"] == "three is refused"
    assert await clean(order(1)) == Order("1", "anonymous", 1)


async def test_a_transform_may_be_a_plain_function_and_partitions_what_it_made() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", compression="none", partition_by=lambda order: order.customer)

    @lake.transform
    def rename(order: Order) -> Order | None:
        return Order(order.id, "new")

    async with opened(app, sink):
        await lake.put(order(1, "old"))
        await lake.flush()
    (name,) = sink.objects
    assert name.startswith("new/")


async def test_a_record_that_does_not_decode_goes_to_the_error_output() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://", compression="none")

    @lake.transform
    def same(order: Order) -> Order | None:
        return order

    async with opened(app, sink) as runtime:
        from pipeflow.messages import Outgoing

        await runtime.store.append("lake", [Outgoing(b"{no json")])
        await lake.flush()
    (content,) = sink.objects.values()
    assert json.loads(content)["errorCode"] == "Transform.CodecError"


def test_a_transform_has_one_parameter_and_a_stream_one_transform() -> None:
    app = App("shop")
    lake = app.stream("lake", Order, sink="memory://")
    with pytest.raises(WiringError, match="takes 2 parameters; write"):
        lake.transform(lambda order, other: order)  # type: ignore[misc, arg-type]
    lake.transform(lambda order: order)
    with pytest.raises(WiringError, match="has a transform"):
        lake.transform(lambda order: order)


async def test_bytes_are_verbatim_and_anything_else_is_refused_before_it_is_buffered() -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, sink="memory://", compression="none", durability="memory", format="jsonl")
    async with opened(app, sink):
        await lake.put_many([b"a", b"b"])
        await lake.put(b"c")
        lake.put_nowait(b"d")
        for wrong in ("text", 7, None):
            with pytest.raises(CodecError):
                await lake.put(wrong)  # type: ignore[arg-type]
            with pytest.raises(CodecError):
                lake.put_nowait(wrong)  # type: ignore[arg-type]
            with pytest.raises(CodecError):
                await lake.put_many([b"e", wrong, b"f"])  # type: ignore[list-item]
        await lake.flush()
    assert list(sink.objects.values()) == [b"a\nb\nc\nd\n"]


@pytest.mark.parametrize("size", [1, 100, 3_000, 300_000])
async def test_the_fast_way_cuts_where_the_size_is_reached_and_loses_nothing(size: int) -> None:
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, sink="memory://", compression="none", durability="memory", buffer_bytes=500_000)
    records = [b"%07d" % n + b"x" * (size - 7 if size > 7 else 0) for n in range(3_000_000 // max(size, 300))]
    async with opened(app, sink) as runtime:
        third = len(records) // 3
        for record in records[:third]:
            await lake.put(record)
        await lake.put_many(records[third : 2 * third])
        for record in records[2 * third :]:
            lake.put_nowait(record)
        await lake.flush()
        assert (await stats(runtime)).delivered == len(records)
    assert b"".join(sink.objects.values()) == b"".join(records)
    *full, _ = [len(content) for content in sink.objects.values()] or [0]
    assert all(500_000 <= each < 500_000 + len(records[0]) for each in full)


@pytest.mark.parametrize("durability", [None, "memory"])
async def test_at_the_bound_put_nowait_raises_and_put_waits_until_there_is_room(
    durability: str | None, tmp_path: Path
) -> None:
    import asyncio

    app, sink = App("shop"), Down()
    lake = app.stream(
        "lake",
        bytes,
        sink="memory://",
        compression="none",
        buffer_bytes=10,
        max_buffered=20,
        durability=durability,  # type: ignore[arg-type]
    )
    async with opened(app, sink, url("sqlite", tmp_path)) as runtime:
        await lake.put_many([b"x" * 10, b"y" * 10])
        with pytest.raises(Overloaded, match="max_buffered"):
            lake.put_nowait(b"z")
        waiting = asyncio.ensure_future(lake.put(b"z"))
        clock = runtime.clock
        assert isinstance(clock, VirtualClock)
        await clock.advance(1)
        assert not waiting.done()
        sink.up = True
        await clock.advance(120)
        await waiting
        await lake.flush()
    assert b"".join(sink.objects.values()) == b"x" * 10 + b"y" * 10 + b"z"


async def test_an_app_that_is_not_open_says_so() -> None:
    app = App("shop")
    lake = app.stream("lake", Order, sink="memory://")
    with pytest.raises(ConfigurationError, match="stream lake: its app is not open"):
        await lake.put(order(1))
    with pytest.raises(ConfigurationError, match="stream lake: its app is not open"):
        lake.put_nowait(order(1))


async def test_a_compression_that_is_not_installed_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pipeflow.formats.compress import compressor

    compressor.cache_clear()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    app = App("shop")
    app.stream("lake", Order, sink="memory://", compression="zstd")
    with pytest.raises(MissingExtra, match=r"pip install 'pipeflow\[fast\]'"):
        async with opened(app, MemorySink()):
            pass


# csv and Parquet


async def test_a_csv_stream_has_the_columns_of_its_payload_type() -> None:
    app, sink = App("shop", broker="memory://"), MemorySink()
    lake = app.stream("lake", Order, sink="memory://lake", format="csv", compression="none")
    async with opened(app, sink):
        await lake.put_many([order(1), order(2, 'ada "the" first')])
        await lake.flush()
        ((name, content),) = sink.objects.items()
    assert name.endswith(".csv")
    assert content == b'id,customer,total\r\n1,ada,1\r\n2,"ada ""the"" first",2\r\n'


@pytest.mark.parametrize("format", ["parquet", "orc"])
@pytest.mark.parametrize("broker", ["memory://", "sqlite"])
async def test_S47_a_columnar_stream_writes_such_files_beneath_its_partitions(
    broker: str, format: Format, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="reads columnar files back with pyarrow: pip install 'pipeflow[parquet]'")
    import pyarrow as pa
    import pyarrow.orc
    import pyarrow.parquet

    app, sink = App("shop", broker="memory://"), MemorySink()
    orders = app.topic("orders", Order)
    lake = app.stream(
        "lake", Order, orders, sink="memory://lake", format=format, partition_by=lambda order: order.customer
    )
    store = broker if broker == "memory://" else f"sqlite:///{tmp_path}/shop.db"
    async with opened(app, sink, store):
        await lake.put_many([order(n, "ada" if n % 2 else "bob") for n in range(10)])
        await orders.publish(order(10, "bob"))
        await lake.flush()
    assert {name.partition("/")[0] for name in sink.objects} == {"ada", "bob"}
    assert all(name.endswith(f".{format}") for name in sink.objects)
    read = pyarrow.orc.read_table if format == "orc" else pyarrow.parquet.read_table
    rows = [row for content in sink.objects.values() for row in read(pa.BufferReader(content)).to_pylist()]
    assert sorted(int(row["id"]) for row in rows) == list(range(11))


@pytest.mark.parametrize(
    ("format", "size"), [("jsonl", 5 << 20), ("csv", 5 << 20), ("parquet", 64 << 20), ("orc", 64 << 20)]
)
def test_S35_columnar_streams_gather_64_mib_unless_they_are_told_otherwise(format: Format, size: int) -> None:
    app = App("shop", broker="memory://")
    lake = app.stream("lake", Order, sink="memory://lake", format=format)
    small = app.stream("small", Order, sink="memory://small", format=format, buffer_bytes=1_000)
    assert (lake.spec.buffer_bytes, lake.spec.buffer_seconds, lake.spec.max_buffered) == (size, 60.0, 256 << 20)
    assert small.spec.buffer_bytes == 1_000
    tight = app.stream("tight", Order, sink="memory://tight", format=format, max_buffered=1 << 20)
    assert tight.spec.buffer_bytes == 1 << 20


async def test_S62_bytes_that_are_no_json_go_to_the_errors_of_a_parquet_stream_as_plain_lines() -> None:
    pytest.importorskip("pyarrow", reason="writes Parquet files with pyarrow: pip install 'pipeflow[parquet]'")
    app, sink = App("shop", broker="memory://"), MemorySink()
    lake = app.stream(
        "lake", bytes, sink="memory://lake", format="parquet", schema={"id": "int64 not null"}, durability="memory"
    )
    async with opened(app, sink) as runtime:
        await lake.put_many([b'{"id":1}', b"nope"])
        await lake.flush()
        found = await stats(runtime)
    good, bad = sink.objects
    assert good.endswith(".parquet")
    assert bad.startswith("errors/")
    assert bad.endswith(".jsonl")
    assert json.loads(sink.objects[bad])["lastErrorCode"] == "DataFormatConversion.ParseError"
    assert (found.delivered, found.failed) == (1, 1)


@pytest.mark.parametrize("format", ["parquet", "orc"])
async def test_a_columnar_format_without_its_package_is_refused_when_the_app_opens(
    format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for module in ("arrow", "arrow_json", "arrow_schema", format):
        monkeypatch.delitem(sys.modules, f"pipeflow.formats.{module}", raising=False)
    app = App("shop", broker="memory://")
    app.stream("lake", Order, sink="memory://lake", format=format)
    with pytest.raises(MissingExtra, match=rf"format='{format}' .*pipeflow\[parquet\]"):
        async with opened(app, MemorySink()):
            raise AssertionError("it is refused before")


def test_options_that_do_not_go_together_are_refused_where_they_are_declared() -> None:
    app = App("shop", broker="memory://")
    with pytest.raises(ConfigurationError, match=r"hadoop-snappy.*is for whole objects"):
        app.stream("lake", Order, sink="memory://lake", format="parquet", compression="hadoop-snappy")
    with pytest.raises(ConfigurationError, match="compression_level is 10; gzip has 1 to 9"):
        app.stream("lake", Order, sink="memory://lake", compression_level=10)
    with pytest.raises(ConfigurationError, match="leave delimiter off"):
        app.stream("lake", Order, sink="memory://lake", format="csv", delimiter=b";")
    with pytest.raises(ConfigurationError, match=r"test_stream\.py:[0-9]+.* stream lake: bytes has no fields"):
        app.stream("lake", bytes, sink="memory://lake", format="parquet")
    with pytest.raises(ConfigurationError, match="a name of its own"):
        app.stream("lake", bytes, sink="memory://lake", format="csv", columns=["id", "id"])
    with pytest.raises(ConfigurationError, match="quotes, backslashes"):
        app.stream("lake", bytes, sink="memory://lake", format="csv", columns=['a"b'])
    with pytest.raises(ConfigurationError, match="at least one column"):
        app.stream("lake", bytes, sink="memory://lake", format="parquet", schema={})
    packed = app.topic("packed", Order, codec="msgpack")
    with pytest.raises(ConfigurationError, match="not msgpack"):
        app.stream("lake", Order, packed, sink="memory://lake", format="csv")
    lines = app.topic("lines", str, codec="raw")
    with pytest.raises(ConfigurationError, match="not raw"):
        app.stream("lake", str, lines, sink="memory://lake", format="csv", columns=["id"])
    assert app.stream("lake", Order, sink="memory://lake", format="parquet").spec.compression == "zstd"


async def test_S46_records_that_fit_no_column_have_an_error_type_of_their_own_in_prefixes() -> None:
    app, sink = App("shop", broker="memory://"), MemorySink()
    lake = app.stream(
        "lake",
        bytes,
        sink="memory://lake",
        format="csv",
        columns=["id"],
        prefix="good/",
        error_prefix="bad/!{firehose:error-output-type}/",
    )
    async with opened(app, sink):
        await lake.put(b"nope")
        await lake.flush()
    (name,) = sink.objects
    assert name.startswith("bad/format-conversion-failed/lake-")


async def test_S5_a_stream_has_one_sink_and_another_one_takes_its_place(tmp_path: Path) -> None:
    """What was accepted before the change is delivered too, to the new sink and there alone."""

    def program(folder: str) -> App:
        app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
        app.stream("lake", bytes, sink=f"file://{tmp_path}/{folder}", format="jsonl", compression="none")
        return app

    async with program("first").client() as app:
        await app.streams[0].put(b"1")
    async with program("second") as app:
        await app.streams[0].put(b"2")
        await app.streams[0].flush()
    assert not (tmp_path / "first").exists()
    (only,) = (tmp_path / "second").iterdir()
    assert only.read_bytes() == b"1\n2\n"


async def test_S15_nothing_is_throttled_but_at_the_bound_of_the_stream() -> None:
    """Ten thousand records and twelve mebibytes in one call: more than AWS takes in a batch, a second, or both."""
    app, sink = App("shop"), MemorySink()
    lake = app.stream("lake", bytes, sink="memory://", format="jsonl", compression="none", max_buffered=64 << 20)
    async with opened(app, sink) as runtime:
        await lake.put_many([b"%1200d" % n for n in range(10_000)])
        assert (await stats(runtime)).accepted == 10_000
        await lake.flush()
    assert sum(content.count(b"\n") for content in sink.objects.values()) == 10_000
