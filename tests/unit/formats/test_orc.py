"""ORC objects, read back by pyarrow's reader as anybody would."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="reads ORC files back with pyarrow: pip install 'pipeflow[parquet]'")

import pyarrow as pa
import pyarrow.orc

from pipeflow.errors import ConfigurationError
from pipeflow.formats import orc
from pipeflow.formats.columns import columns_for
from pipeflow.formats.convert import Converted, convert
from pipeflow.messages import Column, Records, Segment
from pipeflow.specs import Compression, StreamSpec

NESTED = (
    Column("id", "int64", True),
    Column("tags", "list", fields=(Column("element", "string"),)),
    Column("counts", "map", fields=(Column("value", "int64", True),)),
    Column("item", "struct", fields=(Column("sku", "string", True), Column("at", "timestamp"))),
    Column("rest", "json"),
)


def converted(*bodies: bytes, columns: tuple[Column, ...] = NESTED, compression: str = "zstd") -> Converted:
    segment = Segment(
        1, "lake", "", 1, 9, 9, 99, 0.0, 2.5, "time", "l.orc", "orc", compression, b"", columns, "errors/l.jsonl"
    )
    return convert(segment, [Records(1, 1.5, list(bodies))])


def opened(made: Converted) -> Any:
    return pyarrow.orc.ORCFile(pa.BufferReader(b"".join(made.objects[0].chunks)))


def rows(made: Converted) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = opened(made).read().to_pylist()
    return found


def test_S64_json_becomes_orc_with_nested_values() -> None:
    made = converted(
        b'{"id":1,"tags":["a",null],"counts":{"x":2},"item":{"sku":"s","at":"2013-01-01T00:00:00Z"},"rest":[1.10]}',
        b'{"id":2,"unknown":1}',
    )
    assert rows(made) == [
        {
            "id": 1,
            "tags": ["a", None],
            "counts": [("x", 2)],
            "item": {"sku": "s", "at": datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC)},
            "rest": "[1.10]",
        },
        {"id": 2, "tags": None, "counts": None, "item": None, "rest": None},
    ]


@pytest.mark.parametrize(
    ("kind", "sent", "value"),
    [
        ("bool", "true", True),
        ("int8", "-128", -128),
        ("int64", "-9223372036854775808", -9223372036854775808),
        ("float32", "0.5", 0.5),
        ("float64", "3", 3.0),
        ("string", '"\\u00e9"', "é"),
        ("binary", '"aGk="', b"hi"),
        ("date", '"2013-01-31"', datetime.date(2013, 1, 31)),
        ("decimal(20,0)", "18446744073709551615", decimal.Decimal(18446744073709551615)),
        ("decimal(5,2)", "1.5", decimal.Decimal("1.50")),
        ("timestamp", '"1913-01-01T05:15:00.25Z"', datetime.datetime(1913, 1, 1, 5, 15, 0, 250000, datetime.UTC)),
        ("timestamp", "1357017300000", datetime.datetime(2013, 1, 1, 5, 15, tzinfo=datetime.UTC)),
        ("json", "null", None),
        ("json", '{"a": 1}', '{"a": 1}'),
    ],
)
def test_S64_every_type_reads_back(kind: str, sent: str, value: object) -> None:
    made = converted(b'{"v":%s}' % sent.encode(), b"{}", columns=(Column("v", kind),))
    assert rows(made) == [{"v": value}, {"v": None}]


def test_S62_values_that_no_column_takes_go_to_the_error_object_and_their_neighbours_do_not() -> None:
    columns = (Column("id", "int64", True), Column("d", "decimal(4,2)"))
    made = converted(b'{"id":1}', b'{"id":2,"d":"1.234"}', b"nope", b'{"id":"4"}', b'{"id":5}', columns=columns)
    assert [row["id"] for row in rows(made)] == [1, 5]
    found = [json.loads(line) for line in b"".join(made.objects[1].chunks).splitlines()]
    assert [(error["sequenceNumber"], error["lastErrorCode"]) for error in found] == [
        ("2", "DataFormatConversion.MalformedData"),
        ("3", "DataFormatConversion.ParseError"),
        ("4", "DataFormatConversion.MalformedData"),
    ]
    assert made.manifest.failed == 3


@pytest.mark.parametrize("sent", ["9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_S62_times_that_would_make_the_file_unreadable_do_not_fit_wherever_they_stand(sent: str) -> None:
    columns = (
        Column("at", "timestamp"),
        Column("list", "list", fields=(Column("element", "timestamp"),)),
        Column("item", "struct", fields=(Column("at", "timestamp"),)),
    )
    far = json.dumps(sent).encode()
    made = converted(
        b'{"at":%s}' % far, b'{"list":[%s]}' % far, b'{"item":{"at":%s}}' % far, b'{"at":0}', columns=columns
    )
    assert [row["at"].timestamp() for row in rows(made)] == [0]
    assert made.manifest.failed == 3


def test_S62_without_a_row_there_is_no_file() -> None:
    assert [obj.name for obj in converted(b"nope").objects] == ["errors/l.jsonl"]


@pytest.mark.parametrize(
    ("compression", "codec"), [("zstd", "ZSTD"), ("snappy", "SNAPPY"), ("gzip", "ZLIB"), ("none", "UNCOMPRESSED")]
)
def test_S67_the_compression_is_inside_the_file(compression: str, codec: str) -> None:
    made = converted(b'{"id":1}', compression=compression)
    assert b"".join(made.objects[0].chunks)[:3] == b"ORC"
    assert opened(made).compression == codec


def test_S68_one_object_is_one_file_with_all_rows_in_bounded_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orc, "STRIPE_BYTES", 100_000)
    count = 45_000
    made = converted(*[b'{"id":%d,"tags":["t%d"]}' % (n * n, n) for n in range(count)], compression="none")
    (obj,) = made.objects
    file = opened(made)
    assert file.nstripes > 3
    assert [row["id"] for row in rows(made)] == [n * n for n in range(count)]
    assert obj.records == made.manifest.objects[0].records == count


def test_p17_the_same_segment_gives_the_same_bytes_in_any_zone() -> None:
    program = (
        "import hashlib, test_orc;"
        'made = test_orc.converted(*[b\'{"id":%d,"item":{"sku":"s","at":1357017300}}\' % n for n in range(9000)]);'
        "print(hashlib.sha256(made.objects[0].chunks[0]).hexdigest())"
    )
    folder = os.path.dirname(__file__)
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "TZ": zone, "PYTHONPATH": os.pathsep.join([folder, *sys.path])},
        ).stdout
        for zone in ("UTC", "Asia/Tokyo")
    }
    assert len(found) == 1


def test_unsigned_numbers_are_refused_when_the_stream_is_declared_wherever_they_stand() -> None:
    for schema in ({"n": "uint32"}, {"n": "list<uint8>"}):
        with pytest.raises(ConfigurationError, match=r"ORC has no unsigned numbers; use int64"):
            columns_for(bytes, "orc", schema=schema)
    assert columns_for(bytes, "orc", schema={"n": "int32"}) == (Column("n", "int32"),)


@pytest.mark.parametrize("compression", ["zip", "hadoop-snappy"])
def test_S48_compressions_of_whole_objects_are_refused(compression: Compression) -> None:
    with pytest.raises(ConfigurationError, match="is for whole objects"):
        StreamSpec("lake", "memory://lake", format="orc", compression=compression, columns=NESTED)


def test_levels_are_refused_because_orc_has_none() -> None:
    with pytest.raises(ConfigurationError, match="format='orc' has no levels"):
        StreamSpec("lake", "memory://lake", format="orc", compression="zstd", compression_level=3, columns=NESTED)
