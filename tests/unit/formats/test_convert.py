"""csv and Parquet: sealed records become rows, and what does not fit lies beside them with the reason."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import zlib

import pytest

from pipeflow.formats.convert import Converted, convert
from pipeflow.formats.rows import SLICE
from pipeflow.messages import Column, Records, Segment

COLUMNS = (Column("id", "int64", True), Column("name", "string"), Column("rest", "json"))


def sealed(columns: tuple[Column, ...] = COLUMNS, compression: str = "none") -> Segment:
    return Segment(
        1, "lake", "", 1, 9, 9, 99, 0.0, 2.5, "time", "lake-1.csv", "csv", compression, b"", columns,
        "errors/lake-1.jsonl",
    )  # fmt: skip


def converted(*bodies: bytes, columns: tuple[Column, ...] = COLUMNS) -> Converted:
    return convert(sealed(columns), [Records(1, 1.5, list(bodies))])


def text(made: Converted) -> str:
    return b"".join(made.objects[0].chunks).decode()


def errors(made: Converted) -> list[dict[str, object]]:
    return [json.loads(line) for line in b"".join(made.objects[-1].chunks).splitlines()]


def test_an_object_begins_with_its_header_and_ends_its_lines_as_rfc_4180_says() -> None:
    assert text(converted(b'{"id":1,"name":"ada","rest":2.50}')) == "id,name,rest\r\n1,ada,2.50\r\n"


def test_quotes_commas_and_line_ends_read_back() -> None:
    names = ['say "hi"', "a,b", "two\nlines", "two\r\nlines", " spaced ", "é", ""]
    made = converted(*[json.dumps({"id": n, "name": name}).encode() for n, name in enumerate(names)])
    rows = list(csv.DictReader(io.StringIO(text(made), newline="")))
    assert [row["name"] for row in rows] == names


@pytest.mark.parametrize("text_", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "\ufeffa", "a\x00b", "\x1a"])
def test_a_cell_is_the_text_of_its_value_whatever_a_spreadsheet_would_make_of_it(text_: str) -> None:
    made = converted(json.dumps({"id": 1, "name": text_}).encode())
    (row,) = csv.DictReader(io.StringIO(text(made), newline=""))
    assert row["name"] == text_


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("a\rb", '1,"a\rb",'),
        ("\n", '1,"\n",'),
        ('"', '1,"""",'),
        ('a"b', '1,"a""b",'),
        (",", '1,",",'),
        ("a;b", "1,a;b,"),
        (" a ", "1, a ,"),
        ("a\tb", "1,a\tb,"),
        ("\u2028", "1,\u2028,"),
    ],
)
def test_fields_are_quoted_where_rfc_4180_needs_it_and_spaces_are_theirs(value: str, line: str) -> None:
    assert text(converted(json.dumps({"id": 1, "name": value}).encode())) == f"id,name,rest\r\n{line}\r\n"


def test_a_header_is_quoted_like_any_line() -> None:
    columns = (Column("id, please", "int64"), Column("=name", "string"))
    assert text(converted(b'{"id, please":1}', columns=columns)) == '"id, please",=name\r\n1,\r\n'


def test_a_row_of_one_empty_cell_is_not_an_empty_line_that_readers_skip() -> None:
    made = converted(b"{}", b'{"name":""}', b'{"name":"a"}', columns=(Column("name", "string"),))
    assert text(made) == 'name\r\n""\r\n""\r\na\r\n'
    assert [row["name"] for row in csv.DictReader(io.StringIO(text(made), newline=""))] == ["", "", "a"]


def test_nested_values_are_json_text_strings_are_their_text_and_null_is_nothing() -> None:
    made = converted(
        b'{"id":1,"rest":{"a": [1, 2]}}', b'{"id":2,"rest":"plain \\u00e9"}', b'{"id":3,"rest":null}',
        b'{"id":4,"rest":true}', b'{"id":5,"rest":1e400}',
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(text(made), newline="")))
    assert [row["rest"] for row in rows] == ['{"a": [1, 2]}', "plain é", "", "true", "1e400"]


def test_values_with_a_type_are_written_as_json_has_them() -> None:
    columns = (Column("b", "bool"), Column("f", "float64"), Column("t", "timestamp"), Column("x", "binary"))
    made = converted(b'{"b":false,"f":1e-7,"t":"2013-01-01T05:15:00Z","x":"aGk="}', b'{"f":3}', columns=columns)
    assert text(made).splitlines()[1:] == ["false,1e-7,2013-01-01T05:15:00Z,aGk=", ",3.0,,"]


def test_S66_unknown_keys_are_ignored_and_missing_ones_are_null_or_the_default_they_stand_for() -> None:
    columns = (*COLUMNS, Column("state", "string", default=b'"new"'))
    assert text(converted(b'{"zz":[],"id":1}', columns=columns)).endswith("1,,,new\r\n")


