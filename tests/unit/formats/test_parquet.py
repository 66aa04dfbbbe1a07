"""Parquet objects, read back by pyarrow as anybody would."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="reads Parquet files back with pyarrow: pip install 'pipeflow[parquet]'")

import pyarrow as pa
import pyarrow.parquet as pq

from pipeflow.formats import parquet
from pipeflow.formats.convert import Converted, convert
from pipeflow.messages import Column, Records, Segment

NESTED = (
    Column("id", "int64", True),
    Column("tags", "list", fields=(Column("element", "string"),)),
    Column("counts", "map", fields=(Column("value", "int64", True),)),
    Column("item", "struct", fields=(Column("sku", "string", True), Column("at", "timestamp"))),
    Column("rest", "json"),
)


def converted(*bodies: bytes, columns: tuple[Column, ...] = NESTED, compression: str = "zstd") -> Converted:
    segment = Segment(
        1, "lake", "", 1, 9, 9, 99, 0.0, 2.5, "time", "l.parquet", "parquet", compression, b"", columns,
        "errors/l.jsonl",
    )  # fmt: skip
    return convert(segment, [Records(1, 1.5, list(bodies))])


def read(made: Converted) -> Any:
    return pq.read_table(pa.BufferReader(b"".join(made.objects[0].chunks)))


def errors(made: Converted) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(made.objects[-1].chunks).splitlines()]


def test_S64_json_becomes_parquet_with_nested_values() -> None:
    made = converted(
        b'{"id":1,"tags":["a",null],"counts":{"x":2},"item":{"sku":"s","at":"2013-01-01T00:00:00Z"},"rest":[1.10]}',
        b'{"id":2,"unknown":1}',
    )
    first, second = read(made).to_pylist()
    assert first == {
        "id": 1,
        "tags": ["a", None],
        "counts": [("x", 2)],
        "item": {"sku": "s", "at": datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)},
        "rest": "[1.10]",
    }
    assert second == {"id": 2, "tags": None, "counts": None, "item": None, "rest": None}


@pytest.mark.parametrize(
    ("kind", "sent", "value"),
    [
        ("bool", "true", True),
        ("int8", "-128", -128),
        ("uint64", "18446744073709551615", 18446744073709551615),
        ("float32", "0.5", 0.5),
        ("float64", "3", 3.0),
        ("string", '"\\u00e9"', "é"),
        ("binary", '"aGk="', b"hi"),
        ("date", '"2013-01-31"', datetime.date(2013, 1, 31)),
        ("decimal(5,2)", '"1.25"', decimal.Decimal("1.25")),
        ("decimal(5,2)", "1.5", decimal.Decimal("1.50")),
        ("json", '"text"', '"text"'),
        ("json", "null", None),
    ],
)
def test_S64_every_type_reads_back(kind: str, sent: str, value: object) -> None:
    made = converted(b'{"v":%s}' % sent.encode(), columns=(Column("v", kind),))
    assert read(made).to_pylist() == [{"v": value}]


@pytest.mark.parametrize(
    "sent",
    ['"2013-01-01T05:15:00Z"', '"2013-01-01 05:15:00"', '"2013-01-01T06:15:00+01:00"', "1357017300", "1357017300000",
     "1357017300.0"],
)  # fmt: skip
def test_S64_times_may_be_text_seconds_or_milliseconds_and_without_a_zone_are_utc(sent: str) -> None:
    made = converted(b'{"v":%s}' % sent.encode(), columns=(Column("v", "timestamp"),))
    assert read(made).to_pylist() == [{"v": datetime.datetime(2013, 1, 1, 5, 15, tzinfo=datetime.UTC)}]


def test_S62_values_that_no_column_takes_go_to_the_error_object_and_their_neighbours_do_not() -> None:
    columns = (Column("id", "int64", True), Column("d", "decimal(4,2)"), Column("u", "uint64"), Column("i", "int8"))
    made = converted(
        b'{"id":1}', b'{"id":2,"d":"1.234"}', b'{"id":3,"u":18446744073709551616}', b'{"id":4,"i":128}',
        b'{"id":5,"d":"1.23"}{"id":6,"d":"123.45"}', b"nope", b'{"id":7}', columns=columns,
    )  # fmt: skip
    assert read(made).column("id").to_pylist() == [1, 7]
    assert [error["sequenceNumber"] for error in errors(made)] == ["2", "3", "4", "5", "6"]
    assert {error["lastErrorCode"] for error in errors(made)[:4]} == {"DataFormatConversion.MalformedData"}
    assert "`$.d`" in errors(made)[0]["lastErrorMessage"]
    assert made.manifest.failed == 5


@pytest.mark.parametrize("sent", ["6.77680361916768e+19", "-6.7e19", "1e300", "-1e15"])
def test_S62_numbers_that_are_no_times_do_not_fit(sent: str) -> None:
    columns = (Column("id", "int64"), Column("at", "timestamp"))
    made = converted(b'{"id":1,"at":0}', b'{"id":2,"at":%s}' % sent.encode(), columns=columns)
    assert read(made).column("id").to_pylist() == [1]
    assert made.manifest.failed == 1


def test_S66_strings_for_numeric_columns_do_not_fit() -> None:
    made = converted(b'{"id":"1"}')
    assert [obj.name for obj in made.objects] == ["errors/l.jsonl"]


@pytest.mark.parametrize(
    ("compression", "codec"), [("zstd", "ZSTD"), ("snappy", "SNAPPY"), ("gzip", "GZIP"), ("none", "UNCOMPRESSED")]
)
def test_S67_the_compression_is_inside_the_file(compression: str, codec: str) -> None:
    made = converted(b'{"id":1}', compression=compression)
    content = b"".join(made.objects[0].chunks)
    assert content[:4] == content[-4:] == b"PAR1"
    assert pq.read_metadata(pa.BufferReader(content)).row_group(0).column(0).compression == codec


def test_S68_one_object_is_one_file_with_all_rows_in_bounded_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 20_000)
    bodies = [b'{"id":%d,"tags":["t%d"]}' % (n, n) for n in range(45_000)]
    made = converted(*bodies)
    (obj,) = made.objects
    metadata = pq.read_metadata(pa.BufferReader(b"".join(obj.chunks)))
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [20_000, 20_000, 5_000]
    assert read(made).column("id").to_pylist() == list(range(45_000))
    assert obj.records == made.manifest.objects[0].records == 45_000


def test_p17_the_same_segment_gives_the_same_bytes() -> None:
    bodies = [b'{"id":%d,"tags":["a"],"counts":{"x":1}}' % n if n % 5 else b'{"id":"x"}' for n in range(25_000)]
    assert converted(*bodies) == converted(*bodies)
