"""The page about streams: its examples run, and do what the page says."""

from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.errors import SinkUnavailable
from pipeflow.protocols import Object, StreamStats
from pipeflow.queries.functions import FUNCTIONS
from pipeflow.sinks.manifest import FOLDER, live
from pipeflow.sinks.memory import MemorySink
from pipeflow.sinks.timestamps import fields

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "streams.md").read_text()


def program_of(heading: str) -> dict[str, Any]:
    """What the example below this heading makes when it is run."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    program: dict[str, Any] = {"__name__": "streams_page"}
    # Its annotations are types, as in a file of its own, and not the texts that they are in this one.
    exec(compile(block, "docs/streams.md", "exec", dont_inherit=True), program)  # noqa: S102  # the page's own program
    return program


async def test_the_first_steps_bring_each_record_into_a_file_of_its_partition(tmp_path: Path) -> None:
    program, sink = program_of("First steps"), MemorySink()
    broker = f"sqlite:///{tmp_path}/shop.db"
    async with program["app"].running(clock=VirtualClock(0.0), broker=broker, sinks={"lake": sink}):
        await program["fill"]()
        await program["lake"].put(program["Order"]("test-1", "de", 1))
        await program["lake"].flush()
        stats = await program["lake"].stats()
    records = [gzip.decompress(content).count(b"\n") for content in sink.objects.values()]
    assert {name.partition("/")[0] for name in sink.objects} == {"de", "fr"}
    assert sum(records) == 999
    assert (stats.accepted, stats.delivered, stats.dropped) == (1_000, 999, 1)


def test_every_heading_of_the_page_is_in_its_table_of_contents() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert set(anchors) == set(re.findall(r"\]\(#([a-z0-9-]+)\)", PAGE.partition("\n## ")[0]))


async def test_the_example_delivers_under_the_name_that_the_page_shows(tmp_path: Path) -> None:
    program = program_of("Firehose's prefixes")
    (shown,) = re.findall(r"^    (year=2013/.*)$", PAGE, re.MULTILINE)
    clock, sink = VirtualClock(1_356_996_600.0), MemorySink()  # 2012-12-31 23:30 UTC
    async with program["app"].running(clock=clock, broker=f"sqlite:///{tmp_path}/s.db", sinks={"lake": sink}):
        await program["lake"].put(program["Flight"]("1", "UA"))
        await program["lake"].flush()
    (name,) = sink.objects
    mark = r"-[0-9a-f]{12}\."  # of the store, and random
    assert re.sub(mark, "", name) == re.sub(mark, "", shown)


async def test_the_example_of_csv_and_parquet_writes_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="one of its streams is Parquet: pip install 'pipeflow[parquet]'")
    program = program_of("csv, Parquet and ORC")
    sinks = {name: MemorySink() for name in ("lake", "hive", "sheet", "raw")}
    async with program["app"].running(clock=VirtualClock(0.0), broker="memory://", sinks=sinks):
        for name in ("lake", "hive", "sheet"):
            await program[name].put(program["Reading"]("a", datetime(2013, 1, 1, tzinfo=UTC), 1.5))
        await program["raw"].put_many([b'{"id":1,"rest":[1]}', b"nope"])
        for name in sinks:
            await program[name].flush()
    assert [gzip.decompress(content) for content in sinks["sheet"].objects.values()] == [b"sensor,value\r\na,1.5\r\n"]
    assert [name.rpartition(".")[2] for name in sinks["lake"].objects] == ["parquet"]
    assert [name.rpartition(".")[2] for name in sinks["hive"].objects] == ["orc"]
    assert [name.startswith("errors/") for name in sinks["raw"].objects] == [False, True]


async def test_S31_the_example_keeps_the_originals_of_what_its_transform_drops() -> None:
    program = program_of("Keeping the originals")
    sinks = {name: MemorySink() for name in ("originals", "lake")}
    async with program["app"].running(clock=VirtualClock(0.0), broker="memory://", sinks=sinks):
        await program["lake"].put_many([program["Flight"]("1", 90), program["Flight"]("2")])
        for name in sinks:
            await program[name].flush()
    lines = {name: [gzip.decompress(each).decode() for each in sink.objects.values()] for name, sink in sinks.items()}
    assert lines["originals"] == ['{"number":"1","delay":90}\n{"number":"2","delay":null}\n']
    assert lines["lake"] == ['{"number":"1","delay":90}\n']


async def test_the_example_names_the_files_that_hold_a_record(tmp_path: Path) -> None:
    program = program_of("Which files hold what")
    sinks = {"lake": MemorySink()}
    async with program["app"].running(clock=VirtualClock(0.0), broker=f"sqlite:///{tmp_path}/s.db", sinks=sinks):
        for records in ([b"1", b"2"], [b"3"]):
            await program["lake"].put_many(records)
            await program["lake"].flush()
        assert await program["holding"](3) == [list(sinks["lake"].objects)[1]]


async def test_the_example_of_small_files_leaves_one(tmp_path: Path) -> None:
    program = program_of("Small files: compaction")
    sinks = {"lake": MemorySink()}
    async with program["app"].running(clock=VirtualClock(0.0), broker=f"sqlite:///{tmp_path}/s.db", sinks=sinks):
        for n in range(3):
            await program["lake"].put(b"%d" % n)
            await program["lake"].flush()
        assert await program["tidy"]() == 3
        assert await program["tidy"]() == 0
    told = live(content for name, content in sinks["lake"].objects.items() if name.startswith(FOLDER))
    assert [gzip.decompress(sinks["lake"].objects[name]) for name in told] == [b"0\n1\n2\n"]
    assert len(sinks["lake"].objects) == 2


async def test_the_example_of_compression_writes_what_others_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="one of its streams is zstd: pip install 'pipeflow[fast]'")
    pytest.importorskip("cramjam", reason="one of its streams is snappy: pip install 'pipeflow[snappy]'")
    program = program_of("Compression")
    sinks = {name: MemorySink() for name in ("small", "spark")}
    async with program["app"].running(clock=VirtualClock(0.0), broker="memory://", sinks=sinks):
        for name in sinks:
            await program[name].put(b"{}")
            await program[name].flush()
    ((_, small),) = sinks["small"].objects.items()
    ((name, spark),) = sinks["spark"].objects.items()
    assert zstandard.ZstdDecompressor().decompress(small) == b"{}\n"
    assert name.endswith(".jsonl.hsnappy")
    assert spark[:4] == b"\0\0\0\3"  # bytes in the only block


async def test_the_example_of_a_replay_gives_a_new_queue_every_record(tmp_path: Path) -> None:
    program = program_of("Replaying what was delivered")
    broker = f"sqlite:///{tmp_path}/s.db"
    async with program["app"].running(broker=broker, sinks={"lake": MemorySink()}) as runtime:
        for n in range(3):
            await program["flights"].publish(program["Flight"](str(n)))
        await program["lake"].flush()
        assert await program["look_again"]() == 3
        assert await program["look_again"]() == 0
        (peeked, *_) = await runtime.store.peek("late")
        assert (peeked.body, peeked.attributes) == (b'{"number":"0","delay":null}', {"replayed": "lake"})


def test_every_letter_that_the_page_teaches_is_one() -> None:
    (paragraph,) = re.findall(r"\*\*Patterns\*\*(.*?)\n\n", PAGE, re.DOTALL)
    patterns = [text for text in re.findall(r"`([^`]+)`", paragraph) if not any(map(str.isdigit, text))]
    assert len(patterns) > 10
    assert all(fields(pattern) for pattern in patterns)


async def test_the_example_of_processing_unpacks_splits_checks_and_calls_a_handler() -> None:
    program = program_of("Processing")
    reading = program["Reading"]
    sinks = {name: MemorySink() for name in ("logs", "events", "readings", "orders")}
    document = b'{"messageType":"DATA_MESSAGE","logEvents":[{"message":"one"},{"message":"two"}]}'
    async with program["app"].running(clock=VirtualClock(0.0), broker="memory://", sinks=sinks):
        await program["logs"].put(gzip.compress(document))
        await program["events"].put(b'{"id":1,"tags":["a","b"]} {"id":2,"tags":["c"]}')
        await program["readings"].put_many([reading("in", 20.5), reading("off", None), reading("sun", 5_500)])
        await program["orders"].put(b"one")
        for name in sinks:
            await program[name].flush()
    found = {name: sorted(sink.objects.items()) for name, sink in sinks.items()}
    assert [content for _, content in found["logs"]] == [b"one\ntwo\n"]
    assert [content.count(b"\n") for _, content in found["events"]] == [3]
    (_, error), (_, good) = found["readings"]
    assert b"too hot to be true" in error
    assert good == b'{"sensor":"in","celsius":20.5}\n'
    assert [content for _, content in found["orders"]] == [b"one\n"]


class Down(MemorySink):
    """Takes nothing but error records."""

    async def write(self, obj: Object) -> None:
        if not obj.name.startswith("errors/"):
            raise SinkUnavailable("down")
        await super().write(obj)


async def test_S59_the_example_of_a_sink_that_is_down_moves_its_records_to_failures() -> None:
    program = program_of("When a sink is down")
    clock, sink = VirtualClock(0.0), Down()
    async with program["app"].running(clock=clock, broker="memory://", sinks={"orders": sink}):
        await program["orders"].put(b"o-1")
        await clock.advance(60 + 300 + 60)
        await program["orders"].flush()
        assert [name.split("/")[:2] for name in sink.objects] == [["errors", "delivery-failed"]]


async def test_S75_the_example_of_an_endpoint_declares_what_the_page_says() -> None:
    program = program_of("HTTP endpoints")
    spec = program["orders"].spec
    assert (spec.retry_limit, spec.compression, spec.over_http) == (300.0, "none", True)
    assert spec.endpoint.access_key == "env:COLLECTOR_KEY"


async def test_S51_the_examples_of_expressions_make_the_folders_that_the_page_names() -> None:
    program = program_of("Partition keys from expressions")
    (record,) = re.findall(r"^A record `(.*)` lies below", PAGE, re.MULTILINE)
    sinks = {name: MemorySink() for name in ("by-day", "by-airport", "by-month")}
    async with program["app"].running(clock=VirtualClock(0.0), broker="memory://", sinks=sinks):
        for stream in (program["by_day"], program["by_airport"], program["by_month"]):
            await stream.put(record.encode())
            await stream.flush()
    folders = [name.rpartition("/")[0] for sink in sinks.values() for name in sink.objects]
    assert folders == ["UA/2013-01-01", "EWR", "carrier=UA/month=2013-01"]


def test_S51_every_function_that_the_page_lists_is_built_in_and_none_is_missing() -> None:
    (section,) = re.findall(r"^## Partition keys from expressions\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    rows = [line for line in section.splitlines() if line.startswith(("| texts", "| times", "| others"))]
    listed = {word for row in rows for word in re.findall(r"`([a-z0-9_]+)`", row)}
    assert listed == {name for name, _ in FUNCTIONS}


async def test_S85_the_example_of_numbers_tells_of_each_delivery(capsys: pytest.CaptureFixture[str]) -> None:
    program = program_of("Numbers")
    clock = VirtualClock(0.0)
    async with program["app"].running(clock=clock, broker="memory://", sinks={"lake": MemorySink()}):
        await program["lake"].put(b"one")
        assert not await program["late"]()
        await clock.advance(60)
    assert capsys.readouterr().out == "lake  1 records, because of time\n"


def test_S85_every_count_of_a_stream_is_on_the_page() -> None:
    (section,) = re.findall(r"^## Numbers\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    elsewhere = {"name", "backup", "parked", "parked_segments", "expired", "discarded", "buffered", "buffered_bytes"}
    assert set(re.findall(r"`([a-z_]+)`", section)) >= set(StreamStats.__struct_fields__) - elsewhere