def test_S65_several_documents_in_one_record_are_several_rows() -> None:
    made = converted(b'{"id":1}{"id":2}\n {"id":3}', b'{"id":4}')
    assert [line.split(",")[0] for line in text(made).split("\r\n")[1:-1]] == ["1", "2", "3", "4"]
    assert (made.manifest.objects[0].records, made.manifest.failed) == (4, 0)


def test_S62_what_does_not_fit_lies_beside_the_good_ones_once_with_the_reason() -> None:
    bad = {
        b"nope": ("ParseError", "malformed"),
        b"": ("ParseError", "truncated"),
        b'{"id":1': ("ParseError", "truncated"),
        b'{"id":"1"}': ("MalformedData", "`$.id`"),
        b'{"name":"x"}': ("MalformedData", "required field `id`"),
        b'{"id":null}': ("MalformedData", "`$.id`"),
        b'[{"id":1}]': ("MalformedData", "got `array`"),
        b'{"id":1}{"id":"2"}': ("MalformedData", "`$[1].id`"),
        b'{"id":9223372036854775808}': ("MalformedData", "`$.id`"),
        b'{"id":1,"name":"\xff"}': ("ParseError", "utf-8"),
        b'{"id":1,"rest":"\xff"}': ("MalformedData", "utf-8"),
        b'{"id":1,"rest":"\\ud800"}': ("ParseError", "truncated"),
    }
    made = converted(b'{"id":1}', *bad, b'{"id":2}')
    assert [line.split(",")[0] for line in text(made).split("\r\n")] == ["id", "1", "2", ""]
    assert made.manifest.failed == len(bad)
    assert [(facts.name, facts.records) for facts in made.manifest.objects] == [
        ("lake-1.csv", 2),
        ("errors/lake-1.jsonl", len(bad)),
    ]
    for sequence, (error, (body, (code, reason))) in enumerate(zip(errors(made), bad.items(), strict=True), 2):
        assert base64.b64decode(str(error["rawData"])) == body
        assert error["lastErrorCode"] == f"DataFormatConversion.{code}"
        assert reason in str(error["lastErrorMessage"])
        assert error["sequenceNumber"] == str(sequence)


def test_S62_an_error_record_has_the_members_of_firehose() -> None:
    (error,) = errors(converted(b"nope"))
    assert error.pop("lastErrorMessage")
    assert error == {
        "attemptsMade": 1,
        "arrivalTimestamp": 1500,
        "lastErrorCode": "DataFormatConversion.ParseError",
        "attemptEndingTimestamp": 2500,
        "rawData": "bm9wZQ==",
        "sequenceNumber": "1",
        "subSequenceNumber": None,
        "dataCatalogTable": None,
    }


def test_S66_one_document_that_does_not_fit_fails_its_record() -> None:
    made = converted(b'{"id":1}{"id":2,"rest":"\xff"}{"id":3}', b'{"id":4}')
    assert text(made) == "id,name,rest\r\n4,,\r\n"
    assert len(errors(made)) == 1


def test_without_a_row_there_is_no_object_of_rows() -> None:
    made = converted(b"nope")
    assert [obj.name for obj in made.objects] == ["errors/lake-1.jsonl"]


def test_halves_of_records_never_make_a_whole() -> None:
    made = converted(b'{"id":1', b',"name":"x"}', b'{"id":2},{"id":3}', b'{"id":4}')
    assert text(made) == "id,name,rest\r\n4,,\r\n"
    assert made.manifest.failed == 3


def test_p17_the_same_segment_gives_the_same_objects_however_it_was_accepted() -> None:
    bodies = [b'{"id":%d}' % n if n % 7 else b"{" for n in range(SLICE + 50)]
    first = convert(sealed(compression="gzip"), [Records(1, 1.5, bodies)])
    again = convert(sealed(compression="gzip"), [Records(1, 1.5, bodies[:70]), Records(71, 1.5, bodies[70:])])
    assert first == again
    for obj, facts in zip(first.objects, first.manifest.objects, strict=True):
        content = b"".join(obj.chunks)
        assert (facts.name, facts.size, facts.crc) == (obj.name, len(content), zlib.crc32(content))
    assert len(gzip.decompress(first.objects[0].chunks[0]).splitlines()) == first.manifest.objects[0].records + 1
    assert len(gzip.decompress(first.objects[1].chunks[0]).splitlines()) == first.manifest.failed


@pytest.mark.parametrize("replace", [True, False])
def test_both_objects_say_whether_they_may_replace(replace: bool) -> None:
    made = convert(sealed(), [Records(1, 1.5, [b'{"id":1}', b"nope"])], replace)
    assert [obj.replace for obj in made.objects] == [replace, replace]
