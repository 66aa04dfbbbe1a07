"""Streams whose partition_by is written as expressions, from the declaration to the objects."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeflow import App
from pipeflow.clock import VirtualClock
from pipeflow.errors import ConfigurationError, MissingExtra, RefusedError, SpecConflict
from pipeflow.partitioning import PartitionBy
from pipeflow.queries import MAX_KEYS
from pipeflow.sinks.memory import MemorySink
from pipeflow.stream import Stream
from pipeflow.testing import harness

PREFIX = "!{partitionKeyFromQuery:carrier}/!{timestamp:yyyy}/!{partitionKeyFromQuery:month}/"
ERROR_PREFIX = "errors/!{firehose:error-output-type}/"
KEYS = "{carrier: .carrier, month: .date[0:7]}"


class Flight(msgspec.Struct, frozen=True):
    carrier: str | None
    date: str = "2013-01-01"


def declared(app: App, partition_by: PartitionBy[Flight], prefix: str | None = None, **options: Any) -> Stream[Flight]:
    errors = None if prefix is None else ERROR_PREFIX
    return app.stream(
        "lake", Flight, sink="memory://lake", partition_by=partition_by, prefix=prefix, error_prefix=errors, **options
    )


def folders(names: list[str]) -> list[str]:
    return sorted(name.rpartition("/")[0] for name in names)


async def test_S50_S51_an_object_construction_gives_the_keys_of_the_prefix() -> None:
    app = App("expressions")
    lake = declared(app, KEYS, PREFIX)
    async with harness(app) as h:
        await lake.put_many([Flight("UA"), Flight("AA"), Flight("UA", "2013-02-03"), Flight("UA")])
        await h.advance(60)
        assert folders(list(h.objects(lake))) == ["AA/1970/2013-01", "UA/1970/2013-01", "UA/1970/2013-02"]


@pytest.mark.parametrize("durability", [None, "memory"])
@pytest.mark.parametrize(
    ("partition_by", "folder"),
    [
        (".carrier", "UA"),
        ("{carrier, month: .date[0:7]}", "carrier=UA/month=2013-01"),
        ({"month": ".date[0:7]", "c": ".carrier"}, "month=2013-01/c=UA"),
        ('.carrier + "-" + .date[0:4]', "UA-2013"),
    ],
)
async def test_S51_without_a_prefix_a_path_is_one_folder_and_keys_are_folders_in_their_order(
    partition_by: Any, folder: str, durability: Any
) -> None:
    app = App("expressions")
    lake = declared(app, partition_by, durability=durability)
    async with harness(app) as h:
        await lake.put(Flight("UA"))
        lake.put_nowait(Flight("UA"))
        await h.advance(60)
        assert folders(list(h.objects(lake))) == [folder]


async def test_S55_only_the_keys_tell_partitions_apart_and_the_time_is_that_of_the_object() -> None:
    """S38: each distinct evaluated prefix has a buffer of its own, and its own interval."""
    app = App("expressions")
    lake = declared(app, {"carrier": ".carrier"}, "!{timestamp:ss}/!{partitionKeyFromQuery:carrier}/")
    async with harness(app) as h:
        for _ in range(3):
            await lake.put(Flight("UA"))
            await h.advance(10)
        await lake.put(Flight("AA"))
        await h.advance(60)
        assert folders(list(h.objects(lake))) == ["00/UA", "30/AA"]


async def test_S57_values_are_percent_encoded_so_that_data_makes_no_folder() -> None:
    app = App("expressions")
    lake = declared(app, ".carrier")
    async with harness(app) as h:
        await lake.put_many([Flight("../../etc"), Flight("a/b"), Flight("tab\there"), Flight("!errors")])
        await h.advance(60)
        assert folders(list(h.objects(lake))) == ["%21errors", "%2E.%2F..%2Fetc", "a%2Fb", "tab%09here"]


@pytest.mark.parametrize("carrier", [None, "", "x" * 300])
async def test_S52_S57_a_record_without_a_key_is_refused_to_whoever_puts_it(carrier: str | None) -> None:
    app = App("expressions")
    lake = declared(app, ".carrier")
    async with harness(app) as h:
        with pytest.raises(RefusedError, match=r"^stream lake: "):
            await lake.put_many([Flight(carrier), Flight("UA")])
        await h.advance(60)
        assert folders(list(h.objects(lake))) == ["UA"], "the others are accepted"


@pytest.mark.parametrize("partition_by", [".carrier", ".carrier | . as $text | $text"], ids=["own", "jq"])
async def test_S58_a_record_without_a_key_that_came_by_a_topic_goes_to_the_error_output(partition_by: str) -> None:
    """S51, S52, S60, S63: as it came, with the code, beside the good ones."""
    app = App("expressions")
    flights = app.topic("flights", Flight)
    lake = app.stream("lake", Flight, flights, sink="memory://lake", partition_by=partition_by, compression="none")
    async with harness(app) as h:
        await flights.publish_many([Flight("UA"), Flight(None), Flight("AA")])
        await lake.flush()
        objects = h.objects(lake)
        (failed,) = [json.loads(body) for name, body in objects.items() if name.startswith("errors/")]
    assert folders(list(objects)) == ["AA", "UA", "errors"]
    assert failed["errorCode"] == "DynamicPartitioning.MetadataExtractionFailed"
    assert failed["errorMessage"].endswith("answers with null; a partition key is a text, a number or a boolean")
    assert json.loads(b64decode(failed["rawData"])) == {"carrier": None, "date": "2013-01-01"}
    assert failed["attemptsMade"] == 1


@pytest.mark.parametrize("partition_by", ["{carrier}", "{carrier: [.carrier] | map(.) | .[0]}"], ids=["own", "jq"])
async def test_S58_keys_are_those_of_what_a_transform_made_and_a_failed_record_is_kept_as_it_came(
    partition_by: str,
) -> None:
    app = App("expressions")
    lake = declared(app, partition_by, "!{partitionKeyFromQuery:carrier}/", compression="none")

    @lake.transform
    def known(flight: Flight) -> Flight | None:
        return None if flight.carrier == "drop" else Flight({"UA": "United", "no": None}.get(flight.carrier or ""))

    async with harness(app) as h:
        await lake.put_many([Flight("UA"), Flight("drop"), Flight("no")])
        await lake.flush()
        objects = h.objects(lake)
        assert folders(list(objects)) == ["United", "errors/processing-failed"]
        (failed,) = [json.loads(body) for name, body in objects.items() if name.startswith("errors/")]
        stats = await lake.stats()
    assert json.loads(b64decode(failed["rawData"]))["carrier"] == "no"
    assert (stats.failed, stats.dropped, stats.delivered) == (1, 1, 1)


async def test_S51_raw_records_are_json_documents_too() -> None:
    app = App("expressions")
    lake = app.stream("lake", bytes, sink="memory://lake", partition_by=".id")
    async with harness(app) as h:
        with pytest.raises(RefusedError, match="not one JSON document"):
            await lake.put_many([b'{"id": 1}', b'{"id": 2}{"id": 3}', b"4"])
        await h.advance(60)
        assert folders(list(h.objects(lake))) == ["1"]


# Declaring


@pytest.mark.parametrize(
    ("partition_by", "prefix", "wrong"),
    [
        ("{carrier: .carrier}", PREFIX, "uses month, and partition_by gives carrier; give exactly carrier, month"),
        (
            "{carrier: .carrier, month: .m, day: .d}",
            PREFIX,
            "does not use day of partition_by; add !{partitionKeyFromQ",
        ),
        (".carrier", "!{partitionKeyFromQuery:c}/", "gives one without a name; give it as {'c': '.carrier'}"),
        ("{carrier}", "logs/", "uses no key of what partition_by returns; add !{partitionKeyFromQuery:carrier}"),
    ],
)
def test_S54_keys_that_are_not_those_of_the_prefix_are_refused_when_declared(
    partition_by: str, prefix: str, wrong: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        declared(App("expressions"), partition_by, prefix)
    assert wrong in str(refused.value)


def test_S50_keys_in_the_prefix_need_an_error_prefix() -> None:
    with pytest.raises(ConfigurationError, match="a prefix with expressions needs an error_prefix"):
        App("expressions").stream(
            "lake", Flight, sink="memory://", partition_by="{carrier}", prefix="!{partitionKeyFromQuery:carrier}/"
        )


@pytest.mark.parametrize(
    ("partition_by", "wrong"),
    [
        ("", "an empty expression"),
        ({}, "0 partition keys; use 1 to 50"),
        ({f"k{number}": ".a" for number in range(MAX_KEYS + 1)}, "51 partition keys; use 1 to 50"),
        ({"": ".a"}, "a partition key without a name"),
        ({"a": 1}, "is no expression"),
        ("{a: .a, a: .b}", "the partition key a is there twice"),
        ("{a: .a", "column 7: the object has no end"),
        ("{a: .a} + {b: .b}", "column 8: '+ {b: .b}' stands behind the object"),
        ("{(.a): .b}", "column 2: '(.a): .b' does not begin with the name of a key"),
        ("{a: .a,}", "column 8: a name is expected behind the comma"),
        ("{a: , b: 1}", "column 4: the key a has no expression"),
        ("{a: (.b]}", "column 8: ']' closes nothing"),
        (7, "give a function, an expression such as '.carrier', or a dict of them"),
    ],
)
def test_S51_keys_that_are_written_wrong_are_refused_with_stream_place_and_column(
    partition_by: Any, wrong: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        declared(App("expressions"), partition_by)
    assert wrong in str(refused.value)
    assert str(refused.value).startswith("test_stream_expressions.py:")
    assert "stream lake: partition_by" in str(refused.value)


def test_S51_fifty_keys_are_taken() -> None:
    lake = declared(App("expressions"), {f"k{number}": ".a" for number in range(MAX_KEYS)})
    assert len(lake.spec.partition_keys) == MAX_KEYS


def test_S51_what_needs_all_of_jq_names_the_column_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        declared(App("expressions"), ".tags[]")
    assert "stream lake: partition_by '.tags[]': column 6: `[]` answers once for every item" in str(missing.value)
    assert str(missing.value).endswith("pip install 'pipeflow[jq]'")


async def test_S10_keys_may_change_once_the_records_that_wait_under_the_old_ones_are_delivered(tmp_path: Path) -> None:
    broker, clock = f"sqlite:///{tmp_path}/lake.db", VirtualClock(1.0)
    sink = MemorySink()

    def app(partition_by: str, prefix: str) -> tuple[App, Stream[Flight]]:
        made = App("expressions")
        return made, declared(made, partition_by, prefix)

    old, lake = app("{carrier}", "!{partitionKeyFromQuery:carrier}/")
    async with old.running(clock=clock, broker=broker, handlers=False):
        await lake.put(Flight("UA"))
    changed, _ = app("{month: .date[0:7]}", "!{partitionKeyFromQuery:month}/")
    with pytest.raises(SpecConflict, match="records wait in it that its new prefix cannot name"):
        async with changed.running(clock=clock, broker=broker, sinks={"lake": sink}):
            pass
    async with old.running(clock=clock, broker=broker, sinks={"lake": sink}):
        await lake.flush()
    changed, lake = app("{month: .date[0:7]}", "!{partitionKeyFromQuery:month}/")
    async with changed.running(clock=clock, broker=broker, sinks={"lake": sink}) as runtime:
        await lake.put(Flight("UA"))
        await lake.flush()
        (kept,) = (await runtime.store.describe()).streams
    assert folders(list(sink.objects)) == ["2013-01", "UA"]
    assert [(each.key, each.query) for each in kept.partition_keys] == [("month", ".date[0:7]")]


async def test_S10_a_changed_expression_of_the_same_keys_concerns_what_is_placed_after_it(tmp_path: Path) -> None:
    broker, clock, sink = f"sqlite:///{tmp_path}/lake.db", VirtualClock(1.0), MemorySink()
    for expression in ("{carrier}", "{carrier: .carrier | ascii_downcase}"):
        app = App("expressions")
        lake = declared(app, expression, "!{partitionKeyFromQuery:carrier}/")
        async with app.running(clock=clock, broker=broker, handlers=False):
            await lake.put(Flight("UA"))
    async with app.running(clock=clock, broker=broker, sinks={"lake": sink}):
        await lake.flush()
    assert folders(list(sink.objects)) == ["UA", "ua"]


async def test_expressions_over_jq_fill_objects_like_any_other(tmp_path: Path) -> None:
    """S51: what is outside the part of jq that is built in runs in jq, from put to the file."""
    app = App("expressions", broker=f"sqlite:///{tmp_path}/lake.db")
    lake = declared(app, 'first(.carrier | scan("[A-Z]+"))')
    sink = MemorySink()
    async with app.running(sinks={"lake": sink}):
        await lake.put_many([Flight("UA-1"), Flight("AA-2"), Flight("UA-3")])
        await lake.flush()
    assert folders(list(sink.objects)) == ["AA", "UA"]
    (united,) = [gzip.decompress(body) for name, body in sink.objects.items() if name.startswith("UA/")]
    assert [json.loads(line)["carrier"] for line in united.splitlines()] == ["UA-1", "UA-3"]


def red(event: dict[str, Any], context: object) -> dict[str, Any]:
    """A function for Firehose that leaves records as they are and gives a key."""
    keys = {"partitionKeys": {"team": "red"}}
    return {
        "records": [
            {"recordId": each["recordId"], "result": "Ok", "data": each["data"], "metadata": keys}
            for each in event["records"]
        ]
    }


async def test_S53_S54_expressions_and_a_function_for_firehose_give_the_keys_of_a_prefix_together() -> None:
    app = App("expressions")
    prefix = "!{partitionKeyFromLambda:team}/!{partitionKeyFromQuery:carrier}/"
    lake = declared(app, "{carrier}", prefix)
    with pytest.raises(ConfigurationError, match="its prefix uses partition keys, and nothing gives them"):
        lake.plan()
    lake.lambda_transform(red)
    async with harness(app) as h:
        await lake.put_many([Flight("UA"), Flight(None)])
        await lake.flush()
        assert folders(list(h.objects(lake))) == ["errors/processing-failed", "red/UA"]
