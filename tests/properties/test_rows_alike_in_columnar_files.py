"""Parquet and ORC hold the same rows of whatever records, and set the same ones aside; csv none that they take."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="reads columnar files back with pyarrow: pip install 'pipeflow[parquet]'")

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet

from pipeflow.formats.columns import columns_for
from pipeflow.formats.convert import Converted, convert
from pipeflow.messages import Records, Segment

SCHEMA = {
    "id": "int64 not null", "b": "bool", "i": "int8", "f": "float64", "s": "string", "x": "binary", "day": "date",
    "at": "timestamp", "d": "decimal(10,2)", "tags": "list<string>", "ats": "list<timestamp>", "rest": "json",
}  # fmt: skip

VALUES: dict[str, st.SearchStrategy[object]] = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "b": st.booleans(),
    "i": st.integers(-130, 130),
    "f": st.floats(allow_nan=False, allow_infinity=False),
    "s": st.text(),
    "x": st.sampled_from(["", "aGk=", "!!"]),
    "day": st.dates().map(str),
    "at": st.one_of(
        st.datetimes().map(lambda at: f"{at.isoformat()}Z"), st.integers(-(10**10), 2 * 10**12), st.floats()
    ),
    "d": st.sampled_from(["1.25", "-0.5", 7, 1.5, "99999999.99", "1e3", "1.234", "NaN"]),
    "tags": st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=3),
    "ats": st.lists(st.sampled_from([None, "2013-01-01T00:00:00.5Z", "1969-12-31T23:59:59.999999Z"]), max_size=3),
    "rest": st.recursive(st.one_of(st.none(), st.integers(), st.text()), st.lists, max_leaves=4),
}
STRANGE = st.one_of(st.none(), st.sampled_from(["x", 1, 2.5, [], {}, True, 10**30, "2013-01-01"]))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """One that fits more often than not."""
    found = {"id": draw(VALUES["id"])}
    for name in draw(st.sets(st.sampled_from(list(VALUES)))):
        found[name] = draw(VALUES[name] if draw(st.integers(0, 9)) else STRANGE)
    text = json.dumps(found, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "replace") * draw(st.sampled_from([1, 1, 1, 2]))


def converted(format: str, bodies: list[bytes]) -> Converted:
    columns = columns_for(bytes, "parquet", schema=SCHEMA)
    segment = Segment(
        1, "lake", "", 1, len(bodies), len(bodies), 1, 0.0, 1.0, "time", "rows", format, "none", b"", columns, "errors"
    )
    return convert(segment, [Records(1, 0.0, bodies)])


def parts(made: Converted) -> tuple[bytes | None, list[str]]:
    """(the file of rows, the sequences of the records that did not fit)."""
    found = {obj.name: b"".join(obj.chunks) for obj in made.objects}
    return found.get("rows"), [json.loads(line)["sequenceNumber"] for line in found.get("errors", b"").splitlines()]


@settings(max_examples=150, deadline=None)
@given(st.lists(records(), min_size=1, max_size=20))
def test_S62_S64_S68_parquet_and_orc_hold_the_same_rows_and_set_the_same_records_aside(bodies: list[bytes]) -> None:
    parquet, parquet_errors = parts(converted("parquet", bodies))
    orc, orc_errors = parts(converted("orc", bodies))
    sheet, csv_errors = parts(converted("csv", bodies))
    assert set(parquet_errors) <= set(orc_errors)
    assert set(csv_errors) <= set(parquet_errors)
    if orc_errors == parquet_errors and parquet is not None:
        assert orc is not None
        rows = pyarrow.orc.read_table(pa.BufferReader(orc))
        same = pyarrow.parquet.read_table(pa.BufferReader(parquet)).cast(rows.schema)
        assert str(same.to_pylist()) == str(rows.to_pylist())
        if csv_errors == parquet_errors:
            assert sheet is not None
            cells = list(csv.DictReader(io.StringIO(sheet.decode(), newline="")))
            assert [int(cell["id"]) for cell in cells] == [row["id"] for row in rows.to_pylist()]
            assert [cell["s"] for cell in cells] == [row["s"] or "" for row in rows.to_pylist()]
