"""What `encode` and `convert` wrote is read back record by record, and nothing is made of what is not whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from pipeflow.errors import ObjectDamaged
from pipeflow.formats import decompress, reading_back
from pipeflow.formats.convert import convert
from pipeflow.formats.decompress import decompressed
from pipeflow.formats.reading_back import Shape, checked, count, records, unreadable
from pipeflow.messages import Column, Records, Segment

EVERY = ["none", "gzip", "zstd", "zip", "snappy", "hadoop-snappy"]

COLUMNS = (
    Column("id", "string", True),
    Column("n", "int64"),
    Column("at", "timestamp"),
    Column("day", "date"),
    Column("price", "decimal(10,2)"),
    Column("tags", "list", fields=(Column("item", "string"),)),
    Column("counts", "map", fields=(Column("value", "int64"),)),
    Column("any", "json"),
    Column("raw", "binary"),
    Column("seen", "list", fields=(Column("item", "timestamp"),)),
    Column("last", "map", fields=(Column("value", "timestamp"),)),
    Column("one", "struct", fields=(Column("at", "timestamp"), Column("deep", "map", fields=(Column("v", "date"),)))),
)

ROWS: list[dict[str, Any]] = [
    {
        "id": f"r{n}, \"quoted\"\nline",
        "n": n if n % 3 else None,
        "at": "2013-01-01T05:15:00Z",
        "day": "2013-01-01",
        "price": "12.50",
        "tags": ["a", "b"] if n % 2 else [],
        "counts": {"x": n},
        "any": {"deep": [n, None]},
        "raw": "AAE=",
        "seen": ["2013-01-01T05:15:00.000001Z"],
        "last": {"x": "2013-01-01T00:00:00Z"},
        "one": {"at": "2013-01-01T00:00:00Z", "deep": {"y": "2013-01-02"}} if n % 2 else None,
    }
    for n in range(2_500)
]  # fmt: skip


def segment(**options: Any) -> Segment:
    made = Segment(1, "lake", "", 1, 1, 1, 1, 1.0, 2.0, "size", "lake-1", "jsonl", "none", b"\n")
    return replace(made, **{"errors_name": "errors/lake-1", **options})


def written(bodies: list[bytes], **options: Any) -> tuple[bytes, Shape]:
    sealed = segment(**options)
    made = convert(sealed, [Records(1, 1.0, bodies)])
    (content,) = made.objects[0].chunks
    return content, Shape(sealed.format, sealed.compression, sealed.delimiter, sealed.columns)


def back(content: bytes, shape: Shape) -> list[bytes]:
    return [body for batch in records(content, shape) for body in batch]


def packaged(compression: str) -> None:
    if "snappy" in compression:
        pytest.importorskip("cramjam", reason="snappy is an extra: pip install 'pipeflow[snappy]'")
    if compression == "zstd":
        pytest.importorskip("zstandard", reason="zstd is an extra: pip install 'pipeflow[fast]'")


@pytest.mark.parametrize("compression", EVERY)
def test_records_come_back_out_of_every_compression(compression: str) -> None:
    packaged(compression)
    bodies = [json.dumps({"n": n, "text": "x" * (n % 700)}).encode() for n in range(9_000)]
    content, shape = written(bodies, compression=compression)
    assert count(content, shape) == 9_000
    assert back(content, shape) == bodies


@pytest.mark.parametrize("compression", EVERY)
def test_no_more_than_a_few_pieces_of_a_large_object_are_in_memory_at_once(compression: str) -> None:
    packaged(compression)
    content, _ = written([b"x" * 1_000] * 20_000, compression=compression)
    pieces = list(map(len, decompressed(content, compression)))
    assert sum(pieces) == 20_020_000
    # A piece of snappy is one of its compressed bytes, which repeat here; and repetition is all that is small.
    assert max(pieces) <= decompress.PIECE or compression == "snappy"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "snappy"])
def test_streams_one_behind_the_other_are_one(compression: str) -> None:
    packaged(compression)
    first, shape = written([b"a", b"b"], compression=compression)
    second, _ = written([b"c"], compression=compression)
    assert back(first + second, shape) == [b"a", b"b", b"c"]


def test_delimiters_of_several_bytes_are_found_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "PIECE", 3)
    content, shape = written([b"one", b"", b"two"], format="raw", delimiter=b"####")
    assert back(content, shape) == [b"one", b"", b"two"]


def test_objects_without_borders_are_told_by_their_format() -> None:
    content, shape = written([b"a", b"b"], format="raw", delimiter=b"")
    assert "nobody can tell them apart again" in str(unreadable(shape))
    with pytest.raises(ObjectDamaged, match="format='raw' without a delimiter"):
        back(content, shape)
    assert unreadable(replace(shape, delimiter=b"\n")) is None
    assert unreadable(replace(shape, errors=True)) is None


@pytest.mark.parametrize("format", ["csv", "parquet", "orc"])
def test_rows_come_back_as_json_objects(format: str) -> None:
    if format != "csv":
        pytest.importorskip("pyarrow", reason="reads columnar files: pip install 'pipeflow[parquet]'")
    bodies = [json.dumps(row).encode() for row in ROWS]
    content, shape = written(bodies, format=format, columns=COLUMNS)
    assert count(content, shape) == len(ROWS)
    assert [json.loads(body) for body in back(content, shape)] == ROWS
    assert max(map(len, records(content, shape))) <= reading_back.ROWS


def test_a_cell_of_csv_is_what_its_column_says() -> None:
    columns = (Column("s", "string"), Column("t", "timestamp"), Column("j", "json"), Column("b", "bool"))
    content = b's,t,j,b,other\r\n5,1357017300.5,"text, no JSON",true,7\r\n,2013-01-01,"[1,""x""]",,\r\n'
    assert [json.loads(body) for body in back(content, Shape("csv", "none", columns=columns))] == [
        {"s": "5", "t": 1357017300.5, "j": "text, no JSON", "b": True, "other": "7"},
        {"s": None, "t": "2013-01-01", "j": [1, "x"], "b": None, "other": None},
    ]


def test_a_cell_of_csv_may_be_as_long_as_a_record() -> None:
    columns = (Column("s", "string"),)
    content, shape = written([json.dumps({"s": "x" * 500_000}).encode()], format="csv", columns=columns)
    (body,) = back(content, shape)
    assert len(json.loads(body)["s"]) == 500_000


def test_S60_S62_failed_records_come_back_as_they_came() -> None:
    columns = (Column("n", "int64"),)
    made = convert(segment(format="csv", columns=columns), [Records(1, 1.0, [b'{"n":1}', b"\xff nope", b'{"n":"x"}'])])
    (content,) = made.objects[1].chunks
    assert back(content, Shape("jsonl", "none", errors=True)) == [b"\xff nope", b'{"n":"x"}']


def test_what_is_not_what_was_written_is_told_before_anything_is_read() -> None:
    from zlib import crc32

    content, _ = written([b"a", b"b"])
    good = crc32(content)
    assert checked(content, size=len(content), crc=good) == content
    with pytest.raises(ObjectDamaged, match="it has 3 bytes, and 4 were written"):
        checked(content[:-1], size=len(content), crc=good)
    with pytest.raises(ObjectDamaged, match=f"its CRC-32 is .*, and {good:08x} was written"):
        checked(b"a\nc\n", size=len(content), crc=good)


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "orc"])
@pytest.mark.parametrize("compression", EVERY)
def test_rubbish_is_damage_whatever_it_is_called(format: str, compression: str) -> None:
    packaged(compression)
    if format in ("parquet", "orc"):
        pytest.importorskip("pyarrow", reason="reads columnar files: pip install 'pipeflow[parquet]'")
    shape = Shape(format, compression)
    for rubbish in (b"\x00\x01rubbish\xff" * 9, b'{"a":1}'):
        for read in (lambda: back(rubbish, shape), lambda: count(rubbish, shape)):  # noqa: B023  # called at once
            with pytest.raises(ObjectDamaged):
                read()


def test_an_object_that_ends_too_early_is_damage() -> None:
    content, shape = written([b"x" * 50] * 1000, compression="gzip")
    with pytest.raises(ObjectDamaged, match="it does not read as jsonl, gzip"):
        back(content[:-20], shape)
    with pytest.raises(ObjectDamaged, match="does not end in"):
        back(b"a\nb", replace(shape, compression="none"))
